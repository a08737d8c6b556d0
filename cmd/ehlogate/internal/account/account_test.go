package account

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// counter is a keeper of a test, with a clock and an event log.
type counter struct {
	*Keeper
	t      *testing.T
	dir    string
	clock  time.Time
	notify string
}

func newCounter(t *testing.T) *counter {
	c := &counter{t: t, dir: t.TempDir(), clock: noon}
	c.open()
	return c
}

func (c *counter) open() {
	c.t.Helper()
	log, now := slog.New(slog.NewTextHandler(io.Discard, nil)), func() time.Time { return c.clock }
	l, err := ledger.Open(ledger.Options{
		Path: filepath.Join(c.dir, "ledger.db"), Now: now, Log: log,
		Network: func(a netip.Addr) netip.Prefix { n, _ := a.Prefix(24); return n },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	events := filepath.Join(c.dir, "events.ndjson")
	alarms := &Alarms{Ledger: l, Notify: func() string { return c.notify }, Node: "mx1", Now: now, Log: log}
	c.Keeper = NewKeeper(l, alarms, &Tail{Events: events}, events, now, log)
}

// write writes events as the daemon does.
func (c *counter) write(events ...*eventlog.Event) {
	c.t.Helper()
	f, err := os.OpenFile(c.Events, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	for _, e := range events {
		line, err := e.Line()
		if err != nil {
			c.t.Fatal(err)
		}
		f.Write(append(line, '\n'))
	}
}

// messages are the counts after all that was written.
func (c *counter) messages() map[policy.Class]ledger.Transport {
	c.t.Helper()
	c.Step(c.t.Context())
	b, err := c.Ledger.Read(c.t.Context(), noon.Add(-time.Hour), c.clock.Add(time.Hour))
	if err != nil {
		c.t.Fatal(err)
	}
	return b.Report(ledger.View{Step: time.Hour, Location: time.UTC, Measure: ledger.Measures["spam"]}).Messages
}

func observation(session string) *policy.Observation {
	o := &policy.Observation{
		Message: policy.Message{
			Time: noon, Session: session, QueueID: "Q" + session, Mail: true, Client: policy.Client{Addr: netip.MustParseAddr("192.0.2.7")},
			Verdict: policy.Verdict{Class: policy.Ham, Source: policy.FromHeader},
		},
		STARTTLS: policy.Offered, TLS: &policy.TLS{Version: "TLSv1.3", Cipher: "TLS_AES_256_GCM_SHA384"}, FromDomain: "sender.example", Outcome: policy.Accepted,
	}
	o.Remember()
	return o
}

func correction(o *policy.Observation, was, is policy.Class) *policy.Correction {
	c := &policy.Correction{Message: o.Message, Was: policy.Verdict{Class: was, Source: policy.FromHeader}}
	c.Verdict = policy.Verdict{Class: is, Source: policy.FromPerson}
	return c
}

// TestALaterVerdictMovesTheMessage from one count to another, and back.
func TestALaterVerdictMovesTheMessage(t *testing.T) {
	c := newCounter(t)
	o := observation("1")
	c.write(eventlog.Of(o, "mx1"))
	if got := c.messages(); got[policy.Ham].TLS != 1 {
		t.Fatalf("%v", got)
	}
	c.write(eventlog.OfCorrection(correction(o, policy.Ham, policy.Spam), noon.Add(time.Minute), "mx1"))
	if got := c.messages(); got[policy.Ham].TLS != 0 || got[policy.Spam].TLS != 1 {
		t.Errorf("after a correction: %v", got)
	}
	// Its evidence was dropped meanwhile, so that it is a verdict on nothing; it is counted all the
	// same.
	back := correction(o, policy.None, policy.Ham)
	back.Forgotten = policy.Verdict{Class: policy.Spam, Source: policy.FromPerson}
	c.write(eventlog.OfCorrection(back, noon.Add(time.Hour), "mx1"))
	if got := c.messages(); got[policy.Ham].TLS != 1 || got[policy.Spam].TLS != 0 || got[policy.None].TLS != 0 {
		t.Errorf("after another: %v", got)
	}
	if _, corrected := c.Since(); corrected[[2]policy.Class{policy.Ham, policy.Spam}] != 1 {
		t.Errorf("corrections since the start: %v", corrected)
	}
}

// TestAMessageThatAFilterPutsBackCountsOnce whether the log tells of it before or after.
func TestAMessageThatAFilterPutsBackCountsOnce(t *testing.T) {
	c := newCounter(t)
	before, after := observation("2"), observation("3")
	before.Reinjected = true
	c.write(eventlog.Of(observation("1"), "mx1"), eventlog.Of(before, "mx1"), eventlog.Of(after, "mx1"))
	told := &policy.Correction{Message: after.Message, Was: after.Verdict, NewlyReinjected: true}
	told.Reinjected = true
	c.write(eventlog.OfCorrection(told, noon, "mx1"))
	if got := c.messages(); got[policy.Ham].TLS != 1 {
		t.Errorf("%v", got)
	}
}

// TestNothingCountsTwiceAfterAKill at any moment between the lines and the flush.
func TestNothingCountsTwiceAfterAKill(t *testing.T) {
	c := newCounter(t)
	for i := range 50 {
		c.write(eventlog.Of(observation(string(rune('a'+i))), "mx1"))
		if i%7 == 0 {
			c.Step(t.Context())
		}
		if i%10 == 0 {
			c.clock = c.clock.Add(flushEvery)
		}
		if i%13 == 0 {
			// The file's lock is all that a process leaves behind, and that the system takes away.
			c.Ledger.Close()
			c.open()
		}
	}
	if got := c.messages(); got[policy.Ham].TLS != 50 {
		t.Errorf("%v", got)
	}
	if n := c.Malformed.Load(); n != 0 {
		t.Errorf("%d lines were malformed", n)
	}
}

// TestARotatedLogIsReadBeforeItIsCompressed: a reload waits for it.
func TestARotatedLogIsReadBeforeItIsCompressed(t *testing.T) {
	c := newCounter(t)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	c.CatchUp()
	c.write(eventlog.Of(observation("1"), "mx1"))
	os.Rename(c.Events, c.Events+".1")
	c.CatchUp()
	os.Remove(c.Events + ".1")
	cancel()
	running.Wait()
	if got := c.messages(); got[policy.Ham].TLS != 1 {
		t.Errorf("%v", got)
	}
}

// TestAWaveIsAnnouncedOnce to a webhook, and said to be over.
func TestAWaveIsAnnouncedOnce(t *testing.T) {
	notices := make(chan Notice, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var n Notice
		json.NewDecoder(r.Body).Decode(&n)
		notices <- n
	}))
	defer hook.Close()
	c := newCounter(t)
	c.notify = hook.URL
	began := ledger.Wave{What: ledger.SpamOverTLS, Began: noon.Add(-time.Hour), Noticed: noon, Usual: 0.3, Share: 0.7}
	ended := began
	ended.Ended = noon.Add(5 * time.Minute)
	announce := func(waves ...ledger.Wave) {
		t.Helper()
		if err := c.Alarms.announce(t.Context(), waves); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		announce(began)
	}
	// A late verdict moves its beginning.
	moved := began
	moved.Began = moved.Began.Add(-time.Minute)
	announce(moved)
	announce(ended)
	c.Alarms.notifying.Wait()
	c.Ledger.Close()
	c.open()
	announce(ended)
	c.Alarms.notifying.Wait()
	if len(notices) != 2 {
		t.Fatalf("%d notices", len(notices))
	}
	texts := map[string]bool{(<-notices).Text: true, (<-notices).Text: true}
	for _, want := range []string{"since 2026-11-24 11:00Z more of the clients that send spam use TLS: 70 %, usually 30 %", "from 2026-11-24 11:00Z to 2026-11-24 12:05Z more of the clients that sent spam used TLS: 70 %, usually 30 %"} {
		if !texts[want] {
			t.Errorf("no %q in %v", want, texts)
		}
	}
}

// TestANoticeIsGivenToAProgram on its standard input.
func TestANoticeIsGivenToAProgram(t *testing.T) {
	dir := t.TempDir()
	program, told := filepath.Join(dir, "notify"), filepath.Join(dir, "told")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ncat > "+told+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := notify(t.Context(), program, []byte(`{"text":"a wave"}`)); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(told); string(b) != `{"text":"a wave"}` {
		t.Errorf("it was told %q", b)
	}
	if err := notify(t.Context(), "/nonexistent/notify", nil); err == nil {
		t.Error("a program that is not there is no fault")
	}
}

// TestAnonymousEventsMakeTheSameReport: what came over TLS, what was spam and from which networks
// is counted alike; only single hosts are not told apart, and what is forgotten is forgotten with
// its network.
func TestAnonymousEventsMakeTheSameReport(t *testing.T) {
	var reports [2]*ledger.Report
	for i, anonymize := range []bool{false, true} {
		c := newCounter(t)
		write := func(e *eventlog.Event) {
			if anonymize {
				e.Anonymize()
			}
			c.write(e)
		}
		for n, addr := range []string{"192.0.2.7", "192.0.2.8", "198.51.100.9", "203.0.113.5"} {
			o := observation(fmt.Sprint("s", n))
			o.Client.Addr = netip.MustParseAddr(addr)
			if n%2 == 0 {
				o.Verdict.Class, o.TLS = policy.Spam, nil
			}
			o.Remember()
			write(eventlog.Of(o, "mx1"))
			if n == 1 {
				write(eventlog.OfCorrection(correction(o, policy.Ham, policy.Spam), noon, "mx1"))
			}
		}
		write(eventlog.OfForget(netip.MustParsePrefix("203.0.113.5/32"), noon, "mx1"))
		c.Step(t.Context())
		b, err := c.Ledger.Read(t.Context(), noon.Add(-time.Hour), noon.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		reports[i] = b.Report(ledger.View{Step: time.Hour, Location: time.UTC, Top: 10, Measure: ledger.Measures["volume"]})
		names := fmt.Sprint(reports[i].Top[ledger.ByAddress], reports[i].Top[ledger.ByNetwork])
		if text, err := os.ReadFile(c.Events); err != nil || anonymize && strings.Contains(string(text)+names, "203.0.113.5") {
			t.Errorf("the address that was to be forgotten is named: %s\n%s, %v", names, text, err)
		}
	}
	plain, anonymous := reports[0], reports[1]
	// It is forgotten with its network where single hosts are not known.
	plain.Top[ledger.ByNetwork] = slices.DeleteFunc(plain.Top[ledger.ByNetwork], func(r ledger.Row) bool { return r.Name == "203.0.113.0/24" })
	for what, pair := range map[string][2]any{
		"messages": {plain.Messages, anonymous.Messages}, "shares": {plain.Shares, anonymous.Shares}, "sessions": {plain.Sessions, anonymous.Sessions},
		"networks": {plain.Top[ledger.ByNetwork], anonymous.Top[ledger.ByNetwork]}, "domains": {plain.Top[ledger.ByDomain], anonymous.Top[ledger.ByDomain]},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %+v, anonymous %+v", what, pair[0], pair[1])
		}
	}
	if n := len(anonymous.Top[ledger.ByAddress]); n != 2 {
		t.Errorf("%d addresses: %+v", n, anonymous.Top[ledger.ByAddress])
	}
}
