package redis

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// results takes what came of a stream's batches, in their order.
func (w *writer) results(l *stream, sent []*batch, results []*redis.Cmd, err error) {
	for i, b := range sent {
		if len(results) > i {
			err = results[i].Err()
		}
		var r reply
		if err == nil {
			r, err = b.parse(results[i].Val(), w.now())
		}
		switch {
		case err != nil && !transient(err):
			w.complain("Redis does not take what it was sent; it is left out", err)
			w.stats.Refused.Add(uint64(len(b.Changes)))
			b.finish(err)
			w.pass(l, b)
			if b.stored != 0 {
				w.finished = append(w.finished, b.stored)
			}
			l.gap = true
		case err != nil:
			w.failed(l, err)
			return
		case r.status == behind:
			w.rewind(l, r.last)
			return
		default:
			l.failing, l.gap, l.retry = false, false, time.Time{}
			w.stats.Batches.Add(1)
			w.pass(l, b)
			l.acked = b.Number
			b.done = w.now()
			if b.stored != 0 {
				w.finished = append(w.finished, b.stored)
				b.stored = 0
				w.stats.Replayed.Add(1)
			}
			l.kept = append(l.kept, b)
			for _, c := range w.took(b, r) {
				w.addLocked(c)
			}
		}
	}
}

// pass removes a batch from the head of the queue.
func (w *writer) pass(l *stream, b *batch) {
	if len(l.queue) > 0 && l.queue[0] == b {
		l.queue = l.queue[1:]
	}
}

// failed puts a stream off. What is on disk is left there.
func (w *writer) failed(l *stream, err error) {
	if !down(err) {
		w.throttle.About(kind(err), func() {
			w.log.Warn("Redis does not take observations; they wait on disk", "bucket", l.bucket, "error", err)
		})
	}
	w.stats.Failed.Add(1)
	l.failing = true
	l.retry = w.now().Add(retryFirst)
	var back []stored
	for len(l.queue) > 0 && l.queue[0].stored != 0 {
		back = append(back, stored{l.queue[0].stored, l.queue[0].Number})
		l.queue = l.queue[1:]
	}
	l.disk = append(back, l.disk...)
}

// confirm looks whether Redis still has what it said it had in streams with something of an age,
// and sends it again where it has not.
func (w *writer) confirm(ctx context.Context, age time.Duration) {
	if !w.ready() {
		return
	}
	w.mu.Lock()
	old := w.now().Add(-age)
	var streams []*stream
	var acked []uint64
	for _, l := range w.streams {
		if !l.busy && !l.failing && len(l.kept) > 0 && !l.kept[0].done.After(old) {
			streams, acked = append(streams, l), append(acked, l.acked)
		}
	}
	w.mu.Unlock()
	if len(streams) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pipe := w.server.client.Pipeline()
	marks := make([]*redis.StringCmd, len(streams))
	for i, l := range streams {
		marks[i] = pipe.GetRange(ctx, l.mark(), 0, 7)
	}
	exec(ctx, pipe)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, l := range streams {
		if marks[i].Err() != nil || l.busy || l.acked != acked[i] {
			continue
		}
		if last := parseMark(marks[i].Val()); last < l.acked {
			w.rewind(l, last)
			continue
		}
		l.kept = slices.DeleteFunc(l.kept, func(b *batch) bool { return w.now().Sub(b.done) >= keepSent })
		if l.sender != w.sender && len(l.kept) == 0 && l.idle() {
			delete(w.streams, l.streamID)
		}
	}
}

// rewind sends again what Redis has lost.
func (w *writer) rewind(l *stream, last uint64) {
	if acked := l.acked; last < acked {
		if l.rewind(last) {
			w.stats.Lost.Add(1)
		}
		w.throttle.About("lost", func() {
			w.log.Error("Redis lacks evidence that it had taken: it was restarted without its data, or a replica took over that lagged; what was learnt in the last minute is sent again", "bucket", l.bucket, "has", last, "had", acked)
		})
	}
	w.dirty[l] = struct{}{}
	w.poke()
}
