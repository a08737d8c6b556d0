package store

import (
	"sync"

	"github.com/ehlogate/ehlogate/policy"
)

// postponed are lessons that wait while a new file is written of all that is in memory.
type postponed struct {
	sync.Mutex
	lessons []earlyLesson
}

// add has a lesson wait, and reports whether it does; nil has none wait.
func (p *postponed) add(k policy.Keys, l policy.Lesson) bool {
	if p == nil {
		return false
	}
	p.Lock()
	defer p.Unlock()
	p.lessons = append(p.lessons, earlyLesson{Keys: k, Lesson: l})
	return true
}

// putOffLessons keeps memory as it is, until learnOn is called, and returns the first part of the
// journal that has only what comes after it. committing is held.
func (e *Embedded) putOffLessons() (from uint64, learnOn func()) {
	if !e.early.over.Load() {
		return e.from, func() {}
	}
	next := e.nextPart()
	e.gate.Lock()
	defer e.gate.Unlock()
	e.putOff = &postponed{}
	return e.turn(next), func() {
		e.gate.Lock()
		defer e.gate.Unlock()
		for _, l := range e.putOff.lessons {
			e.Memory.Learn(l.Keys, l.Lesson)
		}
		e.putOff = nil
	}
}
