package eventlog

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ehlogate/ehlogate/policy"
)

// Row is a line of a trace: the event log, or what else has its time, client.addr and
// verdict.class. Fields that are not here are not looked at.
type Row struct {
	// Line is the line's number, from 1; ID is its own "id", else that number. Named says that it
	// had one.
	Line, ID int
	Named    bool
	Time     time.Time
	// Addr is invalid where the MTA did not know the client.
	Addr netip.Addr
	// Session is the event log's session; a session of several messages has several rows.
	Session string
	// Mail says that there was a message, Authenticated that it was a logged-in client's or came in
	// at a service of the operator's own users, TLS that the session used TLS or that the client
	// would have, Bounce that the sender was the null sender, Backscatter that the host was one of
	// long standing, too.
	Mail, Authenticated, TLS, Bounce, Backscatter bool
	// HamShare is the share of its weight that it counts if it is ham, 0 for all of it.
	HamShare float64
	Verdict  policy.Verdict
	// STARTTLS is what the client was told then, empty where the trace does not say.
	STARTTLS policy.Answer
	// CorrectionOf is the ID of the row whose verdict this one replaces, 0 when it replaces none.
	CorrectionOf int
	// Correction says that this row corrects an observation of the time Of, whose verdict was Was.
	Correction bool
	Of         time.Time
	Was        policy.Verdict
}

// Message is what a row says of its message: of a correction, the message of the time Of.
func (r *Row) Message() policy.Message {
	m := policy.Message{
		Time: r.Time, Client: policy.Client{Addr: r.Addr}, Authenticated: r.Authenticated, Bounce: r.Bounce, Backscatter: r.Backscatter, HamShare: r.HamShare,
		Verdict: r.Verdict, Mail: r.Mail,
	}
	if r.Correction {
		m.Time = r.Of
	}
	return m
}

// row is what is read of a line; what must be there is a pointer, so that a missing field can be
// told from an empty one.
type row struct {
	ID     *int       `json:"id"`
	Time   *time.Time `json:"time"`
	Event  Kind       `json:"event"`
	Client *struct {
		Addr *string `json:"addr"`
	} `json:"client"`
	Session       string          `json:"session"`
	Authenticated bool            `json:"authenticated"`
	Submission    bool            `json:"submission"`
	Bounce        bool            `json:"bounce"`
	Backscatter   bool            `json:"backscatter"`
	HamShare      float64         `json:"ham_share"`
	TLS           *jsontext.Value `json:"tls"`
	TLSCapable    bool            `json:"tls_capable"`
	Verdict       *policy.Verdict `json:"verdict"`
	STARTTLS      policy.Answer   `json:"starttls"`
	CorrectionOf  int             `json:"correction_of"`
	// Of and Was are those of a correction, and may be anything elsewhere.
	Of  jsontext.Value `json:"of"`
	Was jsontext.Value `json:"was"`
}

// check finds what is wrong with a verdict.
func check(name string, v policy.Verdict) error {
	switch v.Class {
	case policy.Spam, policy.Ham, policy.None:
	default:
		return fmt.Errorf("%s.class is %q; want spam, ham or none", name, v.Class)
	}
	if !(v.Weight >= 0 && v.Weight <= policy.MostWeight) {
		return fmt.Errorf("%s.weight is %g; want 0 to %d", name, v.Weight, policy.MostWeight)
	}
	return nil
}

// Rows reads a trace. The sequence ends at its end, or with an error that names the first line that
// is not a row. Lines are decoded on all processors and come in their order.
func Rows(r io.Reader) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for d, err := range decoded(r, parseRow) {
			if err == nil {
				err = d.err
			}
			if errors.Is(err, errForget) {
				continue
			}
			if err != nil {
				yield(Row{}, fmt.Errorf("line %d: %w", d.number, err))
				return
			}
			d.is.Line = d.number
			if !d.is.Named {
				d.is.ID = d.number
			}
			if !yield(d.is, nil) {
				return
			}
		}
	}
}

// errForget is for the events of what was done by hand, evidence dropped and overrides: what a
// policy would have done does not depend on it.
var errForget = errors.New("not a message")

// Lenient reads what other people's writers of JSON may have written, as encoding/json does.
var Lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

func parseRow(line []byte) (r Row, err error) {
	var v row
	if err := json.Unmarshal(line, &v, Lenient); err != nil {
		return Row{}, fmt.Errorf("no event in JSON: %w", err)
	}
	switch {
	case v.Time == nil:
		return Row{}, errors.New(`no "time"; want RFC 3339, such as "2026-11-24T13:21:55.365Z"`)
	case v.Event == KindForget || v.Event == KindOverride:
		return Row{}, errForget
	case v.Client == nil || v.Client.Addr == nil:
		return Row{}, errors.New(`no "client" with its "addr"`)
	case v.Verdict == nil || v.Verdict.Class == "":
		return Row{}, errors.New(`no "verdict" with its "class"`)
	}
	if err := check("verdict", *v.Verdict); err != nil {
		return Row{}, err
	}
	if !(v.HamShare >= 0 && v.HamShare <= 1) {
		return Row{}, fmt.Errorf("ham_share is %g; want 0 to 1", v.HamShare)
	}
	r = Row{
		Time: *v.Time, Session: v.Session, Authenticated: v.Authenticated || v.Submission, Bounce: v.Bounce, Backscatter: v.Backscatter, HamShare: v.HamShare, TLS: v.TLS != nil || v.TLSCapable,
		Mail: v.Event == KindMessage || v.Event == "" && v.Verdict.Class != policy.None, STARTTLS: v.STARTTLS, CorrectionOf: v.CorrectionOf,
		Verdict: *v.Verdict,
	}
	if v.Event == KindCorrection && v.CorrectionOf == 0 {
		if err := r.readCorrection(&v); err != nil {
			return Row{}, err
		}
	}
	if v.ID != nil {
		r.ID, r.Named = *v.ID, true
	}
	if *v.Client.Addr != "" {
		if r.Addr, err = policy.ParseAddr(*v.Client.Addr); err != nil {
			return Row{}, fmt.Errorf("client.addr: %w", err)
		}
	}
	return r, nil
}

// readCorrection takes what a correction has besides.
func (r *Row) readCorrection(v *row) error {
	if v.Of == nil || v.Was == nil {
		return errors.New(`a correction without "of", the time of what it corrects, or "was", the verdict on it`)
	}
	r.Correction = true
	if err := errors.Join(json.Unmarshal(v.Of, &r.Of), json.Unmarshal(v.Was, &r.Was, Lenient)); err != nil {
		return fmt.Errorf("no correction in JSON: %w", err)
	}
	return check("was", r.Was)
}
