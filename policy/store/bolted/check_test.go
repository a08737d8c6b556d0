package bolted

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func filled(t testing.TB) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "x.db")
	db, err := bolt.Open(path, 0o600, Options())
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		err := Update(db, func(tx *bolt.Tx) error {
			small, err := tx.CreateBucketIfNotExists([]byte("small"))
			if err != nil {
				return err
			}
			small.Put([]byte("k"), []byte("v"))
			large, err := tx.CreateBucketIfNotExists([]byte("large"))
			for i := 0; i < 20_000 && err == nil; i++ {
				err = large.Put(fmt.Appendf(nil, "key %d", i*7919%100_000), fmt.Append(nil, "a value of some length", round))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if content, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return path, content
}

// TestASoundFileIsSound, and one whose bits are flipped is either found to be damaged, or can be
// opened for writing: what is in between ends the process in a goroutine of bbolt's.
func TestFlippedBitsAreFoundBeforeTheyEndTheProcess(t *testing.T) {
	path, content := filled(t)
	if err := Check(path); err != nil {
		t.Fatal(err)
	}
	found, opened := 0, 0
	pages := len(content) / usualPage
	for n := range 300 {
		// The heads of pages and of their elements are what leads to other memory.
		page := n * 31 % pages
		at := page*usualPage + n*13%200
		bad := bytes.Clone(content)
		bad[at] ^= 1 << (n % 8)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if Check(path) != nil {
			found++
			continue
		}
		err := Guard(func() error {
			db, err := bolt.Open(path, 0o600, Options())
			if err != nil {
				return err
			}
			err = Update(db, func(tx *bolt.Tx) error { return tx.Bucket([]byte("small")).Put([]byte("x"), []byte("y")) })
			db.Close()
			return err
		})
		if err == nil {
			opened++
		}
	}
	t.Logf("%d found, %d opened", found, opened)
	if found < 40 || opened < 40 {
		t.Errorf("%d found, %d opened", found, opened)
	}
}

// FuzzPages reads anything as a page, and as a file.
func FuzzPages(f *testing.F) {
	page := make([]byte, 200)
	page[8], page[10] = leafFlag, 2
	f.Add(page)
	_, content := filled(f)
	f.Add(content[:4*usualPage])
	path := filepath.Join(f.TempDir(), "y.db")
	f.Fuzz(func(t *testing.T, b []byte) {
		for range Leaves(b) {
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		Check(path)
		c := &checker{file: bytes.NewReader(b), heads: Heads{PageSize: 64, pages: uint64(len(b) / 64)}, seen: make([]bool, len(b)/64), show: func(_, _, _ []byte) {}}
		c.tree(2, nil, nil)
	})
}
