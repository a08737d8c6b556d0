package verdict

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

const (
	// addHeaderScore is the score from which on rspamd adds a header by default (actions.conf), and
	// addHeaderShare the same as a share of its reject score: 6 of 15.
	addHeaderScore = 6
	addHeaderShare = 0.4
)

// Action is the class that an action of rspamd stands for. One that puts the message off says
// nothing yet.
func Action(action string) (class policy.Class, known bool) {
	switch strings.ToLower(action) {
	case "reject", "add header", "rewrite subject", "quarantine", "discard":
		return policy.Spam, true
	case "no action":
		return policy.Ham, true
	case "greylist", "soft reject":
		return policy.None, true
	}
	return policy.None, false
}

// parseSpamdResult reads "default: False [11.00 / 15.00]; ...". The flag says whether the message
// would be rejected, so a spam header at 11 of 15 stands beside False: the numbers decide.
func parseSpamdResult(value string) (a policy.Assessment, d detail, ok bool) {
	head, _, _ := strings.Cut(value, "]")
	flag, numbers, ok := strings.Cut(head, "[")
	if !ok {
		return a, plain, false
	}
	left, right, ok := strings.Cut(numbers, "/")
	score, errScore := strconv.ParseFloat(strings.TrimSpace(left), 64)
	limit, errLimit := strconv.ParseFloat(strings.TrimSpace(right), 64)
	if !ok || errScore != nil || errLimit != nil || !finite(score) || !finite(limit) {
		return a, plain, false
	}
	a = policy.Assessment{Class: policy.Ham, Confidence: policy.Certain, Score: score}
	spam := addHeaderShare * limit
	if strings.Contains(flag, "True") || limit > 0 && score >= spam {
		a.Class = policy.Spam
	}
	if spam > 0 {
		return grade(a, spam), graded, true
	}
	return a, scored, true
}

// Rspamd reads what rspamd's metadata_exporter posts with its formatter "json", one message in each
// post: ip, qid, action, score. What is missing there is the string "unknown".
func Rspamd(body []byte, now time.Time) (s policy.Signal, err error) {
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
	a := grade(policy.Assessment{Class: class, Score: float64(v.Score)}, addHeaderScore)
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
