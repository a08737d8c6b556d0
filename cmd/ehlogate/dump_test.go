package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestWhatIsNotOnDiskGetsNoName syncs a pipe, which fsync(2) refuses.
func TestWhatIsNotOnDiskGetsNoName(t *testing.T) {
	part, whole := filepath.Join(t.TempDir(), "dump.part"), filepath.Join(t.TempDir(), "dump")
	if err := os.WriteFile(part, []byte("half of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := syncAndRename(w, part, whole); err == nil {
		t.Error("it is taken for whole")
	}
	if _, err := os.Stat(whole); err == nil {
		t.Error("it has its name")
	}
	f, err := os.Open(part)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syncAndRename(f, part, whole); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(whole); err != nil {
		t.Error(err)
	}
}
