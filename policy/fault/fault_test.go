package fault

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
)

func TestWorkThatGoesOnBeginsAnewAfterAFault(t *testing.T) {
	var log bytes.Buffer
	g := Guard{Log: slog.New(slog.NewTextHandler(&log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	times := 0
	g.Keep(ctx, "counting", func(context.Context) {
		if times++; times < 3 {
			panic("not yet")
		}
	})
	cancel()
	if times != 3 || g.Count.Load() != 2 {
		t.Errorf("begun %d times, %d faults", times, g.Count.Load())
	}
	if n := strings.Count(log.String(), "not yet"); n != 1 {
		t.Errorf("logged %d times within a minute:\n%s", n, log.String())
	}
}

func TestAFaultIsAnError(t *testing.T) {
	g := Guard{Log: slog.New(slog.DiscardHandler)}
	if err := g.Do("indexing", func() { _ = []int{}[len(t.Name())] }); err == nil || !strings.Contains(err.Error(), "indexing") {
		t.Error(err)
	}
}
