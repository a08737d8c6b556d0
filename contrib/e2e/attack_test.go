package e2e

import (
	"bufio"
	"bytes"
	bigendian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
	"github.com/ehlogate/ehlogate/contrib/e2e/pace"
)

// The attackers run as processes of this test program, each with file descriptors of its own.
const attackVariable = "EHLOGATE_TEST_ATTACK"

// attacker is a process that holds connections open.
type attacker struct {
	cmd  *exec.Cmd
	quit io.Closer
}

// attack starts a process that opens so many connections to a port, writes some bytes to each, and
// holds them, or opens a new one for each that is closed.
func attack(t testing.TB, port, connections int, again bool, first []byte) *attacker {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestAttacker$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %t %x", attackVariable, port, connections, again, first))
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	a := &attacker{cmd, in}
	t.Cleanup(a.stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "open") {
		t.Fatalf("the attacker says %q, %v", line, err)
	}
	return a
}

func (a *attacker) stop() {
	if a.quit != nil {
		a.quit.Close()
		a.cmd.Wait()
		a.quit = nil
	}
}

// TestAttacker is the attackers' program.
func TestAttacker(t *testing.T) {
	var port, connections int
	var again bool
	var first []byte
	if _, err := fmt.Sscanf(os.Getenv(attackVariable)+" ", "%d %d %t %x", &port, &connections, &again, &first); err != nil {
		if os.Getenv(attackVariable) == "" {
			return
		}
		// Nothing is written.
		fmt.Sscanf(os.Getenv(attackVariable), "%d %d %t", &port, &connections, &again)
	}
	open := make(chan bool)
	for w := range 20 {
		go func() {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 7, byte(1+w))}, Control: lateBind}
			for range connections / 20 {
				c, err := dialer.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
				if err == nil {
					c.Write(first)
					go hold(c, &dialer, port, again, first)
				}
				open <- err == nil
			}
		}()
	}
	opened := 0
	for range connections {
		if <-open {
			opened++
		}
	}
	fmt.Printf("open %d\n", opened)
	io.Copy(io.Discard, os.Stdin)
}

// lateBind has the kernel choose a port when it connects (IP_BIND_ADDRESS_NO_PORT in ip(7)): the
// search for one that is free for any peer takes long when there are many.
func lateBind(_, _ string, c syscall.RawConn) error {
	const bindAddressNoPort = 24
	var err error
	return errors.Join(c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, bindAddressNoPort, 1) }), err)
}

func hold(c net.Conn, dialer *net.Dialer, port int, again bool, first []byte) {
	for {
		// Nothing is read of what is answered: the peer is a slow one.
		if first == nil {
			io.Copy(io.Discard, c)
		} else {
			time.Sleep(time.Hour)
		}
		c.Close()
		if !again {
			return
		}
		time.Sleep(time.Second)
		var err error
		if c, err = dialer.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			return
		}
	}
}

// figures are how long things take.
type figures struct{ lookup, connectAndLookup, message, health time.Duration }

func (f figures) String() string {
	return fmt.Sprintf("p99 of lookups %v, of lookups on new connections %v, of ends of message %v, of /healthz %v",
		f.lookup.Round(time.Microsecond), f.connectAndLookup.Round(time.Microsecond), f.message.Round(time.Microsecond), f.health.Round(time.Microsecond))
}

// measure measures a daemon.
func measure(t testing.TB, d *mx.Daemon) (f figures) {
	t.Helper()
	table, err := mx.NewTable(d)
	must(t, err)
	defer table.Close()
	mta := mx.NewMTA(d)
	client := http.Client{Timeout: 10 * time.Second}
	var lookups, anew, messages, healths []time.Duration
	for i := range 300 {
		addr := fmt.Sprintf("203.0.%d.%d", i%50, i%200)
		_, took, err := table.Lookup(addr)
		must(t, err)
		lookups = append(lookups, took)

		began := time.Now()
		fresh, err := mx.NewTable(d)
		must(t, err)
		_, _, err = fresh.Lookup(addr)
		must(t, err)
		fresh.Close()
		anew = append(anew, time.Since(began))

		took, err = mta.Message(netip.MustParseAddr(addr), false)
		must(t, err)
		messages = append(messages, took)

		began = time.Now()
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", d.HTTP))
		must(t, err)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("/healthz: %s", resp.Status)
		}
		healths = append(healths, time.Since(began))
	}
	p99 := func(all []time.Duration) time.Duration { slices.Sort(all); return all[len(all)*99/100] }
	return figures{p99(lookups), p99(anew), p99(messages), p99(healths)}
}

// TestTenThousandIdleConnectionsOnEachListenerStopNoMail holds them open, and has them opened again
// when they are closed: sessions through Postfix go on by either table, and lookups, messages and
// /healthz take as long as before.
func TestTenThousandIdleConnectionsOnEachListenerStopNoMail(t *testing.T) {
	x := prepare(t, "")
	x.daemon.Binary = plain
	x.apply()
	x.run()
	x.sendUntilWithheld("192.0.2.7")
	before := measure(t, x.daemon)
	var attackers []*attacker
	for _, port := range []int{x.daemon.Milter, x.daemon.Socketmap, x.daemon.Memcache, x.daemon.HTTP} {
		attackers = append(attackers, attack(t, port, 10_000, false, nil))
	}
	lag := pace.Start()
	defer lag.Stop()
	during := measure(t, x.daemon)
	t.Logf("before: %v", before)
	t.Logf("with 10,000 idle connections on each listener: %v", during)
	for what, took := range map[string][2]time.Duration{
		"lookups": {before.lookup, during.lookup}, "lookups on new connections": {before.connectAndLookup, during.connectAndLookup},
		"messages": {before.message, during.message}, "/healthz": {before.health, during.health},
	} {
		if took[1] > 3*took[0]+10*time.Millisecond+2*lag.Most() {
			t.Errorf("%s take %v, %v before", what, took[1], took[0])
		}
	}
	flows := func(how string) {
		t.Helper()
		refused, slowest := 0, time.Duration(0)
		for i := range 20 {
			began := time.Now()
			offered, err := x.trySend(fmt.Sprintf("198.51.100.%d", i+1), "hello")
			slowest = max(slowest, time.Since(began))
			if err != nil || !offered {
				refused++
				t.Errorf("%s: a stranger is not served as before: offered %t, %v", how, offered, err)
			}
		}
		if x.offered("192.0.2.7") {
			t.Errorf("%s: STARTTLS is offered to the spammer", how)
		}
		t.Logf("%s: 20 sessions through Postfix, %d refused, the slowest %v", how, refused, slowest.Round(time.Millisecond))
	}
	flows("memcache, idle connections")
	must(t, x.Set(fmt.Sprintf("smtpd_discard_ehlo_keyword_address_maps = socketmap:inet:127.0.0.1:%d:starttls", x.daemon.Socketmap)))
	must(t, x.Reload())
	flows("socketmap, idle connections")
	for _, a := range attackers {
		a.stop()
	}
	for _, port := range []int{x.daemon.Milter, x.daemon.Socketmap} {
		attack(t, port, 6_000, true, nil)
	}
	flows("socketmap, connections opened again and again")
	if n, err := x.daemon.Metric("ehlogate_connections_idle_closed_total"); err != nil || n < 10_000 {
		t.Errorf("%v idle connections closed, %v", n, err)
	}
	if log := x.daemon.Log(); !strings.Contains(log, "too many connections") {
		t.Error("nobody is told")
	}
}

// negotiation is how an MTA begins to speak to a milter.
var negotiation = []byte("\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff")

// TestSlowPeersTakeLittleMemory has 3,000 connections with 965 KB each of a header that never ends.
func TestSlowPeersTakeLittleMemory(t *testing.T) {
	x := prepare(t, "")
	x.daemon.Binary = plain
	x.apply()
	x.run()
	x.send("198.51.100.7", "hello")
	header := append(bytes.Clone(negotiation), bigendian.BigEndian.AppendUint32(nil, 1_000_000)...)
	header = append(header, "LX-Spam-Flag\x00"...)
	header = append(header, bytes.Repeat([]byte("x"), 965_000)...)
	path := filepath.Join(t.TempDir(), "header")
	must(t, os.WriteFile(path, header, 0o600))
	before := resident(t, x.daemon.Pid())
	var conns []net.Conn
	for range 3000 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", x.daemon.Milter))
		must(t, err)
		defer c.Close()
		conns = append(conns, c)
		go c.Write(header)
	}
	most := 0
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		most = max(most, resident(t, x.daemon.Pid()))
	}
	t.Logf("resident memory %d MB before, at most %d MB with %d slow peers", before>>20, most>>20, len(conns))
	if most > before+300<<20 {
		t.Errorf("slow peers take %d MB", (most-before)>>20)
	}
	if _, err := x.trySend("198.51.100.8", "hello"); err != nil {
		t.Errorf("mail does not come in: %v", err)
	}
	if n, err := x.daemon.Metric("ehlogate_milter_crowded_total"); err != nil || n == 0 {
		t.Errorf("%v connections counted, %v", n, err)
	}
	if log := x.daemon.Log(); !strings.Contains(log, "too many packets are incomplete") {
		t.Error("nobody is told")
	}
}

// TestAStopEndsWhoeverHangs has a peer at each listener that asks and does not read, sends half of
// something, or only waits: SIGTERM ends the daemon within ten seconds.
func TestAStopEndsWhoeverHangs(t *testing.T) {
	x := start(t, "")
	x.send("198.51.100.7", "hello")
	token, err := os.ReadFile(filepath.Join(x.daemon.Dir, "data", "api-token"))
	must(t, err)
	flood := func(request string) []byte { return bytes.Repeat([]byte(request), 2_000_000/len(request)) }
	for port, text := range map[int][][]byte{
		x.daemon.Socketmap: {flood("18:starttls 192.0.2.7,"), []byte("18:start")},
		x.daemon.Memcache:  {flood("get starttls:192.0.2.7\r\n"), []byte("get star"), []byte("set k 0 0 60000\r\n")},
		x.daemon.Milter:    {negotiation, append(bytes.Clone(negotiation), "\x00\x00\x00\x05Hx"...)},
		x.daemon.HTTP: {
			flood("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"),
			[]byte("POST /api/v1/change HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + strings.TrimSpace(string(token)) + "\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"),
			[]byte("GET /api/v1/dump HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + strings.TrimSpace(string(token)) + "\r\n\r\n"),
		},
	} {
		for _, b := range text {
			for range 5 {
				c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
				must(t, err)
				defer c.Close()
				go c.Write(b)
			}
		}
	}
	// A real session is under way, too.
	s, err := x.Dial("198.51.100.9")
	must(t, err)
	defer s.Close()
	time.Sleep(500 * time.Millisecond)
	began := time.Now()
	err = x.daemon.Stop()
	took := time.Since(began)
	t.Logf("stopped after %v: %v", took.Round(time.Millisecond), err)
	if err != nil || took > 10*time.Second {
		t.Errorf("the stop took %v: %v\n%s", took, err, x.daemon.Log())
	}
}

// post posts up to a thousand verdicts a second, until it is told to stop and says how many were
// taken.
func (x *exchanger) post() (stop func() int) {
	x.t.Helper()
	token, err := x.daemon.FeedToken()
	must(x.t, err)
	quit, stopped := make(chan struct{}), make(chan int)
	for w := range 4 {
		go func() {
			posted := 0
			defer func() { stopped <- posted }()
			tick := time.NewTicker(4 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				case <-tick.C:
				}
				addr := "192.0.2.7"
				if i%4 == 0 {
					addr = fmt.Sprintf("198.51.%d.%d", w, i%250)
				}
				r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/feed/verdict", x.daemon.HTTP),
					strings.NewReader(fmt.Sprintf(`{"ip":%q,"qid":"4X%dZ%d","class":"spam"}`, addr, w, i)))
				if err != nil {
					return
				}
				r.Header.Set("Authorization", "Bearer "+token)
				r.Header.Set("Content-Type", "application/json")
				if resp, err := http.DefaultClient.Do(r); err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode == http.StatusOK {
						posted++
					}
				}
			}
		}()
	}
	return func() (posted int) {
		close(quit)
		for range 4 {
			posted += <-stopped
		}
		return posted
	}
}

// TestAThousandPostsASecond accuses one client, each time of another message, and some others:
// sessions go on as before.
func TestAThousandPostsASecond(t *testing.T) {
	x := prepare(t, "")
	x.daemon.Binary = plain
	x.apply()
	x.run()
	before := measure(t, x.daemon)
	stop := x.post()
	began := time.Now()
	time.Sleep(4 * time.Second)
	lag := pace.Start()
	during := measure(t, x.daemon)
	lag.Stop()
	posted := stop()
	t.Logf("%.0f posts a second", float64(posted)/time.Since(began).Seconds())
	t.Logf("before: %v", before)
	t.Logf("during: %v", during)
	if during.message > 3*before.message+20*time.Millisecond+2*lag.Most() {
		t.Errorf("ends of message take %v, %v before", during.message, before.message)
	}
	if n, err := x.daemon.Metric("ehlogate_feed_dropped_total"); err != nil || n > 0 {
		t.Errorf("%v posts dropped, %v", n, err)
	}
}

// TestUnixSocketsAreForTheirGroupOnly connects as another user of this host.
func TestUnixSocketsAreForTheirGroupOnly(t *testing.T) {
	d, err := mx.NewDaemon(binary, tempDir(t), "", "")
	must(t, err)
	must(t, os.Chmod(d.Dir, 0o755))
	text, err := os.ReadFile(d.Config())
	must(t, err)
	config := string(text)
	sockets := map[int]string{d.Milter: "milter", d.Socketmap: "socketmap", d.Memcache: "memcache"}
	for port, name := range sockets {
		config = strings.ReplaceAll(config, fmt.Sprintf("inet:127.0.0.1:%d", port), "unix:"+filepath.Join(d.Dir, name+".sock"))
	}
	must(t, os.WriteFile(d.Config(), []byte(config), 0o644))
	must(t, d.Start())
	defer d.Stop()
	for _, name := range sockets {
		path := filepath.Join(d.Dir, name+".sock")
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != 0o660 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		for user, want := range map[string]bool{"postfix": true, "nobody": false} {
			// perl is part of every Debian.
			cmd := exec.Command("setpriv", "--reuid", user, "--regid", group(t, user), "--clear-groups", "perl", "-MIO::Socket::UNIX", "-e", "exit !IO::Socket::UNIX->new(Peer => shift)", path)
			if err := cmd.Run(); (err == nil) != want {
				t.Errorf("%s connects to %s: %v", user, name, err)
			}
		}
	}
}

func group(t *testing.T, user string) string {
	t.Helper()
	out, err := exec.Command("id", "-g", user).Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

// TestARefusedOverrideIsNotInForceLater: bbolt writes the head of its file before it knows that it
// is on disk. A deny that was refused because a sync failed, whichever, does not come with a
// restart; one that was taken stays.
func TestARefusedOverrideIsNotInForceLater(t *testing.T) {
	x := prepare(t, "")
	x.daemon.Binary = plain
	const client = "192.0.2.1"
	refused := 0
	for which := 1; which <= 5; which++ {
		must(t, x.daemon.Start())
		x.command("allow", client)
		strace := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", fmt.Sprintf("inject=fdatasync,fsync:error=EIO:when=%d..%[1]d", which), "-p", strconv.Itoa(x.daemon.Pid()))
		must(t, strace.Start())
		waitUntil(t, x.traced)
		out, status := x.daemon.Command("deny", client)
		strace.Process.Signal(syscall.SIGTERM)
		strace.Wait()
		x.daemon.Kill()
		must(t, x.daemon.Start())
		want := "deny"
		if status != 0 {
			refused++
			want = "allow"
		}
		if got := x.command("overrides"); !strings.Contains(got, want+" "+client) {
			t.Errorf("sync %d failed, deny ended with %d, %s, and after a restart there is %q", which, status, out, got)
		}
		must(t, x.daemon.Stop())
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}
