package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// killedStore is the directory of a store that was killed. Of its hosts some are in the file, the
// next are in the file and in the part of the journal before, and the last in the journal alone.
func killedStore(t *testing.T, hosts int) string {
	t.Helper()
	e := open(t, t.TempDir())
	for i := range hosts {
		if err := learn(e, nthHost(i), 1, 0); err != nil {
			t.Fatal(err)
		}
		if i == hosts*8/10 || i == hosts*9/10 {
			if err := e.commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return died(t, e.journal.dir)
}

func nthHost(i int) string { return fmt.Sprintf("192.0.%d.%d", i/200, 1+i%200) }

// counted is how many hosts a store in a directory counts so often.
func counted(t *testing.T, dir string, hosts int) map[float64]int {
	t.Helper()
	e, err := Open(dir, options())
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-e.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("it is not read")
	}
	n := map[float64]int{}
	for i := range hosts {
		n[e.get(key{network: keys(nthHost(i)).Host}).Total().Spam]++
	}
	// It dies at once.
	left := died(t, dir)
	e.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(left, dir); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAFileWithoutAHeadDoublesAndLosesNothing: the journal says then what the file was and what it
// had, also if the store dies again before it has written its new file for the first time.
func TestAFileWithoutAHeadDoublesAndLosesNothing(t *testing.T) {
	const hosts = 1000
	dir := killedStore(t, hosts)
	f, err := os.OpenFile(filepath.Join(dir, FileName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{72, 4096 + 72} {
		if _, err := f.WriteAt([]byte{0xff, 0xff}, at); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	for range 3 {
		if n := counted(t, dir, hosts); n[1] != hosts {
			t.Errorf("hosts by how often they count: %v", n)
		}
	}
}

// TestABitOfTheRootPage: whichever bit is wrong, the store starts, and nothing counts twice or is
// lost. What it leaves out is not noticed: a page number that leads to another sound page of the
// same tree.
func TestABitOfTheRootPage(t *testing.T) {
	const hosts = 300
	dir := killedStore(t, hosts)
	whole, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(dir, FileName), 0, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var root int
	db.View(func(tx *bolt.Tx) error { root = 4096 * int(tx.Cursor().Bucket().Root()); return nil })
	db.Close()
	const step = 29 // all of them take two minutes
	for bit := 0; bit < 8*450; bit += step {
		broken := died(t, dir)
		b := bytes.Clone(whole)
		b[root+bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(filepath.Join(broken, FileName), b, 0o640); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if n := counted(t, broken, hosts); n[1] != hosts {
				t.Errorf("bit %d: hosts by how often they count: %v", bit, n)
			}
		}
	}
}

// TestADamagedRecordOfTheJournalIsLostAlone, and an operator is told.
func TestADamagedRecordOfTheJournalIsLostAlone(t *testing.T) {
	e := open(t, t.TempDir())
	for i := range 7 {
		if err := learn(e, nthHost(i), 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	dir := died(t, e.journal.dir)
	path := newestPart(t, dir)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.IndexByte(b, '\n')+1+recordHead+10] ^= 1
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	e = open(t, dir)
	if len(e.Notes()) != 1 {
		t.Errorf("notes: %q", e.Notes())
	}
	if n := counted(t, died(t, dir), 7); n[1] != 6 || n[0] != 1 {
		t.Errorf("hosts by how often they count: %v", n)
	}
}
