//go:build soak

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ownClock is the environment variable that says that the clock of this machine may be set.
const ownClock = "E2E_OWN_CLOCK"

// TestMailComesInWhateverTheClockSays sets the clock of a machine, on which all of it runs, forward
// and back under traffic. The machine is a Linux in user mode, which has the files of this one and
// a clock, a network and processes of its own.
func TestMailComesInWhateverTheClockSays(t *testing.T) {
	if os.Getenv(ownClock) == "" {
		inAMachineOfItsOwn(t, t.Name())
		return
	}
	// That machine has no IPv6.
	s := happening{ipv4: true}.storm(t)
	const day = 24 * time.Hour
	for _, step := range []struct {
		name string
		by   time.Duration
	}{
		{"nothing", 0},
		{"an hour", time.Hour}, {"a day", day}, {"a year", 365 * day},
	} {
		for _, d := range []struct {
			name string
			by   time.Duration
		}{{"forward and back", step.by}, {"back and forward", -step.by}} {
			t.Run(step.name+" "+d.name, func(t *testing.T) {
				s.endure(t, happening{happens: func(s *storm) {
					setClock(s.t, d.by)
					time.Sleep(2 * time.Second)
					setClock(s.t, -d.by)
					time.Sleep(2 * time.Second)
				}, slow: 2 * time.Second})
			})
		}
	}
}

// setClock steps the system's clock.
func setClock(t testing.TB, by time.Duration) {
	t.Helper()
	tv := syscall.NsecToTimeval(time.Now().Add(by).UnixNano())
	must(t, syscall.Settimeofday(&tv))
}

// inAMachineOfItsOwn runs a test in a Linux in user mode (Debian's user-mode-linux), as its init.
func inAMachineOfItsOwn(t *testing.T, name string) {
	t.Helper()
	dir := tempDir(t)
	tests, init := filepath.Join(dir, "e2e.test"), filepath.Join(dir, "init")
	if out, err := exec.Command("go", "test", "-c", "-tags", "soak", "-o", tests, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	here, err := os.Getwd()
	must(t, err)
	linux, err := exec.LookPath("linux.uml")
	must(t, err)
	must(t, os.WriteFile(init, fmt.Appendf(nil, `#!/bin/sh
export PATH=%q HOME=/root TMPDIR=/mnt %s=1 %s=%q
mount -t proc proc /proc
mount -t tmpfs tmpfs /mnt
mount -t tmpfs tmpfs /run
ip link set lo up
cd %q
%s -test.v -test.run '^%s$' </dev/null
echo "status $?"
echo o >/proc/sysrq-trigger
sleep 10
`, os.Getenv("PATH"), ownClock, ownBinary, plain, here, tests, name), 0o755))
	out, err := exec.Command(linux, "mem=2G", "rootfstype=hostfs", "rootflags=/", "ro", "quiet", "con=null", "con0=null,fd:1", "init="+init).CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "status 0") {
		t.Errorf("it ended with %v", err)
	}
}
