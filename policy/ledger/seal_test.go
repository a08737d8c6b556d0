package ledger

import (
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// TestABitThatIsWrongIsNotBelieved: either nothing is counted of the file, and it is counted again,
// or it says what it said.
func TestABitThatIsWrongIsNotBelieved(t *testing.T) {
	n := newNode(t, "mx1", nil)
	for i := range 40 {
		n.Count(message(i), false)
	}
	n.flush(`{"inode":7,"offset":4096,"head":1,"checked":256}`)
	want := n.report(noon)
	n.db.Close()
	sound, err := os.ReadFile(n.path)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	noticed := 0
	for range 200 {
		content := append([]byte(nil), sound...)
		at, bit := random.IntN(len(content)), random.IntN(8)
		content[at] ^= 1 << bit
		if err := os.WriteFile(n.path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		n.open()
		switch got := n.report(noon); {
		case n.Position() == nil:
			noticed++
			if got.Messages["spam"].TLS != 0 {
				t.Errorf("byte %d, bit %d: counted from nothing, with %+v", at, bit, got.Messages)
			}
		case !reflect.DeepEqual(got, want):
			t.Errorf("byte %d, bit %d: got another report", at, bit)
		}
		n.db.Close()
	}
	if noticed < 5 {
		t.Errorf("%d of 200 were noticed; the file is nearly all counts", noticed)
	}
	n.open()
}

// openAt tries to open a ledger at a path, which must not take long.
func openAt(t *testing.T, path string) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		l, err := Open(Options{Path: path, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Network: networkOf})
		if err == nil {
			l.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(5 * time.Second):
		t.Fatal("it is waited for")
		return nil
	}
}

func TestWhatIsNoLedgerIsNotWaitedFor(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "ledger.db")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openAt(t, pipe); err == nil || !strings.Contains(err.Error(), "named pipe") {
		t.Errorf("a named pipe: %v", err)
	}
	held := newNode(t, "mx1", nil).path
	if err := openAt(t, held); err == nil || !strings.Contains(err.Error(), held+" is held by another process") {
		t.Errorf("one that is held: %v", err)
	}
}

// withFormat is a bbolt file that says it is of a format, or says nothing.
func withFormat(t *testing.T, format string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	db, err := bolt.Open(path, 0o600, bolted.Options())
	if err == nil {
		err = db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucket(metaBucket)
			if err != nil || format == "" {
				return err
			}
			return b.Put(formatKey, sealed(metaBucket, formatKey, []byte(format)))
		})
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestALedgerOfALaterVersionIsLeftAsItIs(t *testing.T) {
	path := withFormat(t, "2")
	before, _ := os.ReadFile(path)
	if err := openAt(t, path); !errors.Is(err, errLater) {
		t.Error(err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("it was changed")
	}
}

// TestAForeignFileIsMovedAside, and not written to.
func TestAForeignFileIsMovedAside(t *testing.T) {
	path := withFormat(t, "")
	before, _ := os.ReadFile(path)
	if err := openAt(t, path); err != nil {
		t.Fatal(err)
	}
	aside, _ := filepath.Glob(path + ".damaged-*")
	if len(aside) != 1 {
		t.Fatal(aside)
	}
	if after, _ := os.ReadFile(aside[0]); string(after) != string(before) {
		t.Error("it was changed")
	}
}
