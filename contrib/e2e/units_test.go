package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheUnitsAreSound has systemd look at the units, with the program where they expect it.
func TestTheUnitsAreSound(t *testing.T) {
	dir := tempDir(t)
	units, err := filepath.Glob("../systemd/ehlogate*")
	must(t, err)
	args := []string{"verify"}
	for _, u := range units {
		text, err := os.ReadFile(u)
		must(t, err)
		own := filepath.Join(dir, filepath.Base(u))
		must(t, os.WriteFile(own, []byte(strings.ReplaceAll(string(text), "ExecStart=ehlogate", "ExecStart="+plain)), 0o644))
		args = append(args, own)
	}
	if len(units) != 4 {
		t.Fatalf("units: %v", units)
	}
	if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || len(strings.TrimSpace(string(out))) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
