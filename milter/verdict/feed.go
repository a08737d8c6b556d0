package verdict

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
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
			return fmt.Errorf("%q is not a number", b)
		}
	}
	if !finite(v) {
		return fmt.Errorf("%g is not a score", v)
	}
	*n = number(v)
	return nil
}

// posted is what another program posts of a message.
type posted struct {
	IP, QID, Class, Action, Reason, TLS string
	Score                               *number
	Limit, Port                         number
	Time                                *time.Time
}

// mostUnread is how many keys are named that mean nothing.
const mostUnread = 10

// FeedUnread names the keys of a post that Feed does not read, such as misspelt ones, and tls where
// that says nothing that is known.
func FeedUnread(body []byte) (keys []string) {
	var all map[string]json.RawMessage
	if json.Unmarshal(body, &all) != nil {
		return nil
	}
	fields := reflect.TypeFor[posted]()
	for key, value := range all {
		_, read := fields.FieldByNameFunc(func(name string) bool { return strings.EqualFold(name, key) })
		if !read {
			keys = append(keys, strconv.Quote(Clip(key)))
		}
		var used string
		if !strings.EqualFold(key, "tls") || json.Unmarshal(value, &used) != nil || used == "" {
			continue
		}
		if _, known := transport(used); !known {
			keys = append(keys, fmt.Sprintf("tls %q (want a version such as TLSv1.3, or none)", Clip(used)))
		}
	}
	slices.Sort(keys)
	return keys[:min(len(keys), mostUnread)]
}

// Feed reads another program's verdict on a message: ip, qid (the MTA's queue id) or both, and
// port, the client's; class, spam, ham or none, or one of rspamd's actions in its place; score, and
// the limit from which on that program calls it spam; reason; and tls, what the session used, or
// none. Numbers may be in strings.
func Feed(body []byte, now time.Time) (s policy.Signal, err error) {
	var v posted
	wrong := new(json.UnmarshalTypeError)
	if err := json.Unmarshal(body, &v); errors.As(err, &wrong) {
		return s, fmt.Errorf("%s cannot be %s", cmp.Or(strings.ToLower(wrong.Field), "a verdict"), article(wrong.Value))
	} else if err != nil {
		return s, fmt.Errorf(`not a verdict in JSON, such as {"ip":"192.0.2.7","qid":"780D29842A2","class":"spam","score":12.3}: %w`, err)
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
		return s, fmt.Errorf("class %q, action %q: want class spam, ham or none, or an action of rspamd's", Clip(v.Class), Clip(v.Action))
	}
	a := policy.Assessment{Class: class, Confidence: policy.Certain}
	if v.Score != nil {
		a.Score = float64(*v.Score)
	}
	// Exim says "reject" of all that SpamAssassin calls spam; a limit says how far that is sure.
	if v.Score != nil && (strings.ToLower(v.Action) != "reject" || v.Limit > 0) {
		a = grade(a, float64(v.Limit))
	}
	a.Source, a.Reason = policy.FromFeed, Clip(oneLine(v.Reason))
	if a.Reason == "" {
		a.Reason = fmt.Sprintf("%s, score %.2f", class, a.Score)
	}
	s = policy.Signal{Time: now, Mail: true, QueueID: v.QID, Assessment: a}
	if v.Time != nil {
		s.Time = *v.Time
	}
	if s.Addr, err = address(v.IP); err != nil {
		return s, err
	}
	if v.Port < 0 || v.Port > math.MaxUint16 || v.Port != number(math.Trunc(float64(v.Port))) {
		return s, fmt.Errorf("port: %v is not a TCP port", float64(v.Port))
	}
	s.Port = uint16(v.Port)
	if used, known := transport(v.TLS); known {
		s.TLS, s.InClear = used, used == nil
	}
	return s, complete(&s, v.Action)
}

// article is a JSON type with its article.
func article(name string) string {
	if strings.ContainsRune("aeiou", rune(name[0])) {
		return "an " + name
	}
	return "a " + name
}

// complete finishes a signal of a feed, or says what it lacks.
func complete(s *policy.Signal, action string) error {
	switch {
	case !s.Addr.IsValid() && s.QueueID == "":
		return errNoMessage
	case len(s.QueueID) > maxQueueID:
		return fmt.Errorf("qid: %d characters, more than %d", len(s.QueueID), maxQueueID)
	}
	s.Outcome = policy.Accepted
	switch strings.ToLower(action) {
	case "reject", "discard", "soft reject", "greylist":
		s.Outcome = policy.Rejected
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
	addr, err := policy.ParseAddr(s)
	if err != nil {
		return addr, fmt.Errorf("ip: %w", err)
	}
	return addr, nil
}
