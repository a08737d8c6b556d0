package connect

import "github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"

// openSMTPDLines are for smtpd.conf(5). Its filters cannot change what the reply to EHLO lists, but
// refuse EHLO: the client then says HELO (RFC 5321 section 3.2), and is offered no extension. 502
// is what RFC 5321 section 4.2.4 has for it. A table is read at the start, and again at
// smtpctl(8)'s update.
const openSMTPDLines = `# OpenSMTPD asks nobody about a client: it has a file of networks, which is to be written again every few
# minutes. In smtpd.conf, before the listeners:
table ehlogate file:/etc/mail/ehlogate-withheld
filter "ehlogate" phase ehlo match src <ehlogate> reject "502 5.5.1 EHLO is not for you; say HELO"
# and in each "listen" line that takes mail from strangers, not in those of your users:
#   listen on ... tls pki ... filter "ehlogate"
# (a list of filters, if there is one already: filter "chain" chain { "ehlogate", "other" })
#
# Write the file before smtpd reads its configuration, which is refused without it:
#   ehlogate export --format list --output /etc/mail/ehlogate-withheld
# and, in /etc/cron.d/ehlogate, again every five minutes:
#   */5 * * * *  root  ehlogate export --format list --output /etc/mail/ehlogate-withheld && smtpctl update table ehlogate >/dev/null
#
# What it costs: a client in the file has HELO alone: no STARTTLS, but no SIZE, 8BITMIME or DSN either. One
# that knows no HELO cannot deliver; RFC 5321 section 3.2 asks of a client that it does. STARTTLS after HELO
# is still taken. Postfix, tried as such a client, goes on with HELO, and says STARTTLS no more.
# OpenSMTPD has no milter, and its log is not read: what is spam, and whether it came over
# TLS, the filter has to post to /feed/verdict (contrib/doc/sources.md).
# To take it back, remove these lines, and the one of cron, and restart smtpd.
`

// OpenSMTPD is what connects an OpenSMTPD, from 6.8 on, to a file that is exported.
func OpenSMTPD(*config.Config) (string, error) { return openSMTPDLines, nil }
