package main

import (
	"fmt"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/connect"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/postfix"
)

// otherFindings looks at a host without Postfix: whether its MTA, nil where none was found, asks
// the daemon and is heard, which the daemon has counted. Without says that there is no Postfix, and
// st is nil where the daemon does not run.
func otherFindings(without string, mta *connect.MTA, cfg *config.Config, st *api.Status) (found []postfix.Finding) {
	note := func(format string, args ...any) {
		found = append(found, postfix.Finding{OK: true, Note: true, What: fmt.Sprintf(format, args...)})
	}
	if mta == nil {
		note("%s; no other mail server was found whose configuration could be looked at", without)
		return found
	}
	note("%s; the mail server is %s, whose configuration is not looked at", without, mta.Name)
	if mta.Log != "" && cfg.LogFile == "" {
		f := postfix.Finding{What: "the log of " + mta.Name + " is not followed: what it refuses is not heard", Fix: fmt.Sprintf("log_file = %q below [verdict], and restart the daemon", mta.Log)}
		if !mta.Milter {
			f.What = "the log of " + mta.Name + " is not followed: it has no milter, so that nothing is heard of its mail but what is posted"
		}
		found = append(found, f)
	}
	if st == nil {
		return found
	}
	switch asked := st.Withheld.Lookups; {
	case !mta.Asks:
	case asked == 0:
		note("the table was not asked since the daemon started: nobody has connected, or %s is not connected; ehlogate setup %s prints the lines", mta.Name, mta.Setup)
	case mta.Milter && st.Heard.Sessions == 0:
		found = append(found, postfix.Finding{
			What: fmt.Sprintf("the table was asked %d times since the daemon started, and the milter heard of no session", asked),
			Fix:  "add ehlogate to the filters of " + mta.Name + ", and to confINPUT_MAIL_FILTERS where sendmail.mc defines that",
		})
	default:
		found = append(found, postfix.Finding{OK: true, What: fmt.Sprintf("%s asks the table: %s since the daemon started", mta.Name, plural(int(asked), "lookup"))})
	}
	return found
}
