package fault

import (
	"sync"
	"time"
)

// Throttle says each kind of thing at most once a minute. Its zero value is ready.
type Throttle struct {
	mu   sync.Mutex
	said map[string]time.Time
}

// About says something, unless something of its kind was said within a minute.
func (t *Throttle) About(kind string, say func()) {
	if t.due(kind) {
		say()
	}
}

func (t *Throttle) due(kind string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.said[kind]; ok && time.Since(at) < time.Minute {
		return false
	}
	if t.said == nil {
		t.said = map[string]time.Time{}
	}
	t.said[kind] = time.Now()
	return true
}
