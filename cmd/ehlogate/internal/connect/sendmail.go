package connect

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// sendmailLines are for sendmail.mc; the arguments are the milter's socket, the map, and a rule for
// each port of the operator's own users. Ruleset srv_features answers S where STARTTLS is not to be
// offered (op.me, "srv_features"); what it is given stays as it was for rules behind these. A
// milter without F= is passed over when it is away.
const sendmailLines = "dnl 0. TLS has to be on (confSERVER_CERT and confSERVER_KEY; in Debian include(`/etc/mail/tls/starttls.m4')dnl).\n" +
	`dnl 1. In sendmail.mc, after every other INPUT_MAIL_FILTER, so that what they find is heard. Where
dnl confINPUT_MAIL_FILTERS is defined, add ehlogate to the end of its list as well: it replaces the order.
INPUT_MAIL_FILTER(` + "`ehlogate', `S=%[1]s, T=C:2s;S:2s;R:2s;E:10s'" + `)dnl
dnl 2. At its end, after the MAILERs; between the two sides of the rules are tabs. Where it has
dnl LOCAL_SRV_FEATURES already, put these rules before its own, which then see what they have always seen.
LOCAL_CONFIG
Kehlogate %[2]s
LOCAL_SRV_FEATURES
R$*			$: <$&{daemon_port}> $1
%[3]sR<users> $*		$: $1
R<$*> $*		$: <$(ehlogate $&{client_addr} $: none $)> $2
R<$* starttls $*> $*	$# S
R<$*> $*		$: $2
`

// The maps. -d bounds how long the socket is waited for, and with -t one that is away says nothing.
// A text map is read at each lookup: its file has a line for each address, as export --format
// texthash writes it. Without -o Sendmail greets everybody with 554 while the file is not there.
const (
	socketMap = "socket -t -d2 "
	textMap   = `text -o -k0 -v1 -z\t `
)

// Sendmail is what connects a Sendmail, from 8.14 on, which asks the daemon.
func Sendmail(c *config.Config) (string, error) {
	host, port, err := reach("table.socketmap", c.Table.Socketmap)
	if err != nil {
		return "", err
	}
	return sendmail(c, socketMap+sendmailSocket(host, port), sendmailAsks, sendmailAsking)
}

// SendmailByList is the same for one that reads a file, so that a daemon that hangs holds up
// nothing.
func SendmailByList(c *config.Config, file string) (string, error) {
	if !filepath.IsAbs(file) || strings.ContainsAny(file, " \t") {
		return "", fmt.Errorf("--list: Sendmail needs the whole path of the file, without blanks: %q", file)
	}
	return sendmail(c, textMap+file, fmt.Sprintf(sendmailReads, file), sendmailReading)
}

func sendmail(c *config.Config, table, needs, notes string) (string, error) {
	milter := "local:" + c.Milter.Listen.Address
	if c.Milter.Listen.Network != "unix" {
		milterHost, milterPort, err := reach("milter.listen", c.Milter.Listen)
		if err != nil {
			return "", err
		}
		milter = sendmailSocket(milterHost, milterPort)
	}
	var users strings.Builder
	for _, p := range userPorts(c) {
		fmt.Fprintf(&users, "R<%s> $*		$: <users> $1\n", p)
	}
	return fmt.Sprintf(sendmailLines, milter, table, users.String()) + fmt.Sprintf(sendmailNotes, needs, notes), nil
}

// sendmailSocket is a socket as Sendmail names it.
func sendmailSocket(host, port string) string {
	family := "inet"
	if strings.Contains(host, ":") {
		family = "inet6"
	}
	return family + ":" + port + "@" + host
}

// sendmailNotes are the further steps, and what else an operator should know.
const sendmailNotes = `%[1]sdnl 4. Make sendmail.cf (in Debian sendmailconfig, elsewhere m4 sendmail.mc > sendmail.cf), and restart Sendmail.
dnl 5. Let the daemon follow the log: log_file = "/var/log/mail.log" below [verdict], or "journal"
dnl where there is no such file, and restart it.
dnl To take it back, remove the lines of 1 and 2, make sendmail.cf again, and restart Sendmail.
dnl
dnl Ports 587 and 465 are those of your own users, where STARTTLS is always offered. S is all that a client
dnl gets from which it is withheld: where the access map has Srv_Features for strangers, such as A (no AUTH),
dnl write them behind it: $# S A.
dnl Sendmail cannot take out headers of clients: one that writes itself a verdict of ham has it believed where
dnl your filter adds none to the message. Name headers that your filter always adds in verdict.headers.
%[2]s`

// What the maps need, and what comes of it when the daemon is away or hangs.
const (
	sendmailAsks = `dnl 3. See that this Sendmail was built with SOCKETMAP, as Debian's is: sendmail -d0.4 -bt </dev/null lists it.
`
	sendmailAsking = `dnl While the daemon is away, STARTTLS is offered and mail comes in. A daemon that hangs makes
dnl Sendmail answer 451 after four seconds, until systemd has ended it (WatchdogSec); the lines of
dnl setup sendmail --list do not.
`
	sendmailReads = `dnl 3. In /etc/cron.d/ehlogate, each minute; nothing is withheld while the file is not there:
dnl   * * * * * root /usr/bin/ehlogate export --format texthash --output %s
`
	sendmailReading = `dnl What is allowed or denied holds from the next minute on. Hosts of IPv6 and networks of more than 256
dnl addresses are not in the file. When the daemon is away or hangs, it stays as it was; sessions are heard
dnl again when the daemon is back, and mail waits a few seconds for one that hangs.
`
)
