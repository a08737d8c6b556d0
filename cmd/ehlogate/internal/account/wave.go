package account

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/policy/ledger"
)

const (
	// lookAfter is how long after a slot it is looked for waves: other nodes publish it first.
	lookAfter = 30 * time.Second
	// notifyWait is how long an operator's command or webhook may take.
	notifyWait = 30 * time.Second
)

// Notice is what an operator's command gets on standard input, and a webhook in its body.
type Notice struct {
	ledger.Wave
	Node string `json:"node"`
	// Text is the notice in a sentence.
	Text string `json:"text"`
}

// Alarms finds waves in what was counted and announces each once.
type Alarms struct {
	Ledger *ledger.Ledger
	// Notify is the operator's command, or the URL of a webhook; empty for none.
	Notify func() string
	Node   string
	Now    func() time.Time
	Log    *slog.Logger

	mu        sync.Mutex
	waves     []ledger.Wave
	looked    time.Time
	notifying sync.WaitGroup
	begin     sync.Once
	ctx       context.Context
	cancel    context.CancelFunc
}

func (a *Alarms) start() { a.ctx, a.cancel = context.WithCancel(context.Background()) }

// stop waits until the operator is told, as long as a context lasts, and then gives up.
func (a *Alarms) stop(ctx context.Context) {
	a.begin.Do(a.start)
	told := make(chan struct{})
	go func() {
		a.notifying.Wait()
		close(told)
	}()
	select {
	case <-told:
	case <-ctx.Done():
	}
	a.cancel()
}

// Waves are the waves of the last weeks, those that last among them.
func (a *Alarms) Waves() []ledger.Wave {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]ledger.Wave{}, a.waves...)
}

// look looks for waves, once for each slot.
func (a *Alarms) look(ctx context.Context) error {
	now := a.Now()
	slot := now.Add(-lookAfter).UTC().Truncate(time.Duration(ledger.Fine))
	if ahead := a.looked.Sub(slot); ahead >= 0 && ahead < time.Hour {
		return nil
	}
	slots, err := a.Ledger.Course(ctx, slot)
	if err != nil {
		return err
	}
	a.looked = slot
	waves := ledger.Waves(slots)
	a.mu.Lock()
	a.waves = waves
	a.mu.Unlock()
	return a.announce(ctx, waves)
}

// announce announces the waves that have begun, or ended, since that was last done: also those that
// are found in what an older version or another process has written.
func (a *Alarms) announce(ctx context.Context, waves []ledger.Wave) error {
	before, after := map[ledger.Watched]ledger.Wave{}, map[ledger.Watched]ledger.Wave{}
	if b := a.Ledger.Announced(); b != nil {
		if err := json.Unmarshal(b, &before); err != nil {
			return fmt.Errorf("what was announced: %w", err)
		}
	}
	maps.Copy(after, before)
	for i := range waves {
		w := &waves[i]
		was, known := before[w.What]
		switch lasts := w.Ended.IsZero(); {
		case known && was.Ended.IsZero() && lasts:
			// Late verdicts may have moved its beginning.
		case lasts, known && was.Ended.IsZero() && w.Ended.After(was.Noticed):
			after[w.What] = *w
		}
	}
	for _, what := range ledger.AllWatched {
		if w := after[what]; w != before[what] {
			a.tell(ctx, &w)
		}
	}
	if maps.Equal(before, after) {
		return nil
	}
	b, err := json.Marshal(after)
	if err != nil {
		return err
	}
	return a.Ledger.KeepAnnounced(b)
}

// tell tells the operator of a wave that has begun or ended.
func (a *Alarms) tell(ctx context.Context, w *ledger.Wave) {
	text := w.Text()
	a.Log.Warn(text, "share", w.Share, "usual", w.Usual, "began", w.Began)
	to := a.Notify()
	first, err := a.Ledger.First(ctx)
	if to == "" || err != nil || !first {
		// Of the nodes of a cluster one tells the operator.
		return
	}
	notice, err := json.Marshal(Notice{*w, a.Node, text})
	if err != nil {
		a.Log.Error("a notice cannot be written", "error", err)
		return
	}
	a.begin.Do(a.start)
	a.notifying.Go(func() {
		if err := notify(a.ctx, to, notice); err != nil {
			a.Log.Error("report.notify failed", "notify", to, "error", err)
		}
	})
}

// notify runs a command, or posts to a webhook.
func notify(ctx context.Context, to string, notice []byte) error {
	ctx, cancel := context.WithTimeout(ctx, notifyWait)
	defer cancel()
	if !strings.HasPrefix(to, "http://") && !strings.HasPrefix(to, "https://") {
		cmd := exec.CommandContext(ctx, to)
		cmd.Stdin, cmd.WaitDelay = bytes.NewReader(notice), time.Second
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out[:min(len(out), 512)]))
		}
		return nil
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(notice))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		return fmt.Errorf("the webhook answered %s", answer.Status)
	}
	return nil
}
