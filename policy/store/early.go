package store

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/ehlogate/ehlogate/policy"
)

// mostEarly bounds the lessons that wait until all is read.
const mostEarly = 200_000

// ErrStarting is what a change gets for which there is no room until all is read.
var ErrStarting = errors.New("store: still reading what it has")

// early are lessons that came before all was read.
type early struct {
	sync.Mutex
	// known says that all that was known is in memory, over that lessons need not wait any more.
	known, over atomic.Bool
	ready       chan struct{}
	lessons     []earlyLesson
	// journalled are those of the journal.
	journalled []earlyLesson
}

type earlyLesson struct {
	policy.Keys
	policy.Lesson
	committed chan<- error
}

// Ready is closed when all is read.
func (e *Embedded) Ready() <-chan struct{} { return e.early.ready }

// wait lets a lesson wait until all is read, unless that is so by now.
func (e *Embedded) wait(k policy.Keys, l policy.Lesson, committed chan<- error) bool {
	e.early.Lock()
	defer e.early.Unlock()
	switch {
	case e.early.over.Load():
		return false
	case len(e.early.lessons) == mostEarly:
		committed <- ErrStarting
	default:
		// Many lines would take much memory.
		l.Line = nil
		e.early.lessons = append(e.early.lessons, earlyLesson{k, l, committed})
	}
	return true
}

// start learns what came before all was read.
func (e *Embedded) start() {
	e.early.Lock()
	defer e.early.Unlock()
	for _, l := range e.early.journalled {
		// The file has them with the next commit. Until then their part of the journal stays.
		e.Memory.Learn(l.Keys, l.Lesson)
		e.queue.note(keysOf(l.Keys))
	}
	for _, l := range e.early.lessons {
		e.learn(l.Keys, l.Lesson, l.committed)
	}
	e.early.journalled, e.early.lessons = nil, nil
	e.early.known.Store(true)
	e.early.over.Store(true)
	close(e.early.ready)
}
