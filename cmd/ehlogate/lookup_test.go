package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/policy"
)

func TestExplanationSaysItInWords(t *testing.T) {
	e := api.Explanation{
		Lookup: api.Lookup{Addr: "192.0.2.7", Host: "192.0.2.7/32", Network: "192.0.2.0/24", Score: 2.21, Tier: "bad", STARTTLS: "withhold"},
		Mode:   policy.Protect,
		Own:    api.Own{Spam: 3, Ham: 1, Since: day, LogOdds: 1.8, Cap: 3, HalfLife: "45m0s", HamHalfLife: "72h0m0s"},
		Expected: api.Expected{
			Prior: 0.35, ASN: 64500, AS: api.Weights{Spam: 20, Ham: 2}, Start: 0.5, Neighbours: api.Weights{Spam: 2, Ham: 1}, Share: 0.6, LogOdds: 0.41,
		},
		Stored: "bad", Entered: day, EnteredAt: 1.75, WhatIf: api.WhatIf{Ham: 4, WaitSeconds: 5400},
		Modes: map[policy.Mode]string{policy.Observe: "offer", policy.Protect: "withhold", policy.Earn: "withhold"},
	}
	e.Thresholds.Bad.Leave = 1.1
	text := explanation(e, 0)
	for _, want := range []string{
		"worth 3.0 messages of spam and 1.0 of ham, none before 2026-11-24 08:00Z: +1.80 now (spam fades by half in 45m, ham in 72h)",
		"35 % of the clients of whom nothing is known are expected to be spammers",
		"AS64500, weighing 20.0 spam and 2.0 ham now: 50 % spammers expected before the neighbours",
		"weighing 2.00 spam and 1.00 ham now, in 192.0.2.0/24 without this host: 60 % spammers expected, +0.41",
		"2.21 = 1.80 of its own +0.41 expected", "each term within ±3",
		"bad since about 2026-11-24 08:00Z, entered at score 1.75; left below 1.1",
		"observe: offer, protect: withhold, earn: withhold",
		"4 more ham messages, or 1h30m without mail",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	e.Tier = "unknown"
	if text := explanation(e, 0); !strings.Contains(text, "unknown; it was bad since about 2026-11-24 08:00Z, entered at score 1.75, and left it without a message of its own") {
		t.Errorf("of who left by fading:\n%s", text)
	}
	e.Override = &policy.Override{Network: netip.MustParsePrefix("192.0.2.0/24"), Allow: true, Set: day, Until: day.Add(time.Hour), Note: "ticket 7"}
	e.Action, e.Stage = policy.ActReject, policy.AtRcpt
	if text := explanation(e, 0); !strings.Contains(text, "is refused: action reject of tier") || !strings.Contains(text, "at stage rcpt") {
		t.Errorf("explain does not say that the mail is refused:\n%s", text)
	}
	if text := explanation(e, 0); !strings.Contains(text, "allow 192.0.2.0/24, set 2026-11-24T08:00:00Z, until 2026-11-24T09:00:00Z: ticket 7") || !strings.Contains(text, "ehlogate forget 192.0.2.0/24") {
		t.Errorf("of an overridden one:\n%s", text)
	}
}

// TestAnExplanationKeepsToTheTerminal wraps its rows, and loses no word.
func TestAnExplanationKeepsToTheTerminal(t *testing.T) {
	e := api.Explanation{Lookup: api.Lookup{Addr: "192.0.2.7", Why: strings.Repeat("because of its neighbours ", 20)}}
	text, got := explanation(e, 0), explanation(e, 80)
	if !strings.Contains(text, e.Why) {
		t.Errorf("without a terminal it is\n%s", text)
	}
	for line := range strings.Lines(got) {
		if utf8.RuneCountInString(line) > 81 {
			t.Errorf("%q is too long", line)
		}
	}
	if !slices.Equal(strings.Fields(got), strings.Fields(text)) {
		t.Errorf("%s\nhas other words than\n%s", got, text)
	}
}
