package main

import (
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/connect"
)

func TestCheckOfHostsWithoutPostfix(t *testing.T) {
	sendmail := &connect.MTA{Name: "Sendmail", Setup: "sendmail", Milter: true, Asks: true, Log: "/var/log/mail.log"}
	exim := &connect.MTA{Name: "Exim", Setup: "exim", Asks: true, Log: "/var/log/exim4/mainlog"}
	counted := func(lookups, sessions uint64) *api.Status {
		st := new(api.Status)
		st.Withheld.Lookups, st.Heard.Sessions = lookups, sessions
		return st
	}
	for _, c := range []struct {
		name    string
		mta     *connect.MTA
		logFile string
		st      *api.Status
		wrong   int
		says    string
	}{
		{"no mail server", nil, "", counted(0, 0), 0, "no Postfix on this host; no other mail server was found"},
		{"an Exim whose log is not followed", exim, "", counted(3, 0), 1, "it has no milter"},
		{"an Exim that asks", exim, "/var/log/exim4/mainlog", counted(3, 0), 0, "Exim asks the table: 3 lookups"},
		{"a Sendmail that does not ask", sendmail, "/var/log/mail.log", counted(0, 0), 0, "ehlogate setup sendmail prints the lines"},
		{"a Sendmail whose milter hears nothing", sendmail, "/var/log/mail.log", counted(9, 0), 1, "the milter heard of no session"},
		{"a Sendmail that is connected", sendmail, "/var/log/mail.log", counted(9, 9), 0, "Sendmail asks the table: 9 lookups"},
		{"a daemon that does not run", sendmail, "/var/log/mail.log", nil, 0, "the mail server is Sendmail"},
		{"an OpenSMTPD", &connect.MTA{Name: "OpenSMTPD", Setup: "opensmtpd"}, "", counted(0, 0), 0, "the mail server is OpenSMTPD"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wrong, all := 0, ""
			for _, f := range otherFindings("there is no Postfix on this host", c.mta, &config.Config{LogFile: c.logFile}, c.st) {
				if all += f.What + "\n"; !f.OK {
					wrong++
				}
			}
			if wrong != c.wrong || !strings.Contains(all, c.says) {
				t.Errorf("%d to fix, want %d; it says\n%s", wrong, c.wrong, all)
			}
		})
	}
}
