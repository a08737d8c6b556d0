// Package systems tries setup, check and undo on configurations of the shapes that other people
// have: each folder is a main.cf and master.cf of a mail system, written for this test, with the
// services that clients see.
//
// A system has a network and a file system of its own (namespaces(7)): its Postfix is the host's,
// with /etc/postfix and /var/spool/postfix, and listens on the ports that it always has.
package systems

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// inside says in the environment which system a process is to try, in namespaces of its own;
// binaryAt is the program under test.
const inside, binaryAt = "SYSTEMS_TEST_SYSTEM", "SYSTEMS_TEST_BINARY"

func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	// Most of the time a system waits.
	flag.Set("test.parallel", "4")
	if os.Getenv(binaryAt) != "" {
		// Built elsewhere, for a release of Postfix that is in a root directory of its own.
		os.Exit(m.Run())
	}
	dir, err := mx.TempDir()
	if err == nil {
		var binary string
		if binary, err = mx.Build(dir); err == nil {
			os.Setenv(binaryAt, binary)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "systems:", err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// TestSystems tries each system in a process of its own.
func TestSystems(t *testing.T) {
	if name := os.Getenv(inside); name != "" {
		trySystem(t, name)
		return
	}
	folders, err := filepath.Glob("*/services")
	must(t, err)
	if len(folders) < 20 {
		t.Fatalf("%d systems", len(folders))
	}
	for _, f := range folders {
		name := filepath.Dir(f)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", setUp, os.Args[0], "-test.run=^TestSystems$", "-test.v", "-test.timeout=5m")
			cmd.Env = append(os.Environ(), inside+"="+name)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if _, row, ok := strings.Cut(strings.TrimSpace(line), " row: "); ok {
					t.Log(row)
				}
			}
		})
	}
}

// setUp gives the namespace addresses: the host's own, those of strangers, of users, and of a
// proxy.
const setUp = `ip link set lo up
for n in 192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 172.22.1.0/24; do ip addr add $n dev lo; done
ip addr add 192.0.2.1/32 dev lo; ip addr add 192.0.2.2/32 dev lo
exec "$0" "$@"`

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
