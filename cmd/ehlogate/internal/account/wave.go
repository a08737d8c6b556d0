package account

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
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
	// announceFor is how old a wave may be that is announced. An older one was before a restart.
	announceFor = 15 * time.Minute
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

	mu     sync.Mutex
	waves  []ledger.Wave
	looked time.Time
	// announced are waves, and their ends, that were announced.
	announced map[string]bool
	notifying sync.WaitGroup
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
	if !slot.After(a.looked) {
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
	for i := range waves {
		a.announce(ctx, &waves[i], now)
	}
	return nil
}

func (a *Alarms) announce(ctx context.Context, w *ledger.Wave, now time.Time) {
	at, key := w.Noticed, fmt.Sprint("began ", w.What, w.Noticed.Unix())
	if !w.Ended.IsZero() {
		at, key = w.Ended, fmt.Sprint("ended ", w.What, w.Ended.Unix())
	}
	if a.announced == nil {
		a.announced = map[string]bool{}
	}
	if now.Sub(at) > announceFor || a.announced[key] {
		return
	}
	a.announced[key] = true
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
	a.notifying.Go(func() {
		if err := notify(to, notice); err != nil {
			a.Log.Error("report.notify failed", "notify", to, "error", err)
		}
	})
}

// notify runs a command, or posts to a webhook.
func notify(to string, notice []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), notifyWait)
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
