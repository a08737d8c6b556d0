package account

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/policy/eventlog"
)

const (
	// tailEvery is how often it is looked for lines for who watches, mostTailed how many of them
	// are passed on at a time: of more, the last.
	tailEvery, mostTailed = 250 * time.Millisecond, 500
	// mostWatching bounds those who watch.
	mostWatching = 8
	// wantEvery is how often the other nodes are told that somebody watches.
	wantEvery = 3 * time.Second
)

// ErrCrowded is what one too many gets who wants to watch.
var ErrCrowded = errors.New("too many watch already; end another ehlogate tail")

// Wire is how the nodes of a cluster send each other what is heard, while somebody watches.
type Wire interface {
	Want(ctx context.Context) error
	Wanted(ctx context.Context) (bool, error)
	Send(ctx context.Context, node string, lines [][]byte) error
	Receive(ctx context.Context, show func(node string, line []byte)) error
}

// Tail shows the lines of the event logs of all nodes as they are written, from now on.
type Tail struct {
	Events string
	// ID tells this node's lines from those of others; Wire is nil where there is one node.
	ID   string
	Wire Wire

	mu       sync.Mutex
	watching int

	relayed eventlog.Position
	looked  time.Time
	wanted  bool
}

// Watch shows lines until the context ends, or one cannot be shown. It is called for several at
// once.
func (t *Tail) Watch(ctx context.Context, show func(line []byte) error) error {
	t.mu.Lock()
	t.watching++
	crowded := t.watching > mostWatching
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.watching--
		t.mu.Unlock()
	}()
	if crowded {
		return ErrCrowded
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan []byte, mostTailed)
	if t.Wire != nil {
		go t.receive(ctx, lines)
	}
	at, err := eventlog.End(t.Events)
	tick := time.NewTicker(tailEvery)
	defer tick.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			return nil
		case line := <-lines:
			err = show(line)
		case <-tick.C:
			var some [][]byte
			some, at, err = t.since(ctx, at)
			for _, line := range some {
				err = errors.Join(err, show(line))
			}
			if len(some) == 0 && err == nil {
				// Nothing is written for long at a quiet exchanger: who watches no more is noticed
				// so.
				err = show(nil)
			}
		}
	}
	return err
}

// receive takes what other nodes send. What is not taken in time is dropped.
func (t *Tail) receive(ctx context.Context, lines chan<- []byte) {
	go func() {
		for ctx.Err() == nil {
			t.Wire.Want(ctx)
			sleep(ctx, wantEvery)
		}
	}()
	for ctx.Err() == nil {
		t.Wire.Receive(ctx, func(node string, line []byte) {
			if node == t.ID {
				return
			}
			select {
			case lines <- line:
			default:
			}
		})
		sleep(ctx, time.Second)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// since are the lines that were written after a position, the last ones where there are many.
func (t *Tail) since(ctx context.Context, from eventlog.Position) (lines [][]byte, at eventlog.Position, err error) {
	at, err = eventlog.ReadOn(ctx, t.Events, &from, func(line []byte, _ eventlog.Position) bool {
		lines = append(lines, bytes.Clone(line))
		if len(lines) >= 2*mostTailed {
			lines = append(lines[:0], lines[mostTailed:]...)
		}
		return true
	})
	return lines[max(0, len(lines)-mostTailed):], at, err
}

// relay sends what was written to who watches at another node.
func (t *Tail) relay(ctx context.Context, now time.Time) error {
	if t.Wire == nil {
		return nil
	}
	if now.Sub(t.looked) >= 2*time.Second {
		was := t.wanted
		wanted, err := t.Wire.Wanted(ctx)
		if err != nil {
			return err
		}
		t.looked, t.wanted = now, wanted
		if wanted && !was {
			if t.relayed, err = eventlog.End(t.Events); err != nil {
				return err
			}
		}
	}
	if !t.wanted {
		return nil
	}
	lines, at, err := t.since(ctx, t.relayed)
	t.relayed = at
	if err != nil || len(lines) == 0 {
		return err
	}
	return t.Wire.Send(ctx, t.ID, lines)
}
