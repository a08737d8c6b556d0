package verdict

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// errNoMessage is for a post that names neither a message nor a client.
var errNoMessage = errors.New(`neither a queue id nor an address: want "qid", the MTA's queue id, or "ip", or both`)

// number is a JSON number, or one in a string: what a template of an MTA fills in.
type number float64

func (n *number) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		b = []byte(strings.TrimSpace(s))
	}
	var v float64
	if len(b) > 0 && string(b) != "unknown" {
		if err := json.Unmarshal(b, &v); err != nil {
			return fmt.Errorf("%q is no number", b)
		}
	}
	if !finite(v) {
		return fmt.Errorf("%g is no score", v)
	}
	*n = number(v)
	return nil
}

// rspamdAddHeader is the score from which on rspamd adds a header by default (actions.conf).
const rspamdAddHeader = 6

// Rspamd reads what rspamd's metadata_exporter posts in its formatter "json", a message in each: ip, qid, action, score. What is missing there is
// the word "unknown".
func Rspamd(body []byte, now time.Time) (t policy.Testimony, err error) {
	var v struct {
		IP     string          `json:"ip"`
		QID    string          `json:"qid"`
		Action string          `json:"action"`
		Score  number          `json:"score"`
		User   json.RawMessage `json:"user"`
		From   json.RawMessage `json:"from"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return t, fmt.Errorf("no object of rspamd's metadata exporter, with formatter = \"json\": %w", err)
	}
	class, known := Action(v.Action)
	if !known {
		return t, fmt.Errorf("action: %q is not known; want one of rspamd's, such as \"add header\"", Clip(v.Action))
	}
	var user, from string
	if json.Unmarshal(v.User, &user) == nil && told(user) != "" {
		// Its client had logged in: the mail is its user's, and says nothing of the address.
		class = policy.None
	}
	said := Strength(policy.Verdict{Class: class, Score: float64(v.Score)}, rspamdAddHeader)
	said.Source, said.Reason = policy.FromRspamd, fmt.Sprintf("%s, score %.2f", v.Action, v.Score)
	t = policy.Testimony{Time: now, Mail: true, QueueID: told(v.QID), Verdict: said}
	if t.Addr, err = address(told(v.IP)); err != nil {
		return t, err
	}
	if json.Unmarshal(v.From, &from) == nil {
		t.FromDomain = domainOf(told(from))
	}
	return t, complete(&t, v.Action)
}

// told is a word of rspamd's, empty where that is "unknown".
func told(s string) string {
	if s == "unknown" {
		return ""
	}
	return s
}

// Feed reads another program's verdict on a message: ip, qid (the MTA's queue id) or both; class, spam, ham or none, or one of rspamd's actions in
// its place; score, and the limit from which on that program calls it spam; reason. Numbers may be in strings.
func Feed(body []byte, now time.Time) (t policy.Testimony, err error) {
	var v struct {
		IP, QID, Class, Action, Reason string
		Score, Limit                   number
		Time                           *time.Time
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return t, fmt.Errorf(`no verdict in JSON, such as {"ip":"192.0.2.7","qid":"780D29842A2","class":"spam","score":12.3}: %w`, err)
	}
	class, known := policy.Class(v.Class), true
	switch {
	case class == policy.Spam || class == policy.Ham || class == policy.None:
	case v.Class == "":
		class, known = Action(v.Action)
	default:
		known = false
	}
	if !known {
		return t, fmt.Errorf("class %q, action %q: want class spam, ham or none, or an action of rspamd's", Clip(v.Class), Clip(v.Action))
	}
	said := Strength(policy.Verdict{Class: class, Score: float64(v.Score)}, float64(v.Limit))
	said.Source, said.Reason = policy.FromFeed, Clip(oneLine(v.Reason))
	if said.Reason == "" {
		said.Reason = fmt.Sprintf("%s, score %.2f", class, v.Score)
	}
	t = policy.Testimony{Time: now, Mail: true, QueueID: v.QID, Verdict: said}
	if v.Time != nil {
		t.Time = *v.Time
	}
	if t.Addr, err = address(v.IP); err != nil {
		return t, err
	}
	return t, complete(&t, v.Action)
}

// complete finishes a testimony of a feed, or says what it lacks.
func complete(t *policy.Testimony, action string) error {
	switch {
	case !t.Addr.IsValid() && t.QueueID == "":
		return errNoMessage
	case len(t.QueueID) > maxQueueID:
		return fmt.Errorf("qid: %d characters, more than %d", len(t.QueueID), maxQueueID)
	}
	t.Outcome = policy.Accepted
	switch strings.ToLower(action) {
	case "reject", "discard", "soft reject", "greylist":
		t.Outcome = policy.Rejected
	}
	return nil
}

// maxQueueID bounds a queue id in bytes. Postfix's long ones have some 16.
const maxQueueID = 64

// address reads a client's address, invalid for an empty one.
func address(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(strings.TrimPrefix(s, "IPv6:"))
	if err != nil {
		return addr, fmt.Errorf("ip: %q is no address", Clip(s))
	}
	return addr.Unmap().WithZone(""), nil
}
