// Package api is the daemon's HTTP side and its client: what the commands ask and tell a running daemon.
//
// Reading is open to whoever reaches the listener, which is loopback by default. Writing needs the token as "Authorization: Bearer",
// unless the listener is a unix socket, whose permissions decide.
package api

import (
	"time"

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
}

// Explanation is a Lookup term by term.
type Explanation struct {
	Lookup
	Mode string `json:"mode"`
	// Own and Neighbours are evidence in messages as they count now; Since is the start of the oldest slice of the host's own.
	Own        Weights   `json:"own"`
	Neighbours Weights   `json:"neighbours"`
	Since      time.Time `json:"since,omitzero"`
	// Expected is the share of spam expected of a host of this network, Strength the messages that this weighs.
	Expected   float64               `json:"expected"`
	Strength   float64               `json:"strength"`
	Thresholds reputation.Thresholds `json:"thresholds"`
	Exempt     bool                  `json:"exempt"`
	Override   *policy.Override      `json:"override,omitempty"`
	// Modes is what the MTA would be told in each mode.
	Modes map[policy.Mode]string `json:"modes"`
}

// Weights are messages.
type Weights struct {
	Spam float64 `json:"spam"`
	Ham  float64 `json:"ham"`
}

// Change is an operator's allow, deny or forget of a network.
type Change struct {
	Verb    string `json:"verb"`
	Network string `json:"network"`
	Note    string `json:"note,omitempty"`
	// For is how long an allow or deny holds, as time.ParseDuration reads it; empty is for ever.
	For string `json:"for,omitempty"`
}

// Changed is the answer to a change.
type Changed struct {
	Network string `json:"network"`
	// Removed counts the records and overrides that a forget removed.
	Removed int `json:"removed"`
}

// fault is the body of every answer that is no success.
type fault struct {
	Error string `json:"error"`
}
