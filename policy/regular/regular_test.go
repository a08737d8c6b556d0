package regular

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestOnlyFilesAreOpened, and nothing waits.
func TestOnlyFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(in("file"), []byte("hello"), 0o600), os.Mkdir(in("directory"), 0o700), syscall.Mkfifo(in("pipe"), 0o600),
		os.Symlink(in("pipe"), in("link to a pipe")), os.Symlink("/dev/zero", in("zeros")), os.Symlink(in("file"), in("link"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name         string
		read, append error
	}{
		{"file", nil, nil},
		{"link", nil, nil},
		{"directory", syscall.EISDIR, syscall.EISDIR},
		{"pipe", ErrIrregular, ErrIrregular},
		{"link to a pipe", ErrIrregular, ErrIrregular},
		{"zeros", ErrIrregular, nil},
		{"nothing", os.ErrNotExist, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			late := time.AfterFunc(5*time.Second, func() { panic("it waits") })
			defer late.Stop()
			if f, err := Open(in(c.name)); !errors.Is(err, c.read) || (f == nil) != (c.read != nil) {
				t.Errorf("Open: %v", err)
			}
			if f, err := Append(in(c.name), 0o600); !errors.Is(err, c.append) || (f == nil) != (c.append != nil) {
				t.Errorf("Append: %v", err)
			}
		})
	}
	if b, err := ReadFile(in("file"), 4); err != nil || string(b) != "hell" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestOnlyFilesAreReplaced, and what a link leads to instead of the link.
func TestOnlyFilesAreReplaced(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(in("file"), []byte("old"), 0o600), syscall.Mkfifo(in("pipe"), 0o600), os.Symlink(in("file"), in("link")), os.Symlink("/dev/null", in("null"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{"new": nil, "link": nil, "pipe": ErrIrregular, "null": ErrIrregular} {
		if err := Replace(in(name), []byte(name), 0o644); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	for name, want := range map[string]string{"new": "new", "file": "link", "link": "link"} {
		if b, err := os.ReadFile(in(name)); err != nil || string(b) != want {
			t.Errorf("%s has %q, %v", name, b, err)
		}
	}
	if info, err := os.Lstat(in("link")); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is not one any more: %v", err)
	}
}
