// Package account counts the lines of event logs in a ledger: those of the daemon's own log as they
// are written, and those of any files that an operator names.
package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	fast "github.com/go-json-experiment/json"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

const (
	// readEvery is how often it is looked for new lines, flushEvery how often counts are written
	// and published.
	readEvery, flushEvery = time.Second, 10 * time.Second
	// flushLines is after how many lines they are written when many are there at once.
	flushLines = 200_000
)

// Change is what an event changes in the counts: Entry is counted, and Was is taken back, if it is
// not nil. Back says that Entry is taken back itself.
type Change struct {
	Entry ledger.Entry
	Was   *ledger.Entry
	Back  bool
}

// Of is what an event changes; ok is false where that is nothing.
func Of(e *eventlog.Event) (c Change, ok bool) {
	m, ok := e.Message()
	facts := e.Facts()
	if !ok || facts == nil {
		// It is of evidence that was dropped, or a correction that does not say of what.
		return c, false
	}
	c.Entry = ledger.Entry{
		Time: m.Time, Addr: m.Client.Addr, Message: facts.Message, Unheard: e.Session == "" && !facts.InClear, Own: m.Authenticated || m.Submission,
		Verdict: e.Verdict, Trouble: m.Trouble, Facts: *facts,
	}
	counted := e.Session != "" && e.Nth <= 1
	switch {
	case e.Corrected == nil:
		c.Entry.Session = counted
		return c, !e.Reinjected
	case e.NewlyReinjected:
		c.Entry.Session, c.Back = counted, true
		return c, true
	case e.Reinjected:
		return c, false
	}
	c.Entry.Forgotten = e.Forgotten != nil
	was := c.Entry
	if was.Verdict = e.Was; e.Forgotten != nil {
		was.Verdict = *e.Forgotten
	}
	if e.NewTrouble {
		was.Trouble = ""
	}
	c.Was = &was
	return c, was.Verdict.Class != c.Entry.Verdict.Class || was.Verdict.Source != c.Entry.Verdict.Source || e.NewTrouble
}

// Count counts what an event changes.
func (c *Change) Count(l *ledger.Ledger) {
	if c.Was != nil {
		l.Count(c.Was, true)
	}
	l.Count(&c.Entry, c.Back)
}

// Count counts what an event changes in a ledger, or has it forget what the event says was
// forgotten.
func Count(l *ledger.Ledger, e *eventlog.Event) {
	if n, ok := e.Dropped(); ok {
		l.Forget(n)
	} else if c, ok := Of(e); ok {
		c.Count(l)
	}
}

// Keeper keeps a ledger of an event log.
type Keeper struct {
	Ledger *ledger.Ledger
	// Alarms looks for waves in it.
	Alarms *Alarms
	// Tail shows what is written to it.
	Tail *Tail
	// Events is the path of the event log.
	Events string
	Now    func() time.Time
	Log    *slog.Logger

	// Counted is how many lines were counted since the start, Malformed how many were none.
	Counted, Malformed atomic.Uint64
	// left is how many bytes of the event log are being read, of those that were there when that
	// began.
	left atomic.Int64
	// fault is why counts could not be written or published, nil where they could.
	fault atomic.Pointer[error]

	// since is what was counted since the start, by first verdicts; corrected are later ones.
	mu        sync.Mutex
	since     ledger.Counts
	corrected map[[2]policy.Class]uint64

	started time.Time
	// soon has read what is written at once, and closes what it gets.
	soon chan chan struct{}

	position eventlog.Position
	begun    bool
	flushed  time.Time
	lines    int
}

// NewKeeper returns a keeper of a ledger.
func NewKeeper(l *ledger.Ledger, alarms *Alarms, tail *Tail, events string, now func() time.Time, log *slog.Logger) *Keeper {
	return &Keeper{Ledger: l, Alarms: alarms, Tail: tail, Events: events, Now: now, Log: log, started: now(), soon: make(chan chan struct{})}
}

// Fault is why counts could not be written or published the last time, nil where they could.
func (k *Keeper) Fault() error {
	if err := k.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// mostLeft is how much of the event log may be read without a word: it is done in a moment.
const mostLeft = 1 << 20

// Behind is how many bytes of the event log are not counted yet, where they are so many that it
// takes its time: after the first start, or when the counts were lost.
func (k *Keeper) Behind() (left int64, behind bool) {
	left = k.left.Load()
	return left, left > mostLeft
}

// Run counts what is written to the event log until the context ends.
func (k *Keeper) Run(ctx context.Context) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		k.Step(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case read := <-k.soon:
			k.Step(ctx)
			close(read)
		}
	}
}

// CatchUp waits until what is written is counted, but not for long: after the event log was
// rotated, and before logrotate(8) compresses the old file.
func (k *Keeper) CatchUp() {
	read := make(chan struct{})
	late := time.After(readEvery)
	select {
	case k.soon <- read:
	case <-late:
		return
	}
	select {
	case <-read:
	case <-late:
	}
}

// Step counts what has been written since the last one, and writes the counts if it is time.
func (k *Keeper) Step(ctx context.Context) {
	err := k.read(ctx)
	flushed := k.Now().Sub(k.flushed).Abs() >= flushEvery
	if flushed {
		err = errors.Join(err, k.flush(ctx))
	}
	err = errors.Join(err, k.Alarms.look(ctx), k.Tail.relay(ctx, k.Now()))
	if err != nil && ctx.Err() == nil && k.Fault() == nil {
		k.Log.Error("what is in the event log cannot be counted now, or not be shared with other nodes; it is counted later", "error", err)
	} else if err == nil && flushed && k.Fault() != nil {
		k.Log.Info("counts are written again")
	}
	switch {
	case err == nil && flushed:
		k.fault.Store(nil)
	case err != nil:
		k.fault.Store(&err)
	}
}

// Close counts what is left and writes the counts.
func (k *Keeper) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	defer k.Alarms.stop(ctx)
	return errors.Join(k.read(ctx), k.flush(ctx), k.Ledger.Close())
}

// closeWait is how long a stop waits for the last counts. What was not counted then is counted
// after the next start.
const closeWait = time.Second

// read counts the lines that were written since the last time.
func (k *Keeper) read(ctx context.Context) error {
	from := &k.position
	if !k.begun {
		if b := k.Ledger.Position(); b == nil {
			from = nil
		} else if err := json.Unmarshal(b, &k.position); err != nil {
			return fmt.Errorf("the position in the event log: %w", err)
		}
		k.begun = true
	}
	k.left.Store(eventlog.After(k.Events, from))
	defer k.left.Store(0)
	var flushed error
	at, err := eventlog.ReadOn(ctx, k.Events, from, func(line []byte, after eventlog.Position) bool {
		k.line(line)
		k.left.Add(-int64(len(line)))
		if k.lines++; k.lines >= flushLines {
			k.position = after
			flushed = k.flush(ctx)
		}
		return flushed == nil
	})
	k.position = at
	return errors.Join(err, flushed)
}

func (k *Keeper) line(line []byte) {
	var e eventlog.Event
	if err := fast.Unmarshal(line, &e, eventlog.Lenient); err != nil {
		k.Malformed.Add(1)
		return
	}
	k.Counted.Add(1)
	if n, ok := e.Dropped(); ok {
		k.Ledger.Forget(n)
		return
	}
	c, ok := Of(&e)
	if !ok {
		return
	}
	c.Count(k.Ledger)
	// Before the start, it was counted by another process, or is read for the first time.
	if !c.Back && !e.Time.Before(k.started) {
		k.sum(&c)
	}
}

// sum keeps what was counted since the start, in counts that never go down: a later verdict is
// counted as that.
func (k *Keeper) sum(c *Change) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.Was == nil {
		k.since.Add(&c.Entry, 1)
		return
	}
	if c.Was.Trouble != c.Entry.Trouble {
		trouble := c.Entry
		trouble.Message = false
		k.since.Add(&trouble, 1)
	}
	if from, to := c.Was.Verdict.Class, c.Entry.Verdict.Class; from != to && c.Entry.Message {
		if k.corrected == nil {
			k.corrected = map[[2]policy.Class]uint64{}
		}
		k.corrected[[2]policy.Class{from, to}]++
	}
}

// Since is what was counted since the start, by first verdicts, and how many verdicts were replaced
// by another class.
func (k *Keeper) Since() (*ledger.Report, map[[2]policy.Class]uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.since.Summary(0), maps.Clone(k.corrected)
}

func (k *Keeper) flush(ctx context.Context) error {
	if k.position == (eventlog.Position{}) {
		return nil
	}
	k.flushed, k.lines = k.Now(), 0
	b, err := json.Marshal(k.position)
	if err != nil {
		return err
	}
	return k.Ledger.Flush(ctx, b)
}
