//go:build soak

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// storm is traffic through a real Postfix, with lookups and messages beside it whose time is taken.
type storm struct {
	*exchanger
	redis             *redisd.Server
	lookups, messages []time.Duration
	sent              int
}

// prober is the client of the messages beside the traffic.
const prober = "192.0.2.200"

// probe asks and sends as long as something goes on. While the daemon is away there is nothing to
// take the time of.
func (s *storm) probe(stop <-chan struct{}) {
	mta := mx.NewMTA(s.daemon)
	for {
		select {
		case <-stop:
			return
		case <-time.After(10 * time.Millisecond):
		}
		if table, err := mx.NewTable(s.daemon); err == nil {
			if _, took, err := table.Lookup(prober); err == nil {
				s.lookups = append(s.lookups, took)
			}
			table.Close()
		}
		if took, err := mta.Message(netip.MustParseAddr(prober), false); err == nil {
			s.messages = append(s.messages, took)
			s.sent++
		}
	}
}

// learnt is the ham that all hosts are known for, as a dump has it.
func (s *storm) learnt() (n int) {
	s.t.Helper()
	path := filepath.Join(tempDir(s.t), "dump")
	s.command("dump", path)
	f, err := os.Open(path)
	must(s.t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct {
			Network  netip.Prefix
			Evidence []byte
		}
		must(s.t, json.Unmarshal(lines.Bytes(), &line))
		if line.Network.IsValid() && line.Network.Bits() == 32 {
			var e reputation.Evidence
			must(s.t, e.UnmarshalBinary(line.Evidence))
			n += int(e.Total().Ham + 0.5)
		}
	}
	return n
}

// heard is how many messages of ham the event logs have, or the daemon has counted.
func (s *storm) heard(unlogged bool) (n int) {
	s.t.Helper()
	if unlogged {
		var status struct{ Heard struct{ Ham int } }
		must(s.t, json.Unmarshal([]byte(s.command("status", "--json")), &status))
		return status.Heard.Ham
	}
	logs, err := filepath.Glob(filepath.Join(s.daemon.Dir, "data", "events.ndjson*"))
	must(s.t, err)
	for _, l := range logs {
		b, err := os.ReadFile(l)
		must(s.t, err)
		for line := range strings.Lines(string(b)) {
			var e mx.Event
			must(s.t, json.Unmarshal([]byte(line), &e))
			if e.Event == "message" && e.Verdict.Class == "ham" {
				n++
			}
		}
	}
	return n
}

// happening is something that happens to a daemon, or to what is around it, under traffic.
type happening struct {
	name string
	// redis says that evidence is kept in a Redis.
	redis bool
	// ipv4 says that there is no IPv6.
	ipv4 bool
	// start is how the daemon is started, nil for as usual.
	start func(*storm)
	// happens, for some seconds.
	happens func(*storm)
	// refused says that Postfix itself refuses sessions meanwhile.
	refused bool
	// unlogged says that events are missing from the event log meanwhile, and are counted.
	unlogged bool
	// slow is how long lookups and ends of messages may take, where that is longer than usual.
	slow time.Duration
	// cut is how many messages may be in the event log and not learnt, or learnt and not there,
	// because the daemon was killed between the two.
	cut int
}

// through lets it happen. No session is refused but where Postfix itself is hit; no lesson is lost
// or doubled; lookups and ends of messages stay quick while the daemon runs.
func (h happening) through(t *testing.T) { h.storm(t).endure(t, h) }

// endure is through with all started already.
func (s *storm) endure(t *testing.T, h happening) {
	s.lookups, s.messages, s.sent = nil, nil, 0
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { s.probe(stop); close(stopped) }()
	tr := s.traffic(3)
	tr.waitDelivered(t, 10)
	h.happens(s)
	tr.waitDelivered(t, 10)
	tr.stop()
	close(stop)
	<-stopped
	heard, learnt := s.settled(h.unlogged)
	lost, doubled := max(0, heard-learnt), max(0, learnt-heard)
	lookup, eom := percentile(s.lookups, 0.99).Round(10*time.Microsecond), percentile(s.messages, 0.99).Round(10*time.Microsecond)
	t.Logf("%d messages through Postfix and %d beside, %d sessions refused; %d heard, %d learnt: %d lost, %d doubled; p99 of lookups %v, of ends of message %v",
		tr.delivered.Load(), s.sent, len(tr.failed), heard, learnt, lost, doubled, lookup, eom)
	if h.cut > 0 {
		t.Log("a message that was being answered when the daemon was killed may be in the event log alone; the MTA was not answered, and took it without us")
	}
	if h.refused {
		t.Log("the sessions were refused by Postfix, which was hit itself")
	}
	if len(tr.failed) > 0 && !h.refused {
		t.Errorf("%d sessions refused, the first: %v", len(tr.failed), tr.failed[0])
	}
	if lost > h.cut || doubled > h.cut {
		t.Errorf("%d lessons lost, %d doubled", lost, doubled)
	}
	if most := max(h.slow, 250*time.Millisecond); lookup > most || eom > most {
		t.Errorf("lookups take %v, ends of message %v", lookup, eom)
	}
	if n, err := s.daemon.Metric("ehlogate_panics_total"); err != nil || n != 0 {
		t.Errorf("%v panics, %v", n, err)
	}
}

// storm starts what it happens to.
func (h happening) storm(t *testing.T) *storm {
	s := &storm{}
	url := ""
	if h.redis {
		var err error
		// What it has acknowledged is on its disk.
		s.redis, err = redisd.New(filepath.Join(tempDir(t), "redis"), "--appendonly", "yes", "--appendfsync", "always")
		must(t, err)
		must(t, s.redis.Start())
		t.Cleanup(s.redis.Stop)
		url = "redis://" + s.redis.Addr()
	}
	s.exchanger = prepareOn(t, url, "")
	s.daemon.Binary = plain
	// master(8) starts no more of a service whose processes die at once, by default for a minute.
	must(t, s.Set("service_throttle_time = 1s"))
	if h.ipv4 {
		must(t, s.Set("inet_protocols = ipv4"))
		must(t, s.RemoveService(fmt.Sprintf("[::1]:%d/inet", s.Port)))
	}
	s.apply()
	if h.start != nil {
		h.start(s)
	} else {
		must(t, s.daemon.Start())
	}
	must(t, s.Postfix.Start())
	t.Cleanup(func() { must(t, s.Postfix.Stop()) })
	return s
}

// settled is heard and learnt when they are equal, or after some seconds: a lesson waits 100 ms for
// its commit, and for Redis until that is back.
func (s *storm) settled(unlogged bool) (heard, learnt int) {
	for range 20 {
		time.Sleep(500 * time.Millisecond)
		if heard, learnt = s.heard(unlogged), s.learnt(); heard == learnt {
			break
		}
	}
	return heard, learnt
}

// TestMailComesInWhateverHappens lets things happen to a daemon, to its Postfix and its Redis,
// under traffic.
func TestMailComesInWhateverHappens(t *testing.T) {
	wait := func(s *storm) { time.Sleep(2 * time.Second) }
	killed := func(s *storm) {
		for range 5 {
			time.Sleep(300 * time.Millisecond)
			s.daemon.Kill()
			time.Sleep(200 * time.Millisecond)
			must(s.t, s.daemon.Start())
		}
	}
	for _, h := range []happening{
		{name: "nothing", happens: wait},
		{name: "the daemon is killed five times", happens: killed, slow: 2 * time.Second, cut: 30},
		{name: "the daemon hangs for three seconds", happens: func(s *storm) {
			must(s.t, s.daemon.Signal(syscall.SIGSTOP))
			time.Sleep(3 * time.Second)
			must(s.t, s.daemon.Signal(syscall.SIGCONT))
			time.Sleep(time.Second)
		}, slow: 4 * time.Second},
		{name: "Postfix's processes are killed", happens: func(s *storm) {
			for range 5 {
				time.Sleep(400 * time.Millisecond)
				for _, pid := range s.smtpds() {
					syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}, refused: true},
		{name: "Postfix's processes hang for two seconds", happens: func(s *storm) {
			pids := s.smtpds()
			for _, pid := range pids {
				syscall.Kill(pid, syscall.SIGSTOP)
			}
			time.Sleep(2 * time.Second)
			for _, pid := range pids {
				syscall.Kill(pid, syscall.SIGCONT)
			}
			time.Sleep(time.Second)
		}},
		{name: "Postfix's master is killed, and started again", happens: func(s *storm) {
			s.signalMaster(syscall.SIGKILL)
			must(s.t, redisd.Until(s.Postfix.Start))
		}, refused: true},
		{name: "Postfix's master hangs for two seconds", happens: func(s *storm) {
			s.signalMaster(syscall.SIGSTOP)
			time.Sleep(2 * time.Second)
			s.signalMaster(syscall.SIGCONT)
		}},
		{name: "nothing, with Redis", redis: true, happens: wait},
		{name: "Redis is killed and is away for two seconds, twice", redis: true, happens: func(s *storm) {
			for range 2 {
				s.redis.Kill()
				time.Sleep(2 * time.Second)
				must(s.t, s.redis.Start())
				time.Sleep(time.Second)
			}
		}},
		{name: "Redis hangs for three seconds", redis: true, happens: func(s *storm) {
			s.redis.Pause()
			time.Sleep(3 * time.Second)
			s.redis.Resume()
			time.Sleep(time.Second)
		}},
		{name: "the daemon is killed five times, with Redis", redis: true, happens: killed, slow: 2 * time.Second, cut: 30},
		{name: "Redis asks for a password for two seconds", redis: true, happens: func(s *storm) {
			port := strconv.Itoa(s.redis.Port)
			for _, args := range [][]string{{"CONFIG", "SET", "requirepass", "secret"}, {"-a", "secret", "CLIENT", "KILL", "TYPE", "normal"}} {
				_, err := redisd.CLI(append([]string{"-p", port}, args...)...)
				must(s.t, err)
			}
			time.Sleep(2 * time.Second)
			_, err := redisd.CLI("-p", port, "-a", "secret", "CONFIG", "SET", "requirepass", "")
			must(s.t, err)
			time.Sleep(time.Second)
		}},
		{name: "the disk is full for two seconds", start: func(s *storm) {
			s.onASmallDisk()
			must(s.t, s.daemon.Start())
		}, happens: func(s *storm) {
			ballast := s.fillDisk()
			time.Sleep(2 * time.Second)
			must(s.t, os.Remove(ballast))
			time.Sleep(time.Second)
		}, unlogged: true},
		{name: "the store's file is overwritten while it is open", happens: func(s *storm) {
			f, err := os.OpenFile(s.store(), os.O_WRONLY, 0)
			must(s.t, err)
			_, err = f.WriteAt(make([]byte, 64<<10), 0)
			must(s.t, err)
			must(s.t, f.Close())
			time.Sleep(2 * time.Second)
		}},
		{name: "the store's file is removed while it is open", happens: func(s *storm) {
			must(s.t, os.Remove(s.store()))
			time.Sleep(2 * time.Second)
		}},
		{name: "a thousand verdicts a second are posted", happens: func(s *storm) {
			stop := s.post()
			time.Sleep(3 * time.Second)
			s.t.Logf("%d posted", stop())
		}},
		{name: "dumps and exports without end", happens: func(s *storm) {
			for range 10 {
				s.command("dump", filepath.Join(s.t.TempDir(), "dump"))
				s.command("export")
			}
		}},
		{name: "2,000 reloads", happens: func(s *storm) {
			for range 2000 {
				must(s.t, s.daemon.Signal(syscall.SIGHUP))
				time.Sleep(2 * time.Millisecond)
			}
		}},
		{name: "the event log is rotated every second", happens: func(s *storm) {
			log := filepath.Join(s.daemon.Dir, "data", "events.ndjson")
			for i := range 3 {
				time.Sleep(time.Second)
				must(s.t, os.Rename(log, fmt.Sprint(log, ".", i)))
				must(s.t, s.daemon.Signal(syscall.SIGHUP))
			}
		}},
		{name: "64 file descriptors, and 200 idle connections", start: func(s *storm) {
			must(s.t, s.daemon.StartAs(exec.Command("prlimit", "--nofile=64", s.daemon.Binary, "serve", "--config", s.daemon.Config())))
		}, happens: func(s *storm) {
			attack(s.t, s.daemon.Memcache, 100, false, nil)
			attack(s.t, s.daemon.HTTP, 100, false, nil)
			wait(s)
		}},
		{name: "24 MiB of memory", start: func(s *storm) { must(s.t, s.daemon.StartAs(within(s.t, 24<<20, s.daemon))) }, happens: wait, slow: 2 * time.Second},
		{name: "a disk that takes 300 ms for each sync", start: func(s *storm) {
			// strace -D leaves the daemon our child.
			must(s.t, s.daemon.StartAs(exec.Command("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_exit=300000",
				s.daemon.Binary, "serve", "--config", s.daemon.Config())))
		}, happens: wait, slow: time.Second},
	} {
		t.Run(h.name, h.through)
	}
}

// smtpds are the pids of this Postfix's smtpd processes.
func (s *storm) smtpds() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		b, _ := os.ReadFile(p)
		pid, err := strconv.Atoi(strings.Split(p, "/")[2])
		if err != nil || !strings.HasPrefix(string(b), "smtpd\x00") {
			continue
		}
		if environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); strings.Contains(string(environ), s.ConfigDir()) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// store is the file of the embedded store.
func (s *storm) store() string { return filepath.Join(s.daemon.Dir, "data", "reputation.db") }

// signalMaster sends a signal to this Postfix's master(8).
func (s *storm) signalMaster(sig syscall.Signal) {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir, "spool", "pid", "master.pid"))
	must(s.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(s.t, err)
	must(s.t, syscall.Kill(pid, sig))
}

// within is a command that starts a daemon in a memory cgroup of so many bytes.
func within(t testing.TB, bytes int, d *mx.Daemon) *exec.Cmd {
	t.Helper()
	dir, limit := "/sys/fs/cgroup/memory/ehlogate-test", "memory.limit_in_bytes"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		// Version 2.
		os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0)
		dir, limit = "/sys/fs/cgroup/ehlogate-test", "memory.max"
	}
	os.Mkdir(dir, 0o755)
	must(t, os.WriteFile(filepath.Join(dir, limit), []byte(strconv.Itoa(bytes)), 0))
	t.Cleanup(func() { os.Remove(dir) })
	return exec.Command("sh", "-c", fmt.Sprintf("echo $$ > %s/cgroup.procs; exec %s serve --config %s", dir, d.Binary, d.Config()))
}
