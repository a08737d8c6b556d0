package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/connect"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/postfix"
	"github.com/ehlogate/ehlogate/policy"
)

// eventWait is how long the event of a live check's session may take.
const eventWait = 10 * time.Second

// ownDoor is where an MTA other than Postfix is expected.
const ownDoor = "127.0.0.1:25"

// liveFindings has one session with Postfix, or where that is nil with another MTA, nil where that
// is not known, and looks for it in the event log: that has what the milter heard and what the
// table answered.
func liveFindings(c *cli.Context, daemon *api.Client, p *postfix.Postfix, mta *connect.MTA) []postfix.Finding {
	fault := func(what, fix string) []postfix.Finding { return []postfix.Finding{{What: "live: " + what, Fix: fix}} }
	at, proxied, name, again := c.String("live-address"), false, "the MTA", "restart it"
	switch {
	case p != nil:
		name, again = "Postfix", "postfix reload"
	case mta != nil:
		name, again = mta.Name, "restart "+mta.Name
	}
	if at == "" {
		at = ownDoor
		if p != nil {
			var err error
			if at, proxied, err = p.Door(); err != nil {
				return fault("no session: "+err.Error(), "name the address with --live-address HOST:PORT")
			}
		}
	}
	st, err := daemon.Status(c.Context)
	if err != nil {
		return fault("the daemon does not answer", err.Error())
	}
	var from int64
	if info, err := os.Stat(st.Events); err == nil {
		from = info.Size()
	}
	session, err := postfix.Converse(c.Context, at, proxied)
	if err != nil {
		return fault("no session: "+err.Error(), "does "+name+" run? or name the address with --live-address HOST:PORT")
	}
	offered := map[bool]string{true: "offers STARTTLS", false: "does not offer STARTTLS"}
	found := []postfix.Finding{{OK: true, What: fmt.Sprintf("live: %s %s to %s", session.Target, offered[session.STARTTLS], session.Client)}}
	if p == nil && mta != nil && !mta.Milter {
		return append(found, lookupFindings(c, daemon, st, mta)...)
	}
	if st.Anonymized {
		return append(found, countFindings(c, daemon, st)...)
	}
	answer, err := awaitEvent(st.Events, from, session.HELO)
	if err != nil {
		return append(found, fault("the event log does not have the session: "+err.Error(),
			"has "+name+" read its configuration since setup? "+again+"; then the lines above that are to be fixed")...)
	}
	found = append(found, postfix.Finding{OK: true, What: "live: the milter heard it, and it is in the event log"})
	if answer == policy.Unasked && p == nil && mta != nil {
		return append(found, postfix.Finding{OK: true, Note: true, What: "live: the table was not asked, which is right where " + mta.Name + " reads a list (setup " + mta.Setup + " --list)"})
	}
	if answer == policy.Unasked {
		return append(found, fault("the table was not asked", "has "+name+" read its configuration since setup? "+again+"; and does the service of that address use the table?")...)
	}
	if (answer == policy.Offered) != session.STARTTLS {
		return append(found, fault(fmt.Sprintf("the table was asked, and answered %s, and yet %s %s", answer, name, offered[session.STARTTLS]), "another table or setting has its say: smtpd_tls_security_level, smtpd_discard_ehlo_keywords")...)
	}
	return append(found, postfix.Finding{OK: true, What: fmt.Sprintf("live: the table was asked, and answered %s", answer)})
}

// lookupFindings says whether the table was asked, by an MTA that has no milter.
func lookupFindings(c *cli.Context, daemon *api.Client, before api.Status, mta *connect.MTA) []postfix.Finding {
	now, err := daemon.Status(c.Context)
	switch {
	case err != nil:
		return []postfix.Finding{{What: "live: the daemon does not answer any more", Fix: err.Error()}}
	case !mta.Asks:
		return []postfix.Finding{{OK: true, Note: true, What: "live: " + mta.Name + " asks nobody, and reads a list that cron keeps"}}
	case now.Withheld.Lookups == before.Withheld.Lookups:
		return []postfix.Finding{{What: "live: the table was not asked", Fix: "has " + mta.Name + " read its configuration since setup? restart " + mta.Name + "; ehlogate setup " + mta.Setup + " prints the lines"}}
	}
	return []postfix.Finding{{OK: true, What: "live: the table was asked; " + mta.Name + " has no milter, so that its log tells of sessions"}}
}

// countFindings says whether the daemon counted a session and a lookup: an anonymized event log
// does not tell whose they were.
func countFindings(c *cli.Context, daemon *api.Client, before api.Status) []postfix.Finding {
	for deadline := time.Now().Add(eventWait); ; time.Sleep(100 * time.Millisecond) {
		now, err := daemon.Status(c.Context)
		switch {
		case err != nil:
			return []postfix.Finding{{What: "live: the daemon does not answer any more", Fix: err.Error()}}
		case now.Heard.Sessions > before.Heard.Sessions && now.Withheld.Lookups > before.Withheld.Lookups:
			return []postfix.Finding{{OK: true, What: "live: the table was asked and the milter heard a session; the event log is anonymized and does not say whose"}}
		case time.Now().After(deadline):
			return []postfix.Finding{{What: fmt.Sprintf("live: the daemon heard %d sessions and answered %d lookups meanwhile, want one of each at least", now.Heard.Sessions-before.Heard.Sessions, now.Withheld.Lookups-before.Withheld.Lookups),
				Fix: "has Postfix been reloaded since setup? postfix reload"}}
		}
	}
}

// awaitEvent waits for the event of a session by the name that it gave, and returns what the table
// had answered.
func awaitEvent(path string, from int64, helo string) (policy.Answer, error) {
	deadline := time.Now().Add(eventWait)
	for {
		answer, err := findEvent(path, from, helo)
		if err != nil || answer != "" {
			return answer, err
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no event with the name %s came within %s", helo, eventWait)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func findEvent(path string, from int64, helo string) (policy.Answer, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() < from {
		// It was rotated meanwhile.
		from = 0
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return "", err
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e struct {
			HELO     string        `json:"helo"`
			STARTTLS policy.Answer `json:"starttls"`
		}
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.HELO == helo {
			return e.STARTTLS, nil
		}
	}
	return "", nil
}
