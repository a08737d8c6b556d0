package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestAMessageIsWrittenOnce: a message costs at most one write(2) to the event log, and one to the
// journal of lessons.
func TestAMessageIsWrittenOnce(t *testing.T) {
	x := prepare(t, "")
	x.daemon.Binary = plain
	x.apply()
	x.run()
	trace := filepath.Join(t.TempDir(), "trace")
	strace := exec.Command("strace", "-f", "-qq", "-y", "-o", trace, "-e", "trace=write,writev,pwrite64,pwritev", "-p", strconv.Itoa(x.daemon.Pid()))
	must(t, strace.Start())
	waitUntil(t, x.traced)
	const messages = 30
	for i := range messages {
		x.send(fmt.Sprintf("198.51.100.%d", i), "hello")
	}
	_, err := x.daemon.WaitEvents(messages)
	must(t, err)
	strace.Process.Signal(syscall.SIGTERM)
	strace.Wait()
	calls, err := os.ReadFile(trace)
	must(t, err)
	for _, file := range []string{"events.ndjson", ".journal"} {
		n := 0
		for line := range strings.Lines(string(calls)) {
			// write(9</var/lib/ehlogate/events.ndjson>, "..."
			if _, rest, ok := strings.Cut(line, "<"); ok {
				path, _, _ := strings.Cut(rest, ">")
				if strings.HasSuffix(path, file) {
					n++
				}
			}
		}
		t.Logf("%d messages, %d writes to %s", messages, n, file)
		if n == 0 || n > messages {
			t.Errorf("%d messages took %d writes to %s", messages, n, file)
		}
	}
}

// traced reports whether the daemon is traced.
func (x *exchanger) traced() bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", x.daemon.Pid()))
	return !bytes.Contains(b, []byte("TracerPid:\t0\n"))
}
