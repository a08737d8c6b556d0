package store

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store/bolted"
)

// The parts of a bbolt file that the tests damage.
const (
	usualPage    = 4096
	pageHead     = 16
	metaFreelist = pageHead + 32
)

// denied is an override that must not get lost.
var denied = policy.Override{Network: netip.MustParsePrefix("198.51.100.0/24"), Note: "kept"}

// damageHosts is how many hosts the files have that are damaged: enough for branch pages.
const damageHosts = 3000

func damageHost(i int) string { return fmt.Sprintf("10.0.%d.%d", i/200, i%200) }

// filled is a sound file with hosts and an override, closed.
func filled(t *testing.T) (dir string, content []byte) {
	t.Helper()
	dir = t.TempDir()
	e := open(t, dir)
	var last <-chan error
	for i := range damageHosts {
		last = e.Learn(keys(damageHost(i)), policy.Lesson{At: noon, Spam: 1, Ham: 2})
	}
	if err := <-last; err != nil {
		t.Fatal(err)
	}
	if err := e.SetOverride(denied); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	return dir, content
}

// hosts counts the hosts that a store knows as they were.
func hosts(e *Embedded) (n int) {
	for i := range damageHosts {
		if count(e, keys(damageHost(i)).Host) == (reputation.Count{Spam: reputation.Unit, Ham: 2 * reputation.Unit}) {
			n++
		}
	}
	return n
}

// goesOn shows that a store learns, and has what it learnt when it is opened again.
func goesOn(t *testing.T, e *Embedded, dir string) *Embedded {
	t.Helper()
	deadline := time.Now().Add(2 * renewAgain)
	for {
		err := learn(e, "203.0.113.7", 1, 0)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not learn any more: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := e.Close(); err != nil {
		t.Fatalf("closed: %v", err)
	}
	if err := Verify(dir, policy.Default().Layout); err != nil {
		t.Fatalf("the file is not sound: %v", err)
	}
	again := open(t, dir)
	if got := count(again, keys("203.0.113.7").Host).Spam; got < reputation.Unit {
		t.Errorf("what was learnt is gone: %d units", got)
	}
	return again
}

// TestWhicheverPageIsDamagedTheRestIsKept overwrites each page of a file in turn. The store opens,
// keeps the rest, moves the damaged file aside as it was, and goes on.
func TestWhicheverPageIsDamagedTheRestIsKept(t *testing.T) {
	_, content := filled(t)
	pages := len(content) / usualPage
	worst, withoutOverride := damageHosts, 0
	for page := range pages {
		for name, b := range map[string]byte{"ones": 0xff, "zeros": 0} {
			if page > 4 && (page%3 > 0 || name == "zeros" && page%9 > 0) {
				// Some of them are enough.
				continue
			}
			dir := t.TempDir()
			path := filepath.Join(dir, FileName)
			bad := bytes.Clone(content)
			copy(bad[page*usualPage:], bytes.Repeat([]byte{b}, usualPage))
			if err := os.WriteFile(path, bad, 0o640); err != nil {
				t.Fatal(err)
			}
			e := open(t, dir)
			kept := hosts(e)
			worst = min(worst, kept)
			if len(e.Overrides()) != 1 {
				withoutOverride++
			}
			if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) == 1 {
				if moved, _ := os.ReadFile(aside[0]); !bytes.Equal(moved, bad) {
					t.Errorf("page %d of %s: the file moved aside is another one", page, name)
				}
				if len(e.Notes()) == 0 {
					t.Errorf("page %d of %s: nobody is told", page, name)
				}
			} else if kept != damageHosts {
				t.Errorf("page %d of %s: %d hosts are kept, and nothing was moved aside", page, name, kept)
			}
			e.Close()
		}
	}
	t.Logf("%d pages: of %d hosts at least %d are kept; the override is lost with %d of the damages", pages, damageHosts, worst, withoutOverride)
	// A page holds some 60 records of hosts, and what was there before is in others.
	if worst < damageHosts-200 {
		t.Errorf("a damaged page costs %d hosts", damageHosts-worst)
	}
	if withoutOverride > 3 {
		t.Errorf("the override is lost with %d of the damages", withoutOverride)
	}
}

func TestAStrangeFileIsMovedAside(t *testing.T) {
	for name, content := range map[string]string{"a text": strings.Repeat("hello\n", 4000), "a byte": "x"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, FileName)
			os.WriteFile(path, []byte(content), 0o600)
			e := goesOn(t, open(t, dir), dir)
			defer e.Close()
			aside, _ := filepath.Glob(path + ".damaged-*")
			if len(aside) != 1 {
				t.Fatalf("moved aside: %q", aside)
			}
			if b, _ := os.ReadFile(aside[0]); string(b) != content {
				t.Error("the file moved aside was changed")
			}
		})
	}
}

// TestADamagedHeadLosesNoOverride flips bytes in each of the two meta pages in turn: bbolt then
// goes on from the other one without a word.
func TestADamagedHeadLosesNoOverride(t *testing.T) {
	for page := range 2 {
		dir, content := filled(t)
		content[page*usualPage+metaFreelist+9] ^= 0xff
		os.WriteFile(filepath.Join(dir, FileName), content, 0o640)
		e := open(t, dir)
		if len(e.Overrides()) != 1 {
			t.Errorf("meta page %d: overrides %v", page, e.Overrides())
		}
		if w := strings.Join(e.Notes(), "\n"); !strings.Contains(w, "half of the head") {
			t.Errorf("meta page %d: warnings %q", page, w)
		}
		if n := hosts(e); n != damageHosts {
			t.Errorf("meta page %d: %d hosts", page, n)
		}
		e.Close()
	}
}

// TestADamagedListOfFreePagesIsNotBelieved: earlier versions kept one in the file, which opened
// soundly and died with the first commit.
func TestADamagedListOfFreePagesIsNotBelieved(t *testing.T) {
	dir, _ := filled(t)
	path := filepath.Join(dir, FileName)
	db, err := bolt.Open(path, 0o640, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := db.Update(func(tx *bolt.Tx) error {
			return tx.Bucket(bucketMeta).Put([]byte("x"), []byte{byte(i)})
		}); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	content, _ := os.ReadFile(path)
	damaged := 0
	const freelistFlag = 0x10
	for page := range len(content) / usualPage {
		at := page * usualPage
		if content[at+8] == freelistFlag {
			// The first page in it is one that is in use.
			content[at+pageHead] ^= 0x3f
			damaged++
		}
	}
	if damaged == 0 {
		t.Fatal("no list of free pages in the file")
	}
	os.WriteFile(path, content, 0o640)
	e := open(t, dir)
	if n := hosts(e); n != damageHosts {
		t.Errorf("%d hosts", n)
	}
	e = goesOn(t, e, dir)
	defer e.Close()
	if n := hosts(e); n != damageHosts || len(e.Overrides()) != 1 {
		t.Errorf("after a restart %d hosts, %d overrides", n, len(e.Overrides()))
	}
}

// TestAFileThatIsDamagedWhileOpenIsBegunAnew does to an open file what disks and people do. Memory
// has all of it, so nothing is lost.
func TestAFileThatIsDamagedWhileOpenIsBegunAnew(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, path string) error{
		"cut to nothing":    func(_ *testing.T, path string) error { return os.Truncate(path, 0) },
		"cut to a page":     func(_ *testing.T, path string) error { return os.Truncate(path, usualPage) },
		"cut to half":       func(_ *testing.T, path string) error { return os.Truncate(path, 20*usualPage+17) },
		"removed":           func(_ *testing.T, path string) error { return os.Remove(path) },
		"directory removed": func(_ *testing.T, path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"replaced": func(_ *testing.T, path string) error {
			os.Remove(path)
			return os.WriteFile(path, []byte("another one"), 0o640)
		},
		"overwritten with zeros": func(t *testing.T, path string) error { return overwrite(t, path, 0, 0) },
		"overwritten with ones":  func(t *testing.T, path string) error { return overwrite(t, path, 2*usualPage, 0xff) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := filled(t)
			e := open(t, dir)
			if err := harm(t, filepath.Join(dir, FileName)); err != nil {
				t.Fatal(err)
			}
			learn(e, "203.0.113.9", 1, 0)
			e = goesOn(t, e, dir)
			defer e.Close()
			if n := hosts(e); n != damageHosts || len(e.Overrides()) != 1 || count(e, keys("203.0.113.9").Host).Spam != reputation.Unit {
				t.Errorf("%d hosts, %d overrides, %d units of what was learnt last", n, len(e.Overrides()), count(e, keys("203.0.113.9").Host).Spam)
			}
		})
	}
}

func overwrite(t *testing.T, path string, from int64, with byte) error {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{with}, int(info.Size()-from)), from)
	return err
}

// TestADirectoryRemovedIsNoticedWithoutTraffic: nobody has to learn anything for it.
func TestADirectoryRemovedIsNoticedWithoutTraffic(t *testing.T) {
	dir, _ := filled(t)
	e := open(t, dir)
	os.RemoveAll(dir)
	e.inspect()
	if w := e.Notes(); len(w) == 0 {
		t.Error("nobody is told")
	}
	e.Close()
	if err := Verify(dir, policy.Default().Layout); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, FileName)); err != nil {
		t.Error(err)
	}
}

// denies is a store's overrides, as text.
func denies(e *Embedded) string {
	var all []string
	for _, o := range e.Overrides() {
		all = append(all, o.Network.String())
	}
	return strings.Join(all, " ")
}

// TestACopyOfTheOverridesThatIsOutOfDateIsNotBelieved: what was lifted stays lifted, and what was
// set since is in force, when only evidence is damaged.
func TestACopyOfTheOverridesThatIsOutOfDateIsNotBelieved(t *testing.T) {
	dir, _ := filled(t)
	copied := filepath.Join(dir, CopyName)
	old, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	e := open(t, dir)
	later := policy.Override{Network: netip.MustParsePrefix("203.0.113.0/24")}
	if err := e.SetOverride(later); err != nil {
		t.Fatal(err)
	}
	if _, err := e.LiftOverride(denied.Network); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, FileName)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	record, err := key{network: keys(damageHost(7)).Host}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(content, record)
	if at < 0 {
		t.Fatal("no record found")
	}
	content[at+len(record)+8] ^= 1
	if err := errors.Join(os.WriteFile(copied, old, 0o640), os.WriteFile(path, content, 0o640)); err != nil {
		t.Fatal(err)
	}
	e = open(t, dir)
	if got := denies(e); got != later.Network.String() {
		t.Errorf("the overrides are %q", got)
	}
	if len(e.Notes()) == 0 {
		t.Error("the damage was not found")
	}
	e = goesOn(t, e, dir)
	defer e.Close()
	if text, err := os.ReadFile(copied); err != nil || bytes.Contains(text, []byte(denied.Network.String())) || !bytes.Contains(text, []byte(later.Network.String())) {
		t.Errorf("the copy is %s, %v", text, err)
	}
}

// TestOverridesAreReadFromTheirCopyAlone, where there is nothing else.
func TestOverridesAreReadFromTheirCopyAlone(t *testing.T) {
	dir, _ := filled(t)
	for _, name := range []string{FileName, LockName} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	e := open(t, dir)
	defer e.Close()
	if denies(e) != denied.Network.String() || len(e.Notes()) != 1 {
		t.Errorf("the overrides are %q, the notes %q", denies(e), e.Notes())
	}
}

// TestThereIsAFileAtEveryMomentOfARepair, so that a kill loses nothing that could be read.
func TestThereIsAFileAtEveryMomentOfARepair(t *testing.T) {
	_, content := filled(t)
	bad := bytes.Clone(content)
	copy(bad[5*usualPage:], bytes.Repeat([]byte{0xff}, usualPage))
	for range 10 {
		dir := t.TempDir()
		path := filepath.Join(dir, FileName)
		if err := os.WriteFile(path, bad, 0o640); err != nil {
			t.Fatal(err)
		}
		stop, missing := make(chan struct{}), make(chan int)
		go func() {
			n := 0
			for {
				select {
				case <-stop:
					missing <- n
					return
				default:
				}
				if _, err := os.Lstat(path); err != nil {
					n++
				}
			}
		}()
		e := open(t, dir)
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		close(stop)
		if n := <-missing; n > 0 {
			t.Errorf("the file was missing %d times", n)
		}
		if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) != 1 {
			t.Errorf("moved aside: %v", aside)
		}
	}
}

// TestAStopRightAfterARenewalLeavesAFile, although renewals are ten seconds apart.
func TestAStopRightAfterARenewalLeavesAFile(t *testing.T) {
	dir, _ := filled(t)
	path := filepath.Join(dir, FileName)
	e := open(t, dir)
	for i := range 2 {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		err := e.SetOverride(policy.Override{Network: netip.MustParsePrefix(fmt.Sprintf("203.0.%d.0/24", i))})
		if (err != nil) != (i == 1) {
			t.Errorf("override %d: %v", i, err)
		}
	}
	learnt := e.Learn(keys("203.0.113.7"), policy.Lesson{At: noon, Spam: 1})
	if err := e.Close(); err != nil {
		t.Errorf("closed: %v", err)
	}
	<-learnt
	again := open(t, dir)
	defer again.Close()
	if n := hosts(again); n != damageHosts {
		t.Errorf("%d hosts of %d", n, damageHosts)
	}
	if got := count(again, keys("203.0.113.7").Host).Spam; got != reputation.Unit {
		t.Errorf("the last lesson: %d units", got)
	}
	if got := denies(again); got != denied.Network.String()+" 203.0.0.0/24" {
		t.Errorf("the overrides are %q", got)
	}
}

// TestAnOverrideOfALaterVersionIsKept: one may have keys that this version does not know, and is
// sound all the same.
func TestAnOverrideOfALaterVersionIsKept(t *testing.T) {
	for note, sound := range map[string]bool{"kept": true, "kepd": false} {
		dir, _ := filled(t)
		db, err := bolt.Open(filepath.Join(dir, FileName), 0o640, bolted.Options())
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bolt.Tx) error {
			later := struct {
				policy.Override
				Ticket string `json:"ticket"`
			}{denied, "4711"}
			b, key := tx.Bucket(bucketOverrides), overrideKey(denied.Network)
			if err := putJSON(b, key, later); err != nil {
				return err
			}
			return b.Put(key, bytes.Replace(b.Get(key), []byte("kept"), []byte(note), 1))
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		e := open(t, dir)
		if denies(e) != denied.Network.String() || sound != (len(e.Notes()) == 0) {
			t.Errorf("note %q: the overrides are %q, the notes %q", note, denies(e), e.Notes())
		}
		e.Close()
	}
}
