package connect

import "os"

// MTA is a mail server other than Postfix.
type MTA struct {
	Name string
	// Setup is its command of "ehlogate setup".
	Setup string
	// Milter says that it has the milter protocol, Asks that it asks the table, and Log is the log
	// to follow; empty where that is not read.
	Milter, Asks bool
	Log          string
	configs      []string
}

var others = []MTA{
	{"Sendmail", "sendmail", true, true, "/var/log/mail.log", []string{"/etc/mail/sendmail.cf", "/etc/mail/sendmail.mc", "/etc/sendmail.cf"}},
	{"Exim", "exim", false, true, "/var/log/exim4/mainlog", []string{EximOfDebian, "/etc/exim4/exim4.conf", "/etc/exim/exim.conf", "/etc/exim.conf", "/usr/local/etc/exim/configure"}},
	{"OpenSMTPD", "opensmtpd", false, false, "", []string{"/etc/smtpd.conf", "/etc/mail/smtpd.conf", "/etc/smtpd/smtpd.conf"}},
}

// Found is the MTA other than Postfix whose configuration is on this host, by where it usually is;
// nil where there is none.
func Found() *MTA {
	for _, m := range others {
		for _, file := range m.configs {
			if _, err := os.Stat(file); err == nil {
				return &m
			}
		}
	}
	return nil
}
