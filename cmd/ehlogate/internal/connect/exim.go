package connect

import (
	"fmt"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// eximLines are for Exim's main section; the arguments are host and port of the socketmap. Exim
// asks at EHLO by readsocket (spec.txt, "readsocket"), whose last part is what a failure gives:
// nothing, so that STARTTLS is offered.
const eximLines = `# In the main section of Exim's configuration (in Debian, at the top of /etc/exim4/exim4.conf.template,
# or in a file below /etc/exim4/conf.d/main/ where the configuration is split):
EHLOGATE_TABLE = inet:%[1]s:%[2]s
EHLOGATE_KEY = ehlogate $sender_host_address
tls_advertise_hosts = ${if match{${readsocket{EHLOGATE_TABLE}{${strlen:EHLOGATE_KEY}:EHLOGATE_KEY,}{1s}{}{}}}{\N^[0-9]+:OK \N.*starttls}{}{*}}
# It replaces a tls_advertise_hosts that is there; Debian's takes it from a macro:
# MAIN_TLS_ADVERTISE_HOSTS = (what stands behind the "=" above)

# Exim has no milter: what came in, over TLS or not, and what was refused, the daemon reads in its log:
log_selector = +tls_cipher +tls_certificate_verified +incoming_port
# and in ehlogate.toml:
#   [verdict]
#   log_file = "/var/log/exim4/mainlog"
`

// eximVerdict is the part of an ACL that posts what a spam filter in Exim says; the arguments are
// where to, and the line of the request that says by whom. $spam_action is set for rspamd and
// SpamAssassin.
const eximVerdict = `
# Where Exim asks rspamd or SpamAssassin (spamd_address), these lines tell the daemon what that said. It
# takes it without a token where ehlogate.toml has local_feed = true below [verdict], for hosts all of whose
# users are trusted. Otherwise name a file that Exim's user can read in http.feed_token_file, and print
# these lines again. In the main section:
EHLOGATE_FEED = %[1]s
EHLOGATE_SAID = \{"ip":"$sender_host_address","port":"$sender_host_port","qid":"$message_exim_id","action":"$spam_action","score":"$spam_score"\}
# and in the ACL of acl_smtp_data, before what denies or accepts by the score:
#  warn
#    spam = nobody:true
#    set acl_m_ehlogate = ${readsocket{EHLOGATE_FEED}{POST /feed/verdict HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n%[2]sContent-Length: ${strlen:EHLOGATE_SAID}\r\n\r\nEHLOGATE_SAID}{1s:shutdown=no}{}{}}
`

// Exim is what connects an Exim, from 4.90 on.
func Exim(c *config.Config) (string, error) {
	host, port, err := reach("table.socketmap", c.Table.Socketmap)
	if err != nil {
		return "", err
	}
	feed, by := c.HTTP.Listen.Address, ""
	if c.HTTP.Listen.Network != "unix" {
		feedHost, feedPort, err := reach("http.listen", c.HTTP.Listen)
		if err != nil {
			return "", err
		}
		feed = "inet:" + feedHost + ":" + feedPort
		if c.FeedTokenGiven && !c.LocalFeed {
			by = `Authorization: Bearer ${readfile{` + c.HTTP.FeedTokenFile + `}{}}\r\n`
		}
	}
	return fmt.Sprintf(eximLines, host, port) + fmt.Sprintf(eximVerdict, feed, by), nil
}
