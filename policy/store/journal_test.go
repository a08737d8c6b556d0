package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// died is a directory as a process leaves it that is killed now.
func died(t *testing.T, dir string) (left string) {
	t.Helper()
	left = t.TempDir()
	if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return left
}

// newestPart is the journal's newest part that has records.
func newestPart(t *testing.T, dir string) string {
	t.Helper()
	all := parts(dir)
	for i := len(all) - 1; i >= 0; i-- {
		path := all[i].path
		if b, err := os.ReadFile(path); err == nil && strings.Count(string(b[:min(len(b), 100)]), "\n") > 0 && len(b) > len(journalFormat)+30 {
			return path
		}
	}
	t.Fatalf("no part with records among %v", all)
	return ""
}

// sum is what the hosts 192.0.2.1 to n have learnt, and what they say in their network together.
func sum(e *Embedded, n int) (hosts, network reputation.Mass) {
	var says reputation.Evidence
	for i := 1; i <= n; i++ {
		host := e.get(key{network: keys(fmt.Sprintf("192.0.2.%d", i)).Host})
		m := host.Total()
		hosts.Spam, hosts.Ham = hosts.Spam+m.Spam, hosts.Ham+m.Ham
		says = says.With(host)
	}
	if got := e.get(key{network: keys("192.0.2.1").Network}); got.Total() != says.Total() {
		return hosts, reputation.Mass{Spam: -1, Ham: -1}
	}
	return hosts, says.Total()
}

// A journal that ends anywhere has the lessons before its end, each once, and a second start has
// the same.
func TestTheJournalMayEndAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	for i := 1; i <= 3; i++ {
		if err := learn(e, fmt.Sprintf("192.0.2.%d", i), 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.commit(); err != nil {
		t.Fatal(err)
	}
	for i := 3; i <= 5; i++ {
		if err := learn(e, fmt.Sprintf("192.0.2.%d", i), 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	left := died(t, dir)
	part := newestPart(t, left)
	whole, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	// ends are where the records end.
	var ends []int
	for at := bytes.IndexByte(whole, '\n') + 1; at < len(whole); {
		at += recordHead + int(binary.LittleEndian.Uint32(whole[at:]))
		ends = append(ends, at)
	}
	if len(ends) != 3 || ends[2] != len(whole) {
		t.Fatalf("the records end at %v of %d bytes", ends, len(whole))
	}
	for length := len(whole); length >= 0; length-- {
		want := 3.0
		for _, end := range ends {
			if end <= length {
				want++
			}
		}
		one := died(t, left)
		if err := os.WriteFile(filepath.Join(one, filepath.Base(part)), whole[:length], 0o600); err != nil {
			t.Fatal(err)
		}
		// The second start is that of a file which has what the journal had.
		for range 1 + length%2 {
			e, err := Open(one, options())
			if err != nil {
				t.Fatal(err)
			}
			<-e.Ready()
			if hosts, network := sum(e, 5); hosts.Spam != want || network.Spam < 0 {
				t.Fatalf("%d bytes of %d: the hosts have %v, want %v; the network %v", length, len(whole), hosts, want, network)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Wherever the step is cut off that brings the file up to date, each lesson counts once.
func TestAStepMayBeCutOffAnywhere(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	check := func(when, dir string, want float64) {
		t.Helper()
		e, err := Open(dir, options())
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		<-e.Ready()
		if hosts, network := sum(e, 20); hosts.Spam != want || network.Spam < 0 {
			t.Errorf("%s: the hosts have %v, want %v; the network %v", when, hosts.Spam, want, network)
		}
	}
	for round := 1; round <= 3; round++ {
		for i := 1; i <= 20; i++ {
			if err := learn(e, fmt.Sprintf("192.0.2.%d", i), 1, 0); err != nil {
				t.Fatal(err)
			}
		}
		want := float64(20 * round)
		before := died(t, dir)
		check("before the step", died(t, before), want)
		// A part is begun, and the file not written yet.
		s := func() step { e.committing.Lock(); defer e.committing.Unlock(); return e.take() }()
		check("with a part begun", died(t, dir), want)
		for k := range s.values {
			e.queue.note([]key{k})
		}
		if err := e.commit(); err != nil {
			t.Fatal(err)
		}
		after := died(t, dir)
		check("after the step", died(t, after), want)
		// The file is written, and its old part not removed yet.
		for _, p := range parts(before) {
			name := filepath.Base(p.path)
			b, _ := os.ReadFile(filepath.Join(before, name))
			os.WriteFile(filepath.Join(after, name), b, 0o600)
		}
		check("with the old part still there", after, want)
	}
}

// learnerDir has a test binary learn in that directory until it is killed.
const learnerDir = "EHLOGATE_TEST_LEARNER"

// TestALearner is not a test by itself: it is the process that the next one kills.
func TestALearner(t *testing.T) {
	dir := os.Getenv(learnerDir)
	if dir == "" {
		return
	}
	e, err := Open(dir, options())
	if err != nil {
		t.Fatal(err)
	}
	<-e.Ready()
	var mu sync.Mutex
	for i := 1; i <= 8; i++ {
		go func() {
			for {
				if err := learn(e, fmt.Sprintf("192.0.2.%d", i), 1, 0); err == nil {
					mu.Lock()
					fmt.Printf("learnt %d\n", i)
					mu.Unlock()
				}
			}
		}()
	}
	for {
		e.commit()
		if rand.IntN(3) == 0 {
			e.committing.Lock()
			// As if somebody had removed the file: a new one is written while others learn.
			e.found.renewed = time.Time{}
			e.abandon(errors.New("the test wants a new file"))
			e.renew()
			e.committing.Unlock()
		}
	}
}

// A process that is killed while it learns, and brings its file up to date, and begins a new one,
// loses nothing that it has acknowledged, and the next one counts nothing twice.
func TestAKilledLearnerLosesNothing(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[string]float64{}
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestALearner$")
		cmd.Env = append(os.Environ(), learnerDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(time.Duration(100+rand.IntN(400))*time.Millisecond, func() { cmd.Process.Kill() })
		learnt := 0
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if host, ok := strings.CutPrefix(sc.Text(), "learnt "); ok {
				acknowledged[host]++
				learnt++
			}
		}
		cmd.Wait()
		kill.Stop()
		left := died(t, dir)
		e, err := Open(left, options())
		if err != nil {
			t.Fatal(err)
		}
		<-e.Ready()
		for host, n := range acknowledged {
			got := e.get(key{network: keys("192.0.2." + host).Host}).Total().Spam
			// One more may be under way in each round, and what was written may not be read.
			if got < n || got > n+float64(round+1) {
				t.Errorf("round %d: %v lessons of host %s are known, %v were acknowledged", round, got, host, n)
			}
		}
		if hosts, network := sum(e, 8); network.Spam < 0 {
			t.Errorf("round %d: the network does not have what its hosts say: %v", round, hosts)
		}
		if learnt == 0 && round > 3 {
			t.Logf("round %d learnt nothing", round)
		}
		e.Close()
	}
	if len(acknowledged) != 8 {
		t.Errorf("only %d hosts were learnt of", len(acknowledged))
	}
}

// On a full disk, lessons wait for the file, as without a journal; when there is room, they are in
// it, and the journal goes on.
func TestAFullDiskOnlyDelaysLessons(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	e := open(t, dir)
	ballast := filepath.Join(dir, "ballast")
	if os.WriteFile(ballast, make([]byte, 2<<20), 0o600) == nil {
		t.Fatal("the disk is not full")
	}
	var waiting []<-chan error
	for i := range 400 {
		waiting = append(waiting, e.Learn(keys(damageHost(i)), policy.Lesson{At: noon, Spam: 1, Ham: 2}))
	}
	failed := 0
	for _, w := range waiting {
		if err := <-w; err != nil {
			failed++
		}
	}
	if failed == 0 || e.Stats.JournalFailed.Load() == 0 {
		t.Errorf("%d of %d lessons failed, %d writes of the journal", failed, len(waiting), e.Stats.JournalFailed.Load())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for e.Fault() != nil || e.Stats.Commits.Load() == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("there is room, and still: %v", e.Fault())
		}
		time.Sleep(50 * time.Millisecond)
	}
	journalled := e.Stats.Journalled.Load()
	if err := learn(e, "203.0.113.7", 1, 0); err != nil || e.Stats.Journalled.Load() == journalled {
		t.Errorf("%v; the journal does not go on", err)
	}
	again, err := Open(died(t, dir), options())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	<-again.Ready()
	known := 0
	for i := range 400 {
		if again.get(key{network: keys(damageHost(i)).Host}).Total() == (reputation.Mass{Spam: 1, Ham: 2}) {
			known++
		}
	}
	if known != 400 || count(again, keys("203.0.113.7").Host).Spam != reputation.Unit {
		t.Errorf("of 400 hosts %d are known", known)
	}
}

// Who asks for it waits until a lesson is on disk.
func TestSyncAlways(t *testing.T) {
	o := options()
	o.Always = true
	e, err := Open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := learn(e, "192.0.2.1", 1, 0); err != nil {
		t.Fatal(err)
	}
	e.journal.mu.Lock()
	defer e.journal.mu.Unlock()
	if e.journal.part.unsynced || e.journal.part.whole == 0 {
		t.Error("acknowledged, and not on disk")
	}
}

// The lines that go with lessons come back, and what is not a journal, or another store's, is left
// alone and said.
func TestTheJournalKeepsLines(t *testing.T) {
	dir := t.TempDir()
	e := open(t, dir)
	if err := <-e.Learn(keys("192.0.2.1"), policy.Lesson{At: noon, Ham: 1, Line: []byte(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	left := died(t, dir)
	if err := os.WriteFile(filepath.Join(left, "reputation-7.journal"), []byte("ehlogate journal 1 OTHER\nxx"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "reputation-8.journal"), []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Open(left, options())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	<-again.Ready()
	if lines := again.Lines(); len(lines) != 1 || string(lines[0]) != `{"a":1}` {
		t.Errorf("lines %q", lines)
	}
	if notes := again.Notes(); len(notes) != 2 {
		t.Errorf("notes %q, want one for each strange part", notes)
	}
	if count(again, keys("192.0.2.1").Host).Ham != reputation.Unit {
		t.Error("the lesson is not known")
	}
}

func BenchmarkLearn(b *testing.B) {
	e, err := Open(b.TempDir(), options())
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	k, l := keys("192.0.2.1"), policy.Lesson{At: noon, Spam: 1}
	for b.Loop() {
		if err := <-e.Learn(k, l); err != nil {
			b.Fatal(err)
		}
	}
}
