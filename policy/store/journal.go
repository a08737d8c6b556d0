package store

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/regular"
)

// The journal has the lessons that the store's file has not yet. A lesson is appended to it and is
// then as safe as write(2) makes it: from the end of the process at once, and from a power cut a
// second later. The file follows in large steps, each of which begins a new part of the journal;
// the file says which part is the first that is not in it, so that no lesson counts twice.
//
// A part is a file "reputation-N.journal": a line that says what it is and of which store, then
// records. A record is its length (4 bytes), a CRC-32C, and a lesson, with the line of the event
// log that goes with it: who dies between the two writes that one later.
const (
	journalPrefix = "reputation-"
	journalSuffix = ".journal"
	// committedMark is in the names of those whose lessons are in the store's file.
	committedMark = "-committed"
	journalFormat = "ehlogate journal 1"
)

const (
	// stepEvery is how often the file is brought up to date, stepAt the length of a part of the
	// journal, in bytes, at which that is done earlier.
	stepEvery = time.Minute
	stepAt    = 32 << 20
	// syncEvery is how often the journal is brought to disk.
	syncEvery = time.Second
	// mostRecord bounds a record: a line of the event log has some hundreds of bytes.
	mostRecord = 1 << 20
)

// recordHead is a record's length and checksum.
const recordHead = 8

// journal appends lessons to its newest part.
type journal struct {
	dir, id string
	// always says that a lesson waits until it is on disk.
	always bool
	log    *slog.Logger
	stats  *Stats
	// failed is told whose lessons could not be written, so that they go into the file at once.
	failed  func(waiting []chan<- error)
	failing rate.Sometimes

	mu sync.Mutex
	// part is the newest; nil where none can be written.
	part *part
	// batches are records on their way to the parts, in order; the last one is that of the newest
	// part, as long as nobody writes it.
	batches []*batch
	wake    chan struct{}
}

// part is a file of the journal.
type part struct {
	file   *os.File
	path   string
	number uint64
	// size counts what was appended, or is on its way; whole is how long the file is; writing is by
	// one at a time.
	size, whole int64
	// broken says that the file has a half record at its end.
	broken bool
	// unsynced says that not all of it is on disk; the journal's mu guards it.
	unsynced bool
}

// batch is what one write(2) takes to a part, and who waits for it.
type batch struct {
	part    *part
	records []byte
	waiting []chan<- error
	// last says that nothing more goes to the part.
	last bool
}

// append has a lesson written to the newest part, and committed told when it is. It reports whether
// there is one, and whether that is long enough for the file to follow.
func (j *journal) append(k policy.Keys, l policy.Lesson, committed chan<- error) (ok, long bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.part == nil {
		return false, false
	}
	var b *batch
	if n := len(j.batches); n > 0 && j.batches[n-1].part == j.part && !j.batches[n-1].last {
		b = j.batches[n-1]
	} else {
		b = &batch{part: j.part}
		j.batches = append(j.batches, b)
	}
	before := len(b.records)
	b.records = appendLesson(b.records, k, l)
	b.waiting = append(b.waiting, committed)
	j.part.size += int64(len(b.records) - before)
	rouse(j.wake)
	return true, j.part.size >= stepAt
}

// run writes batches until the context ends.
func (j *journal) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.wake:
			j.flush()
		}
	}
}

// flush writes what waits.
func (j *journal) flush() {
	j.mu.Lock()
	batches := j.batches
	j.batches = nil
	j.mu.Unlock()
	for _, b := range batches {
		if b.last {
			// Should the step fail for which it was ended, it has what the file has not.
			go b.part.end()
			continue
		}
		err := b.part.write(b.records)
		if err == nil && j.always {
			err = b.part.file.Sync()
		}
		if err != nil {
			j.unwritten(b.part.path, err)
			j.abandon(b.part)
			j.failed(b.waiting)
			continue
		}
		j.mu.Lock()
		b.part.unsynced = !j.always
		j.mu.Unlock()
		j.stats.Journalled.Add(uint64(len(b.waiting)))
		for _, w := range b.waiting {
			w <- nil
		}
	}
}

// write appends records, or nothing.
func (p *part) write(records []byte) error {
	if p.broken {
		return errors.New("it ends with a half record")
	}
	n, err := p.file.Write(records)
	if err != nil && n > 0 {
		if cut := p.file.Truncate(p.whole); cut != nil {
			p.broken = true
			err = errors.Join(err, cut)
		}
		n = 0
	}
	p.whole += int64(n)
	return err
}

// end brings a part to disk and closes it.
func (p *part) end() {
	p.file.Sync()
	p.file.Close()
}

// unwritten counts that a part could not be written, and says so once a minute.
func (j *journal) unwritten(path string, err error) {
	j.stats.JournalFailed.Add(1)
	j.failing.Do(func() {
		j.log.Error("the store's journal cannot be written; what is learnt goes into the store's file at once", "file", path, "error", err)
	})
}

// abandon appends nothing more to a part.
func (j *journal) abandon(p *part) {
	j.mu.Lock()
	newest := j.part == p
	j.mu.Unlock()
	if newest {
		j.use(nil)
	}
}

// sync brings the newest part to disk.
func (j *journal) sync() {
	j.mu.Lock()
	p := j.part
	if p == nil || !p.unsynced {
		j.mu.Unlock()
		return
	}
	p.unsynced = false
	j.mu.Unlock()
	if err := p.file.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		j.unwritten(p.path, err)
		j.abandon(p)
		j.failed(nil)
	}
}

// begin makes a new part, which is to take the place of the newest.
func (j *journal) begin(number uint64) (*part, error) {
	path := j.pathOf(number)
	// What has that name is of a start that failed.
	os.Remove(path)
	f, err := regular.Append(path, fileMode)
	if err != nil {
		return nil, err
	}
	head := journalFormat + " " + j.id + "\n"
	if _, err := f.WriteString(head); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return &part{file: f, path: path, number: number, whole: int64(len(head))}, nil
}

// use makes a part the newest, nil for none. What is on its way to the one before is written still.
func (j *journal) use(p *part) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.part != nil {
		j.batches = append(j.batches, &batch{part: j.part, last: true})
		rouse(j.wake)
	}
	j.part = p
}

// storedPart is a part in a directory.
type storedPart struct {
	number uint64
	path   string
	// committed says that its lessons are in the store's file.
	committed bool
}

// parts are those in a directory, in order.
func parts(dir string) (all []storedPart) {
	files, _ := filepath.Glob(filepath.Join(dir, journalPrefix+"*"+journalSuffix))
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), journalPrefix), journalSuffix)
		name, committed := strings.CutSuffix(name, committedMark)
		if n, err := strconv.ParseUint(name, 10, 64); err == nil && strconv.FormatUint(n, 10) == name {
			all = append(all, storedPart{n, f, committed})
		}
	}
	slices.SortFunc(all, func(a, b storedPart) int { return cmp.Compare(a.number, b.number) })
	return all
}

// removeParts removes the parts before a number.
func (j *journal) removeParts(before uint64) {
	for _, p := range parts(j.dir) {
		if p.number < before {
			os.Remove(p.path)
		}
	}
}

// markParts marks the parts that are in the store's file: those before a number. The file says so
// itself, but may lose its head.
func (j *journal) markParts(before uint64) {
	for _, p := range parts(j.dir) {
		if p.number < before && !p.committed {
			os.Rename(p.path, strings.TrimSuffix(p.path, journalSuffix)+committedMark+journalSuffix)
		}
	}
}

// storeOf is the name of the store that a part is of, "" where it does not say.
func (p *storedPart) storeOf() string {
	f, err := regular.Open(p.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	head, err := bufio.NewReader(io.LimitReader(f, 1<<10)).ReadString('\n')
	if err != nil {
		return ""
	}
	return storeIn(strings.TrimSuffix(head, "\n"))
}

func (j *journal) pathOf(number uint64) string {
	return filepath.Join(j.dir, journalPrefix+strconv.FormatUint(number, 10)+journalSuffix)
}

// end closes the journal. What is in the file is not kept in it.
func (j *journal) end(committed bool) {
	j.use(nil)
	j.flush()
	if committed {
		j.removeParts(math.MaxUint64)
	}
}

// readJournal reads the lessons that the file does not have.
func (e *Embedded) readJournal() {
	j := e.journal
	all := parts(j.dir)
	if e.id == "" {
		// The file has lost its head, so that its journal has to say what it was.
		for _, p := range all {
			e.id = cmp.Or(p.storeOf(), e.id)
			if p.committed {
				e.from = p.number + 1
			}
		}
	}
	j.id = e.id
	e.next = e.from
	for _, p := range all {
		e.next = max(e.next, p.number+1)
		if p.number < e.from {
			continue
		}
		left, err := p.eachLesson(j.id, func(k policy.Keys, l policy.Lesson) {
			if len(l.Line) > 0 {
				e.lines = append(e.lines, l.Line)
			}
			l.Line = nil
			e.early.journalled = append(e.early.journalled, earlyLesson{Keys: k, Lesson: l})
		})
		if err != nil {
			e.found.note(e.log, "a part of the store's journal cannot be read: lessons of the last minute may be lost", "file", p.path, "error", err, "bytes", left)
		} else if left > 0 {
			e.log.Warn("the store's journal ends within a record: the power went, or the disk was full", "file", p.path, "bytes", left)
		}
	}
	if n := len(e.early.journalled); n > 0 {
		e.log.Info("the last stop was not in good order: lessons are taken from the journal", "lessons", n)
	}
}

// Lines are the lines of the event log that go with the lessons which the last process had
// journalled and not yet committed: the last of them may be missing there.
func (e *Embedded) Lines() [][]byte {
	lines := e.lines
	// They are all of a part, and are asked for once.
	e.lines = nil
	return lines
}

// beginJournal begins the first part.
func (e *Embedded) beginJournal() {
	e.committing.Lock()
	defer e.committing.Unlock()
	e.journal.id = e.id
	e.journal.use(e.nextPart())
}

// nextPart begins a part, and returns nil if it cannot be written. committing is held.
func (e *Embedded) nextPart() *part {
	p, err := e.journal.begin(e.next)
	if err != nil {
		e.journal.unwritten(e.journal.pathOf(e.next), err)
		return nil
	}
	e.next++
	return p
}

// turn makes a part the newest, nil for none, unless nothing is in the newest yet. It returns the
// number of the first part that has only what comes from now on. committing and gate are held.
func (e *Embedded) turn(next *part) uint64 {
	j := e.journal
	j.mu.Lock()
	newest := j.part
	fresh := newest != nil && newest.size == 0
	j.mu.Unlock()
	if fresh {
		if next != nil {
			next.file.Close()
			os.Remove(next.path)
		}
		return newest.number
	}
	j.use(next)
	if next == nil {
		return e.next
	}
	return next.number
}

// syncLoop brings the journal to disk once a second.
func (e *Embedded) syncLoop(ctx context.Context) {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			e.journal.sync()
		}
	}
}
