package verdict

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// Action is the class that an action of rspamd stands for. One that puts the message off says
// nothing yet.
func Action(action string) (class policy.Class, known bool) {
	switch strings.ReplaceAll(strings.ToLower(action), "_", " ") {
	case "reject", "add header", "rewrite subject", "quarantine", "discard":
		return policy.Spam, true
	case "no action":
		return policy.Ham, true
	case "greylist", "soft reject":
		return policy.None, true
	}
	return policy.None, false
}

// readAction reads X-Rspamd-Action: what rspamd does with the message decides.
func readAction(value string) (got reading, ok bool) {
	class, known := Action(value)
	return reading{filter: rspamd, decided: true, class: class, detail: acted}, known
}

// readSpamdResult reads "default: False [11.00 / 15.00]; ...". The flag says whether the message
// would be rejected, so a spam header at 11 stands beside False. The second number is the reject
// score, or that of another action, as the site has set it: only the score is read.
func readSpamdResult(value string) (got reading, ok bool) {
	head, _, _ := strings.Cut(value, "]")
	flag, numbers, ok := strings.Cut(head, "[")
	if !ok {
		return got, false
	}
	left, _, ok := strings.Cut(numbers, "/")
	got = reading{filter: rspamd, detail: numeric}
	got.score, got.hasScore = parseNumber(strings.TrimSpace(left))
	if strings.Contains(flag, "True") {
		got.decided, got.class, got.detail = true, policy.Spam, full
	}
	return got, ok && got.hasScore
}

// Rspamd reads what rspamd's metadata_exporter posts with its formatter "json", one message in each
// post: ip, qid, action, score. What is missing there is the string "unknown".
func (t Thresholds) Rspamd(body []byte, now time.Time) (s policy.Signal, err error) {
	var v struct {
		IP     string          `json:"ip"`
		QID    string          `json:"qid"`
		Action string          `json:"action"`
		Score  number          `json:"score"`
		User   json.RawMessage `json:"user"`
		From   json.RawMessage `json:"from"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return s, fmt.Errorf("not an object of rspamd's metadata exporter, with formatter = \"json\": %w", err)
	}
	class, known := Action(v.Action)
	if !known {
		return s, fmt.Errorf("action: %q is not known; want one of rspamd's, such as \"add header\"", Clip(v.Action))
	}
	var user, from string
	if json.Unmarshal(v.User, &user) == nil && given(user) != "" {
		// Its client had logged in: the mail is its user's, and says nothing of the address.
		class = policy.None
	}
	a := policy.Assessment{Class: class, Confidence: policy.Certain, Score: float64(v.Score)}
	if action := strings.ToLower(v.Action); action != "reject" && action != "discard" {
		// What is rejected below the score for it has a virus, or matches a rule of its own.
		a = t.grade(a)
	}
	a.Source, a.Reason = policy.FromRspamd, fmt.Sprintf("%s, score %.2f", v.Action, v.Score)
	s = policy.Signal{Time: now, Mail: true, QueueID: given(v.QID), Assessment: a}
	if s.Addr, err = address(given(v.IP)); err != nil {
		return s, err
	}
	if json.Unmarshal(v.From, &from) == nil {
		s.FromDomain = domainOf(given(from))
	}
	return s, complete(&s, v.Action)
}

// given is a value of rspamd's, empty where that is "unknown".
func given(s string) string {
	if s == "unknown" {
		return ""
	}
	return s
}
