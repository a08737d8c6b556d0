package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/pace"
)

// traffic runs sessions of changing clients until stop is called; it counts what was delivered and
// keeps what failed.
type traffic struct {
	delivered, offered atomic.Int64
	mu                 sync.Mutex
	failed             []error
	slowest            time.Duration
	stop               func()
}

func (x *exchanger) traffic(workers int) *traffic {
	tr := &traffic{}
	quit := make(chan struct{})
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				began := time.Now()
				offered, err := x.trySend(fmt.Sprintf("203.0.%d.%d", w, 1+i%200), "hello")
				tr.mu.Lock()
				tr.slowest = max(tr.slowest, time.Since(began))
				if err != nil {
					tr.failed = append(tr.failed, err)
				}
				tr.mu.Unlock()
				if err == nil {
					tr.delivered.Add(1)
				}
				if offered {
					tr.offered.Add(1)
				}
			}
		})
	}
	tr.stop = sync.OnceFunc(func() { close(quit); running.Wait() })
	x.t.Cleanup(tr.stop)
	return tr
}

// waitDelivered waits until n more messages have come in.
func (tr *traffic) waitDelivered(t testing.TB, n int64) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for want := tr.delivered.Load() + n; tr.delivered.Load() < want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no mail comes in: %d of %d; failed: %v", tr.delivered.Load(), want, tr.failed)
		}
	}
}

// TestKilledRightAfterTheAcknowledgement kills the daemon as soon as the last message was accepted;
// not one of them is forgotten.
func TestKilledRightAfterTheAcknowledgement(t *testing.T) {
	x := start(t, "")
	for n := 1; n <= 4; n++ {
		x.send("192.0.2.7", "spam")
		x.daemon.Kill()
		must(t, x.daemon.Start())
		l, err := x.daemon.Lookup("192.0.2.7")
		must(t, err)
		if want := fmt.Sprintf("from %d.0 spam and 0.0 ham of its own", n); !strings.Contains(l.Why, want) {
			t.Errorf("after %d messages and as many kills: %q, want %q", n, l.Why, want)
		}
	}
}

// TestKilledInTheMiddleOfTraffic kills the daemon with SIGKILL: no session is refused, everyone is
// offered TLS, and what was acknowledged is there after the restart.
func TestKilledInTheMiddleOfTraffic(t *testing.T) {
	x := start(t, "")
	x.sendUntilWithheld("192.0.2.7")
	before, err := x.daemon.Lookup("192.0.2.7")
	must(t, err)
	tr := x.traffic(4)
	for range 2 {
		tr.waitDelivered(t, 50)
		x.daemon.Kill()
		if !x.offered("192.0.2.7") {
			t.Error("while the daemon is away, TLS is not offered to everyone")
		}
		tr.waitDelivered(t, 50)
		must(t, x.daemon.Start())
	}
	tr.waitDelivered(t, 50)
	tr.stop()
	if len(tr.failed) > 0 || tr.offered.Load() < tr.delivered.Load() {
		t.Errorf("%d delivered, %d offered TLS, failed: %v", tr.delivered.Load(), tr.offered.Load(), tr.failed)
	}
	after, err := x.daemon.Lookup("192.0.2.7")
	must(t, err)
	if after.Tier != "bad" || after.STARTTLS != "withhold" || after.Score < before.Score-0.05 {
		t.Errorf("before the kill %+v, after it %+v", before, after)
	}
	if x.offered("192.0.2.7") {
		t.Error("after the restart STARTTLS is offered to the spammer")
	}
	t.Logf("%d messages delivered over two kills, slowest session %v", tr.delivered.Load(), tr.slowest.Round(time.Millisecond))
}

// TestAHangingDaemonCostsLittle stops the daemon with SIGSTOP: mail flows, and a session pays the
// table's timeout of a second and the milter's of another.
func TestAHangingDaemonCostsLittle(t *testing.T) {
	x := start(t, "")
	x.send("198.51.100.7", "hello")
	must(t, x.daemon.Signal(syscall.SIGSTOP))
	defer x.daemon.Signal(syscall.SIGCONT)
	lag := pace.Start()
	defer lag.Stop()
	for i := range 3 {
		began := time.Now()
		s, err := x.Dial("198.51.100.8")
		must(t, err)
		greeted := time.Since(began)
		if !s.Offered {
			t.Error("a daemon that hangs withholds STARTTLS")
		}
		must(t, s.UseTLS())
		must(t, s.Deliver(message("hello")))
		must(t, s.Quit())
		whole := time.Since(began)
		t.Logf("session %d: EHLO answered after %v, whole session %v", i, greeted.Round(time.Millisecond), whole.Round(time.Millisecond))
		// A session goes through smtpd, cleanup, TLS and the client.
		if whole > 3500*time.Millisecond+10*lag.Most() {
			t.Errorf("session %d took %v", i, whole)
		}
	}
	must(t, x.daemon.Signal(syscall.SIGCONT))
	if !x.send("198.51.100.9", "hello") {
		t.Error("after the daemon goes on, a stranger is not offered STARTTLS")
	}
}

// TestGarbageOnEveryListener sends rubbish over 10,000 connections; the daemon goes on answering
// and its memory stays bounded.
func TestGarbageOnEveryListener(t *testing.T) {
	x := prepare(t, "")
	x.daemon.Binary = plain
	x.apply()
	x.run()
	ports := []int{x.daemon.Milter, x.daemon.Socketmap, x.daemon.Memcache, x.daemon.HTTP}
	// A first round brings the process to its working size; the second must not need more.
	garbage(t, ports, 10_000)
	before := resident(t, x.daemon.Pid())
	garbage(t, ports, 10_000)
	after := resident(t, x.daemon.Pid())
	t.Logf("resident memory %d MB after 10,000 connections, %d MB after 20,000", before>>20, after>>20)
	if after > before+16<<20 {
		t.Errorf("resident memory grew from %d to %d bytes", before, after)
	}
	if !x.send("198.51.100.7", "hello") {
		t.Error("a stranger is not offered STARTTLS")
	}
	x.sendUntilWithheld("192.0.2.7")
	if n, err := x.daemon.Metric("ehlogate_panics_total"); err != nil || n != 0 {
		t.Errorf("%v panics, %v", n, err)
	}
	if n, err := x.daemon.Metric("ehlogate_connections_malformed_total"); err != nil || n < 1000 {
		t.Errorf("%v malformed counted, %v", n, err)
	}
}

// beginnings lead a connection past a protocol's first check.
var beginnings = []string{
	"", "\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff", "\x00\x00\x00\x05H", "\x7f\xff\xff\xffC",
	"18:starttls 192.0.2.7,", "99999:", "get starttls:", "set k 0 0 65000\r\n", "POST /api/v1/change HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n", "GET /",
}

func garbage(t *testing.T, ports []int, connections int) {
	t.Helper()
	var running sync.WaitGroup
	work := make(chan int)
	for w := range 16 {
		running.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 7))
			for i := range work {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[i%len(ports)]))
				if err != nil {
					t.Error(err)
					continue
				}
				b := []byte(beginnings[random.IntN(len(beginnings))])
				for range random.IntN(2000) {
					b = append(b, byte(random.Uint32()))
				}
				c.SetDeadline(time.Now().Add(time.Second))
				c.Write(b)
				if random.IntN(2) == 0 {
					c.(*net.TCPConn).SetLinger(0)
				}
				c.Close()
			}
		})
	}
	for i := range connections {
		work <- i
	}
	close(work)
	running.Wait()
}

// resident is a process's resident memory in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	must(t, err)
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	must(t, err)
	return pages * os.Getpagesize()
}

// onASmallDisk gives the daemon a directory on a file system of 1 MiB.
func (x *exchanger) onASmallDisk() {
	x.t.Helper()
	data := filepath.Join(x.daemon.Dir, "data")
	must(x.t, os.Mkdir(data, 0o755))
	must(x.t, syscall.Mount("tmpfs", data, "tmpfs", 0, "size=1m"))
	x.t.Cleanup(func() { must(x.t, syscall.Unmount(data, syscall.MNT_DETACH)) })
	x.t.Cleanup(func() { x.daemon.Stop() })
}

// fillDisk leaves no room there, until the file that it returns is removed.
func (x *exchanger) fillDisk() (ballast string) {
	x.t.Helper()
	ballast = filepath.Join(x.daemon.Dir, "data", "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err == nil {
		x.t.Fatal("the disk is not full")
	}
	return ballast
}

// TestAFullDiskStopsNoMail puts store and event log on a small file system and fills it: mail
// flows, what could not be written is counted and said, the tables answer from memory, and when
// there is room again nothing that was learnt is lost.
func TestAFullDiskStopsNoMail(t *testing.T) {
	x := prepare(t, "")
	x.onASmallDisk()
	x.apply()
	x.run()
	x.send("198.51.100.7", "hello")
	ballast := x.fillDisk()
	for i := range 40 { // enough to need new pages of the store's file
		x.send(fmt.Sprintf("198.51.%d.7", i), "spam")
	}
	x.sendUntilWithheld("192.0.2.7")
	if n, err := x.daemon.Metric("ehlogate_observations_late_total"); err != nil || n == 0 {
		t.Errorf("%v counted, %v", n, err)
	}
	if log := x.daemon.Log(); !strings.Contains(log, "no space left on device") || strings.Count(log, "not durable") > 2 {
		t.Errorf("the log says\n%s", log)
	}
	must(t, os.Remove(ballast))
	waitUntil(t, func() bool { return x.send("198.51.100.9", "hello") && strings.Contains(events(t, x), "198.51.100.9") })
	must(t, x.daemon.Stop())
	must(t, x.daemon.Start())
	if l, err := x.daemon.Lookup("192.0.2.7"); err != nil || l.Tier != "bad" {
		t.Errorf("after the disk had room again: %+v, %v", l, err)
	}
}

// events is the event log's text.
func events(t *testing.T, x *exchanger) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(x.daemon.Dir, "data", "events.ndjson"))
	must(t, err)
	return string(b)
}

// TestReload changes the mode under traffic; a broken file keeps the old configuration.
func TestReload(t *testing.T) {
	x := start(t, "")
	x.sendUntilWithheld("192.0.2.7")
	s, err := x.Dial("198.51.100.7")
	must(t, err)
	must(t, x.daemon.Configure("[policy]\nmode = 'observe'\n"))
	must(t, x.daemon.Signal(syscall.SIGHUP))
	waitUntil(t, func() bool { return x.offered("192.0.2.7") })
	must(t, x.daemon.Configure("[policy]\nmode = 'protct'\n"))
	must(t, x.daemon.Signal(syscall.SIGHUP))
	waitUntil(t, func() bool {
		return strings.Contains(x.daemon.Log(), "the old configuration stays in force") && strings.Contains(x.daemon.Log(), "protct")
	})
	if !x.offered("192.0.2.7") {
		t.Error("a broken file changed the mode")
	}
	must(t, s.UseTLS())
	must(t, s.Deliver(message("hello")))
	must(t, s.Quit())
}

func waitUntil(t *testing.T, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("it did not happen")
}

// TestTheEventLogIsReopenedOnHangup rotates the log as logrotate does.
func TestTheEventLogIsReopenedOnHangup(t *testing.T) {
	x := start(t, "")
	x.send("192.0.2.7", "hello")
	log := filepath.Join(x.daemon.Dir, "data", "events.ndjson")
	must(t, os.Rename(log, log+".1"))
	must(t, x.daemon.Signal(syscall.SIGHUP))
	waitUntil(t, func() bool { _, err := os.Stat(log); return err == nil })
	x.send("192.0.2.8", "hello")
	_, err := x.daemon.WaitEvents(1)
	must(t, err)
	if old, err := os.ReadFile(log + ".1"); err != nil || bytes.Count(old, []byte("\n")) != 1 {
		t.Errorf("the renamed log: %q, %v", old, err)
	}
}

// TestAStopLetsSessionsEnd stops the daemon while a client is between MAIL and the end of its
// message.
func TestAStopLetsSessionsEnd(t *testing.T) {
	x := start(t, "")
	s, err := x.Dial("198.51.100.7")
	must(t, err)
	must(t, s.UseTLS())
	must(t, s.Mail("alice@sender.example"))
	stopped := make(chan error, 1)
	go func() { stopped <- x.daemon.Stop() }()
	time.Sleep(300 * time.Millisecond)
	must(t, s.Rcpt("bob@mx.example"))
	w, err := s.Data()
	must(t, err)
	fmt.Fprint(w, "Subject: hello\r\n\r\nHello\r\n")
	must(t, w.Close())
	must(t, s.Quit())
	must(t, <-stopped)
	events, err := x.daemon.WaitEvents(1)
	must(t, err)
	if e := events[0]; e.Outcome != "accepted" || e.Verdict.Class != "ham" || e.TLS == nil {
		t.Errorf("the session under way: %+v", e)
	}
}

// TestARestartWithPassedSocketsRefusesNobody restarts the daemon as systemd does with socket
// activation, under traffic and with the socketmap, which would otherwise stop all mail.
func TestARestartWithPassedSocketsRefusesNobody(t *testing.T) {
	x := prepare(t, "")
	x.apply("--socketmap")
	var files []*os.File
	for _, port := range []int{x.daemon.Milter, x.daemon.Socketmap, x.daemon.Memcache, x.daemon.HTTP} {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		must(t, err)
		f, err := l.(*net.TCPListener).File()
		must(t, err)
		l.Close()
		files = append(files, f)
		defer f.Close()
	}
	activate := func() {
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" serve --config "$1"`, binary, x.daemon.Config())
		cmd.Env = append(os.Environ(), "LISTEN_FDS=4", "LISTEN_FDNAMES=milter:socketmap:memcache:http")
		cmd.ExtraFiles = files
		must(t, x.daemon.StartAs(cmd))
	}
	activate()
	must(t, x.Postfix.Start())
	t.Cleanup(func() { must(t, x.Postfix.Stop()) })
	tr := x.traffic(4)
	for range 3 {
		tr.waitDelivered(t, 40)
		must(t, x.daemon.Stop())
		activate()
	}
	tr.waitDelivered(t, 40)
	tr.stop()
	if len(tr.failed) > 0 {
		t.Errorf("%d delivered, failed: %v", tr.delivered.Load(), tr.failed)
	}
	t.Logf("%d messages delivered over three restarts, slowest session %v", tr.delivered.Load(), tr.slowest.Round(time.Millisecond))
}

// TestSystemdIsTold stands in for systemd at the other end of $NOTIFY_SOCKET: ready, alive,
// reloading, stopping.
func TestSystemdIsTold(t *testing.T) {
	x := prepare(t, "")
	path := filepath.Join(tempDir(t), "notify.sock")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer l.Close()
	cmd := exec.Command("sh", "-c", `WATCHDOG_PID=$$ exec "$0" serve --config "$1"`, binary, x.daemon.Config())
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=300000")
	must(t, x.daemon.StartAs(cmd))
	expect := func(want string) {
		t.Helper()
		b := make([]byte, 4096)
		l.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			n, err := l.Read(b)
			if err != nil {
				t.Fatalf("systemd is not told %q: %v", want, err)
			}
			if strings.HasPrefix(string(b[:n]), want) {
				return
			}
		}
	}
	expect("READY=1")
	expect("WATCHDOG=1")
	must(t, x.daemon.Signal(syscall.SIGHUP))
	expect("RELOADING=1\nMONOTONIC_USEC=")
	expect("READY=1")
	must(t, x.daemon.Stop())
	expect("STOPPING=1")
}
