package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// screened is what postscreen's own SMTP engine offers a client that it tests.
func (x *exchanger) screened(client string) (offered bool, err error) {
	c, err := x.DialRaw(client, x.ScreenPort)
	if err != nil {
		return false, err
	}
	defer c.Close()
	in := bufio.NewReader(c)
	reply := func() (text string, err error) {
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return text, err
			}
			if text += line; len(line) > 3 && line[3] == ' ' {
				return text, nil
			}
		}
	}
	if _, err := reply(); err != nil {
		return false, fmt.Errorf("greeting: %w", err)
	}
	fmt.Fprint(c, "EHLO client.example\r\n")
	text, err := reply()
	fmt.Fprint(c, "QUIT\r\n")
	return strings.Contains(text, "STARTTLS"), err
}

// TestPostscreenHasAStaticTable gives a real postscreen the table that the daemon writes: it
// answers a hundred clients at once by it, half of them bad, while the table is written again and
// again.
func TestPostscreenHasAStaticTable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(tempDir(t), "withheld.cidr")
	x := prepare(t, "[policy]\nmode = 'protect'\n")
	config, err := os.ReadFile(x.daemon.Config())
	must(t, err)
	must(t, os.WriteFile(x.daemon.Config(), []byte(strings.Replace(string(config), "[table]\n", "[table]\nexport = '"+file+"'\nexport_every = '1s'\n", 1)), 0o644))
	x.apply()
	must(t, x.Set("postscreen_discard_ehlo_keyword_address_maps = cidr:"+file, "postscreen_bare_newline_enable = yes", "postscreen_tls_security_level = may",
		"postscreen_client_connection_count_limit = 0", "postscreen_pre_queue_limit = 1000"))
	x.run()
	waitUntil(t, func() bool { _, err := os.Stat(file); return err == nil })
	x.command("deny", "203.0.113.0/24", "--note", "the bad half")
	waitUntil(t, func() bool { b, _ := os.ReadFile(file); return strings.Contains(string(b), "203.0.113.0/24\tstarttls") })

	for _, spoilt := range []func() error{func() error { return os.Remove(file) }, func() error { return os.WriteFile(file, []byte("garbage"), 0o644) }} {
		must(t, spoilt())
		waitUntil(t, func() bool { b, _ := os.ReadFile(file); return strings.Contains(string(b), "203.0.113.0/24\tstarttls") })
	}

	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case <-time.After(300 * time.Millisecond):
			}
			x.command("deny", fmt.Sprintf("198.51.100.%d", n%200))
			x.command("export", "--output", file)
		}
	})
	var clients sync.WaitGroup
	began := time.Now()
	for n := range 100 {
		bad := n%2 == 0
		client := fmt.Sprintf("192.0.2.%d", n)
		if bad {
			client = fmt.Sprintf("203.0.113.%d", n)
		}
		clients.Go(func() {
			for range 3 {
				if offered, err := x.screened(client); err != nil || offered == bad {
					t.Errorf("%s: offered %v, %v", client, offered, err)
				}
			}
		})
	}
	clients.Wait()
	t.Logf("300 sessions with postscreen in %v", time.Since(began).Round(time.Second/10))
	close(done)
	writing.Wait()
	// It reads a cidr table once, and one that is indexed again when that has changed.
	x.command("forget", "203.0.113.0/24")
	x.command("export", "--output", file)
	must(t, x.Reload())
	waitUntil(t, func() bool { offered, err := x.screened("203.0.113.7"); return err == nil && offered })
	index := filepath.Join(filepath.Dir(file), "withheld")
	export := func() { x.command("export", "--format", "lmdb", "--output", index, "--postfix-config", x.ConfigDir()) }
	export()
	must(t, x.Set("postscreen_discard_ehlo_keyword_address_maps = lmdb:"+index))
	must(t, x.Reload())
	waitUntil(t, func() bool { offered, err := x.screened("203.0.113.7"); return err == nil && offered })
	x.command("deny", "203.0.113.7")
	export()
	waitUntil(t, func() bool { offered, err := x.screened("203.0.113.7"); return err == nil && !offered })
	if log := x.Log(); strings.Contains(log, "fatal:") || strings.Contains(log, "panic:") {
		t.Error(log)
	}
	if t.Failed() {
		t.Log(x.Log())
	}
}

// TestATableForPostmap has postmap(1) make tables of single addresses, and asks them as Postfix
// does.
func TestATableForPostmap(t *testing.T) {
	t.Parallel()
	x := start(t, "")
	x.command("deny", "192.0.2.7")
	x.command("deny", "203.0.113.0/28")
	x.command("allow", "203.0.113.9")
	x.command("deny", "10.0.0.0/8", "--yes")
	for _, format := range []string{"texthash", "hash", "lmdb", "cdb"} {
		file := filepath.Join(tempDir(t), "withheld")
		x.command("export", "--format", format, "--output", file, "--postfix-config", x.ConfigDir())
		for client, want := range map[string]string{"192.0.2.7": "starttls, silent-discard\n", "203.0.113.15": "starttls, silent-discard\n", "203.0.113.9": "", "203.0.113.16": "", "10.1.1.1": ""} {
			out, err := exec.Command("postmap", "-c", x.ConfigDir(), "-q", client, format+":"+file).CombinedOutput()
			if string(out) != want || want != "" && err != nil {
				t.Errorf("%s: %s: %q, %v; want %q", format, client, out, err, want)
			}
		}
		if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "# left out: networks of more than 256 addresses, 1 of them, the first 10.0.0.0/8") {
			t.Errorf("%s: %v: %s", format, err, text)
		}
	}
}
