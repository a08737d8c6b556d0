// Package api is the daemon's HTTP side and its client: what the commands ask and tell a running
// daemon.
//
// Reading is open to whoever reaches the listener, which is loopback by default. Writing needs the
// token as "Authorization: Bearer", unless the listener is a unix socket, whose permissions decide.
package api

import (
	"net/netip"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Lookup is the answer about one address, and one line of "lookup --json".
type Lookup struct {
	Addr     string  `json:"addr"`
	Host     string  `json:"host"`
	Network  string  `json:"network"`
	Score    float64 `json:"score"`
	Tier     string  `json:"tier"`
	STARTTLS string  `json:"starttls"`
	Why      string  `json:"why"`
	// Action is what is done with its mail, empty for nothing; Stage is where, if it is refused.
	Action policy.Action `json:"action,omitempty"`
	Stage  policy.Stage  `json:"stage,omitempty"`
}

// Explanation is a Lookup term by term: Score is Own.LogOdds + Expected.LogOdds.
type Explanation struct {
	Lookup
	Mode     policy.Mode `json:"mode"`
	Own      Own         `json:"own"`
	Expected Expected    `json:"expected"`
	// Stored is the tier that the client was in after its last message, Entered when it came there,
	// to five minutes, and EnteredAt at which score. Tier is the one that it is in now.
	Stored     string                `json:"stored_tier"`
	Entered    time.Time             `json:"entered,omitzero"`
	EnteredAt  float64               `json:"entered_at"`
	Thresholds reputation.Thresholds `json:"thresholds"`
	Exempt     bool                  `json:"exempt"`
	// Rule is what decided.
	Rule     policy.Rule      `json:"rule"`
	Override *policy.Override `json:"override,omitempty"`
	// Exception is what was noticed of the host and STARTTLS, where it decides.
	Exception *policy.Exception `json:"mark,omitempty"`
	// Modes is the answer in each mode.
	Modes map[policy.Mode]string `json:"modes"`
	// WhatIf is what would change the answer.
	WhatIf WhatIf `json:"outlook"`
}

// Own is a host's own evidence: all messages on record, since the start of the oldest slice of
// them, and what they weigh now, which is at most Cap; its spam fades by half in HalfLife, which is
// longer the less ham there is, its ham in HamHalfLife.
type Own struct {
	Spam        float64   `json:"spam"`
	Ham         float64   `json:"ham"`
	Since       time.Time `json:"since,omitzero"`
	LogOdds     float64   `json:"log_odds"`
	Cap         float64   `json:"cap"`
	HalfLife    string    `json:"half_life"`
	HamHalfLife string    `json:"ham_half_life"`
}

// Expected is what is expected of a host of its network before its own evidence.
type Expected struct {
	Prior float64 `json:"prior"`
	// ASN is the autonomous system, 0 when none is known; AS is what its evidence weighs now, and
	// Start the share of spammers expected after it.
	ASN   uint32  `json:"asn,omitempty"`
	AS    Weights `json:"as,omitzero"`
	Start float64 `json:"start"`
	// Neighbours is what the evidence of the network without the host weighs now, Share the share
	// expected after it.
	Neighbours Weights `json:"neighbours"`
	Share      float64 `json:"share"`
	LogOdds    float64 `json:"log_odds"`
}

// Weights are messages.
type Weights struct {
	Spam float64 `json:"spam"`
	Ham  float64 `json:"ham"`
}

// WhatIf is what would turn the answer: so many further messages, or so many seconds without any. 0
// stands for nothing that was tried.
type WhatIf struct {
	Ham         int `json:"ham"`
	Spam        int `json:"spam"`
	WaitSeconds int `json:"wait_seconds"`
}

// Change is an operator's allow, deny or forget of a network, or lift of the override on it.
type Change struct {
	Verb    string `json:"verb"`
	Network string `json:"network"`
	Note    string `json:"note,omitempty"`
	// For is how long an allow or deny holds, as time.ParseDuration reads it; empty is for ever.
	For string `json:"for,omitempty"`
	// Until is when it ends, in the place of For.
	Until time.Time `json:"until,omitzero"`
	// By is who changes it, List the file from which it is imported.
	By   string `json:"by,omitempty"`
	List string `json:"list,omitempty"`
}

// Changed is the answer to a change.
type Changed struct {
	Network string `json:"network"`
	// Removed counts the records and overrides that a forget removed.
	Removed int `json:"removed"`
	// Exempt are the exempt networks that a denied network lies in, or that lie in it: there it has
	// no effect.
	Exempt []string `json:"exempt,omitempty"`
	// Override is the one that holds now, Replaced the one on exactly that network before.
	Override *policy.Override `json:"override,omitempty"`
	Replaced *policy.Override `json:"replaced,omitempty"`
	// Exported is when a static table was last made of what this daemon knows, the zero time where
	// none was since its start: such a table takes the change up when it is made again.
	Exported time.Time `json:"exported,omitzero"`
}

// Report is a person's verdict on a message, and what is known of the message: its queue id, its
// client, or both.
type Report struct {
	Class   policy.Class  `json:"class"`
	Source  policy.Source `json:"source"`
	QueueID string        `json:"queue_id,omitempty"`
	Addr    netip.Addr    `json:"addr,omitzero"`
	// Time is when the message came in, zero for now.
	Time       time.Time `json:"time,omitzero"`
	FromDomain string    `json:"from_domain,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	// Trust is how far queue id and address can be believed.
	Trust intake.Trust `json:"trust,omitempty"`
	// Fingerprint stands for the queue id of a message that has none of ours.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Learnt is the answer to a report.
type Learnt struct {
	QueueID string        `json:"queue_id,omitempty"`
	Addr    netip.Addr    `json:"addr,omitzero"`
	Status  intake.Status `json:"status"`
	// Class is what was learnt.
	Class policy.Class `json:"class,omitempty"`
}

// fault is the body of an error response.
type fault struct {
	Error string `json:"error"`
}
