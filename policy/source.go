package policy

// Source is who gave a verdict.
type Source string

// The sources.
const (
	FromHeader         Source = "header"
	FromAuthentication Source = "authentication"
	FromSilence        Source = "silence"
	FromRspamd         Source = "rspamd"
	FromFeed           Source = "feed"
	FromDNSBL          Source = "dnsbl"
	FromRecipient      Source = "rcpt"
	FromUnknownUser    Source = "unknown-user"
	FromRelay          Source = "relay"
	FromGreylist       Source = "greylist"
	FromTempfail       Source = "tempfail"
	FromLimit          Source = "limit"
	FromLogin          Source = "login"
	FromPipelining     Source = "pipelining"
	FromMilterReject   Source = "milter-reject"
	FromMilterDiscard  Source = "milter-discard"
	FromMilterHold     Source = "milter-hold"
	FromContent        Source = "content"
	FromPregreet       Source = "pregreet"
	FromHangup         Source = "hangup"
	FromTLS            Source = "tls"
	FromProbe          Source = "probe"
	FromFlood          Source = "flood"
	FromTrap           Source = "trap"
	FromPerson         Source = "person"
	FromReport         Source = "report"
)

// People reports whether the source is a person, whose verdict corrects those of programs.
func (s Source) People() bool { return s == FromPerson || s == FromReport }

// SourceInfo describes a source.
type SourceInfo struct {
	Source Source
	// Weight is what its verdict counts by default; one of 0 is recorded and teaches nothing.
	Weight Messages
	// Usage says what it is.
	Usage string
}

// Sources are all sources.
func Sources() []SourceInfo {
	return []SourceInfo{
		{FromHeader, 1, "the verdict header of a filter before us, by its score: half where it begins to call it spam, whole at twice that"},
		{FromAuthentication, 0, "SPF or DMARC failed, as a refusal says, or DMARC in the Authentication-Results of verdict.authserv_id; mailing lists and forwarders fail them, too"},
		{FromSilence, 1, "an accepted message without a verdict header, where verdict.silence is ham"},
		{FromRspamd, 1, "rspamd's metadata exporter at /feed/rspamd, by its score"},
		{FromFeed, 1, "another program at /feed/verdict"},
		{FromDNSBL, 1, "a recipient or client refused by a DNS block list, in smtpd or postscreen"},
		{FromRecipient, 1, "a client, its HELO name, its sender or a recipient refused by the MTA's own rules, and clients on postscreen's deny list"},
		{FromUnknownUser, 1, "unknown users: one of a client within an hour counts nothing, ten count whole"},
		{FromRelay, 0.25, "relaying refused: a probe, or a client that has lost its way"},
		{FromGreylist, 0, "greylisted"},
		{FromTempfail, 0, "any other temporary refusal"},
		{FromLimit, 0.25, "over one of the MTA's limits: connections, messages, recipients, errors, time"},
		{FromLogin, 0.25, "logins that failed: ten count whole, one a tenth"},
		{FromPipelining, 0.5, "commands sent before they may be, commands that are not SMTP, and bare newlines, as seen by smtpd or postscreen"},
		{FromMilterReject, 1, "refused by a filter before us"},
		{FromMilterDiscard, 1, "discarded by a filter before us"},
		{FromMilterHold, 0.5, "put on hold by a filter before us"},
		{FromContent, 1, "refused or discarded by header_checks or body_checks"},
		{FromPregreet, 1, "spoke before the greeting, as seen by postscreen"},
		{FromHangup, 0, "hung up before the greeting, as seen by postscreen"},
		{FromTLS, 0, "a TLS handshake that failed"},
		{FromProbe, 0, "a session without a message"},
		{FromFlood, 0.25, "every thirty sessions of a client without a message within a minute"},
		{FromTrap, 3, "a recipient that is a spam trap: it convicts at once"},
		{FromPerson, 1, "ehlogate learn"},
		{FromReport, 1, "an abuse report in ARF, from a feedback loop"},
	}
}

// MostWeight is the most that a source may count, in messages.
const MostWeight = 10

// Weights are what the sources' verdicts count.
type Weights map[Source]Messages

// DefaultWeights are those of Sources.
func DefaultWeights() Weights {
	w := Weights{}
	for _, s := range Sources() {
		w[s.Source] = s.Weight
	}
	return w
}

// Weigh makes a verdict of an assessment, with its source's share of a message. What counts nothing
// becomes class None, and keeps its reason.
func (w Weights) Weigh(a Assessment) Verdict {
	v := Verdict{Class: a.Class, Score: a.Score, Source: a.Source, Reason: a.Reason}
	if a.Class == Spam || a.Class == Ham {
		v.Weight = Messages(a.Confidence) * w[a.Source]
	}
	if v.Weight == 0 {
		v.Class = None
	}
	return v
}
