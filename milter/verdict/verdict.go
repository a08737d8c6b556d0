// Package verdict reads what filters, the MTA and others said of a message: headers, refused
// recipients, spam traps, and what programs post to the daemon. What they said in the MTA's log and
// in reports of people is read in its subpackages.
//
// Each reader returns policy.Assessments, with its confidence in each.
//
// Which header can be trusted? A client can write any header into its own message, at any place.
// Filters add theirs at the end (rspamd), at the top, or replace a forged one where it stands
// (spamass-milter), so the position of a header does not tell who wrote it. Two rules follow.
// Within a message the worst reading counts: a forged "No" never hides a "Yes". Only of rspamd's
// headers the one that says most decides, since a server on the way can have written the least of
// them, "X-Spam: Yes", with its own rspamd. And the client's
// own headers have to be removed before any filter runs, which Postfix does with header_checks(5):
// those see the client's headers only, never a milter's. The command "setup postfix" writes that
// table, and "check" complains where it is missing.
package verdict
