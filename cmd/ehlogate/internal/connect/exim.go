package connect

import (
	"fmt"
	"strings"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// EximOfDebian is there where Debian's exim4-config makes Exim's configuration.
const EximOfDebian = "/etc/exim4/update-exim4.conf.conf"

// eximTable are macros for Exim's main section; the arguments are host and port of the socketmap,
// and the ports of the operator's own users. Exim asks at EHLO by readsocket (spec.txt,
// "readsocket"), whose last part is what a failure gives: nothing, so that STARTTLS is offered.
const eximTable = `EHLOGATE_TABLE = inet:%[1]s:%[2]s
EHLOGATE_KEY = ehlogate $sender_host_address
EHLOGATE_USERS = %[3]s
EHLOGATE_OFFERED = ${if inlist{$received_port}{EHLOGATE_USERS}{*}{${if match{${readsocket{EHLOGATE_TABLE}{${strlen:EHLOGATE_KEY}:EHLOGATE_KEY,}{1s}{}{}}}{\N^[0-9]+:OK \N.*starttls}{}{*}}}}
`

const eximLines = `# In the main section of Exim's configuration. Each option may be set once there: what is set already,
# replace, and add the selectors to yours.
` + eximTable + `tls_advertise_hosts = EHLOGATE_OFFERED
log_selector = +tls_cipher +tls_certificate_verified +incoming_port
`

// eximOfDebian has the macros from which Debian's configuration sets the options; its own selectors
// come first.
const eximOfDebian = `# In /etc/exim4/conf.d/main/000_localmacros where Debian's configuration is split (dc_use_split_config in
# update-exim4.conf.conf), else in /etc/exim4/exim4.conf.localmacros. TLS has to be on: MAIN_TLS_ENABLE = true.
` + eximTable + `EHLOGATE_LOG = +smtp_protocol_error +smtp_syntax_error +tls_certificate_verified +tls_peerdn +tls_cipher +incoming_port
.ifdef MAIN_TLS_ADVERTISE_HOSTS
MAIN_TLS_ADVERTISE_HOSTS == EHLOGATE_OFFERED
.else
MAIN_TLS_ADVERTISE_HOSTS = EHLOGATE_OFFERED
.endif
.ifdef MAIN_LOG_SELECTOR
MAIN_LOG_SELECTOR == MAIN_LOG_SELECTOR EHLOGATE_LOG
.else
MAIN_LOG_SELECTOR = EHLOGATE_LOG
.endif
`

// eximNotes say what else there is to do; the argument is how to have Exim read its configuration.
const eximNotes = `# %s
#
# Ports in EHLOGATE_USERS are those of your own users: STARTTLS is always offered there.
# Exim has no milter: what came in, over TLS or not, and what was refused, the daemon reads in its log. In
# ehlogate.toml:
#   [verdict]
#   log_file = "/var/log/exim4/mainlog"
#
# To take it back, remove these lines, and log_file.
`

// eximVerdict is the part of an ACL that posts what a spam filter in Exim says; the arguments are
// where to, the line of the request that says by whom, where the ACL is, where the macros go, the
// limit as the post has it, and what else there is to know. $spam_action is set for rspamd and
// SpamAssassin. The limit is in no variable; in $spam_report it cannot be told from what a sender
// wrote.
const eximVerdict = `
# Where Exim asks rspamd or SpamAssassin (spamd_address), these lines tell the daemon what that said. It
# takes it without a token where ehlogate.toml has local_feed = true below [verdict], for hosts all of whose
# users are trusted. Otherwise name a file that Exim's user can read in http.feed_token_file (contrib/doc/mta.md
# says how), and print these lines again.%[6]s %[4]s:
EHLOGATE_FEED = %[1]s
EHLOGATE_SAID = \{"ip":"$sender_host_address","port":"$sender_host_port","qid":"$message_exim_id","action":"$spam_action","score":"$spam_score"%[5]s,"tls":"${if def:tls_in_cipher{$tls_in_cipher}{none}}"\}
# and in the ACL of acl_smtp_data, before what denies or accepts by the score%[3]s:
#  warn
#    !authenticated = *
#    !condition = ${if inlist{$received_port}{EHLOGATE_USERS}}
#    spam = nobody:true
#    set acl_m_ehlogate = ${readsocket{EHLOGATE_FEED}{POST /feed/verdict HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n%[2]sContent-Length: ${strlen:EHLOGATE_SAID}\r\n\r\nEHLOGATE_SAID}{1s:shutdown=no}{}{}}
`

// eximSocket is for a feed on a unix socket.
const eximSocket = `
# http.listen is a unix socket: what Exim posts arrives only where http.group is a group of Exim's user, which
# can then do everything that an operator can, and needs no token. On TCP it needs one, and can only post.
`

// withoutLimit is what to know where the limit is not given.
const withoutLimit = " What is just over SpamAssassin's required_score\n# counts as much as what is far over it, unless you give it: setup exim --required-score 5."

// Exim is what connects an Exim, from 4.90 on. The score is that from which on SpamAssassin calls a
// message spam, 0 where it is not given.
func Exim(c *config.Config, required float64) (string, error) {
	return exim(c, required, eximLines, "Then restart Exim.", "In the main section", "")
}

// DebiansExim is what connects an Exim whose configuration Debian's exim4-config makes.
func DebiansExim(c *config.Config, required float64) (string, error) {
	return exim(c, required, eximOfDebian, "Then run update-exim4.conf, and restart Exim.", "In the same file as the macros above", ".\n# Debian reads a file into it: put the lines below, each without its #, into /etc/exim4/ehlogate_data_acl, and beside the\n# macros CHECK_DATA_LOCAL_ACL_FILE = /etc/exim4/ehlogate_data_acl and your spamd_address, and run update-exim4.conf")
}

func exim(c *config.Config, required float64, lines, then, macros, where string) (string, error) {
	host, port, err := reach("table.socketmap", c.Table.Socketmap)
	if err != nil {
		return "", err
	}
	limit, notes := "", withoutLimit
	if required > 0 {
		limit, notes = fmt.Sprintf(`,"limit":%g`, required), ""
	}
	feed, by, socket := c.HTTP.Listen.Address, "", eximSocket
	if c.HTTP.Listen.Network != "unix" {
		feedHost, feedPort, err := reach("http.listen", c.HTTP.Listen)
		if err != nil {
			return "", err
		}
		feed, socket = "inet:"+feedHost+":"+feedPort, ""
		if c.FeedTokenGiven && !c.LocalFeed {
			notes = " The token is read by /bin/cat, since a readfile\n# that fails would defer the message." + notes
			by = `Authorization: Bearer ${sg{${run{/bin/cat ` + c.HTTP.FeedTokenFile + `}{$value}{}}}{\N\n\N}{}}\r\n`
		}
	}
	return fmt.Sprintf(lines, host, port, strings.Join(userPorts(c), ":")) + fmt.Sprintf(eximNotes, then) + socket + fmt.Sprintf(eximVerdict, feed, by, where, macros, limit, notes), nil
}
