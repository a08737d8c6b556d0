package connect

import (
	"fmt"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// sendmailLines are for sendmail.mc; the arguments are the milter's socket, and port and host of
// the socketmap. Ruleset srv_features answers S where STARTTLS is not to be offered (op.me,
// "srv_features"). A milter without F= is passed over when it is away. -d bounds how long the map
// is waited for, and with -t a map that is away says nothing.
const sendmailLines = `dnl In sendmail.mc, after every other INPUT_MAIL_FILTER, so that what they find is heard:
INPUT_MAIL_FILTER(` + "`ehlogate', `S=%[1]s, T=C:2s;S:2s;R:2s;E:10s'" + `)dnl
dnl At the end, after the MAILERs; between the two sides of the rules are tabs:
LOCAL_CONFIG
Kehlogate socket -t -d2 inet:%[2]s@%[3]s
LOCAL_SRV_FEATURES
R$*			$: $(ehlogate $&{client_addr} $: <NONE> $)
R$* starttls $*		$# S
`

// Sendmail is what connects a Sendmail, from 8.14 on.
func Sendmail(c *config.Config) (string, error) {
	host, port, err := reach("table.socketmap", c.Table.Socketmap)
	if err != nil {
		return "", err
	}
	milter := "local:" + c.Milter.Listen.Address
	if c.Milter.Listen.Network != "unix" {
		milterHost, milterPort, err := reach("milter.listen", c.Milter.Listen)
		if err != nil {
			return "", err
		}
		milter = "inet:" + milterPort + "@" + milterHost
	}
	return fmt.Sprintf(sendmailLines, milter, port, host) + sendmailNotes, nil
}

// sendmailNotes say what else an operator should know.
const sendmailNotes = `dnl Then make sendmail.cf (in Debian sendmailconfig, elsewhere m4 sendmail.mc > sendmail.cf), restart
dnl Sendmail, and let the daemon follow the log: log_file = "/var/log/mail.log" below [verdict].
dnl Where sendmail.mc has LOCAL_SRV_FEATURES already, put the two rules before its own. While the daemon
dnl is away, STARTTLS is offered and mail comes in. A daemon that hangs makes Sendmail answer 451 after
dnl four seconds, until systemd has ended it (WatchdogSec).
`
