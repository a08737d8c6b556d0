package intake

import (
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/behaviour"
)

// notice takes what a session says of its client and STARTTLS.
func (in *Intake) notice(o *policy.Observation) {
	host := o.Decision.Host
	in.noticeUser(o)
	switch {
	case !host.IsValid():
	case o.TLS != nil:
		in.Handshakes.Worked(host, o.Time)
	case o.Trouble == policy.RefusedWithout && o.Decision.Rule != policy.RuleOverride:
		in.except(behaviour.Demanded(host, o.Time))
	case o.Trouble == policy.LeftWithout && o.Decision.Rule == policy.RuleTier && !o.Submission:
		if e, ok := in.Departures.Left(host, o.Time, onlySpam(&o.Decision)); ok {
			in.except(e)
		}
	}
}

// onlySpam reports whether a host, or if nothing is known of it its network, has sent spam and next
// to no ham. That it leaves without mail is no merit then.
func onlySpam(d *policy.Decision) bool {
	only := func(spam, ham float64) bool { return spam > 0 && ham < spam/20 }
	if d.Own.Spam+d.Own.Ham > 0 {
		return only(d.Own.Spam, d.Own.Ham)
	}
	return only(d.Expected.Neighbours.Spam, d.Expected.Neighbours.Ham)
}

// renewAfter is how old the exception of a user's host is before it is renewed.
const renewAfter = 24 * time.Hour

// noticeUser takes a session of the operator's own users: nothing is withheld from where they log
// in, nor where the table is asked by a service of theirs, which must not ask it.
func (in *Intake) noticeUser(o *policy.Observation) {
	d := o.Decision
	withheld := o.Submission && o.STARTTLS == policy.Withheld
	if !d.Host.IsValid() || !o.Authenticated && !withheld || d.Rule == policy.RuleExempt || policy.IsHere(o.Client.Addr) {
		return
	}
	if d.Exception != nil && d.Exception.Cause == policy.OwnUser && o.Time.Sub(d.Exception.Set) < renewAfter {
		return
	}
	note := "a user of this host logged in"
	if withheld {
		note = "a user's service asked the table"
		in.misplaced.every(time.Hour, func() {
			in.Log.Error("a service of this host's own users asks the table, and STARTTLS was withheld there; ehlogate check says how to keep it from that", "client", o.Client.Addr)
		})
	}
	in.except(behaviour.User(d.Host, note, o.Time))
}

// handshakeFailed takes a TLS handshake that failed.
func (in *Intake) handshakeFailed(addr netip.Addr, at time.Time) {
	in.Stats.FailedHandshakes.Add(1)
	if !addr.IsValid() {
		return
	}
	host := in.Judge.Policy().Keys(addr).Host
	if e, ok := in.Handshakes.Failed(host, at); ok && !e.Ended(in.Now()) {
		in.except(e)
	}
}

// exceptionsPerSecond is how many exceptions are made in a second, exceptionsAtOnce how many after
// a quiet time: each is a transaction.
const exceptionsPerSecond, exceptionsAtOnce = 20, 200

// except makes an exception, for which others may have to go. Exceptions that come faster than can
// be kept are left out: what they are about happens again.
func (in *Intake) except(e policy.Exception) {
	in.begin.Do(func() { in.excepting = rate.NewLimiter(exceptionsPerSecond, exceptionsAtOnce) })
	if !in.excepting.AllowN(in.Now(), 1) {
		return
	}
	in.Stats.Exceptions.Add(1)
	gone := policy.MakeRoom(in.Store.KeptExceptions(), e, in.Judge.Policy().Keys(e.Network.Addr()).Network)
	if err := in.Store.SetException(e, gone...); err != nil {
		in.unstored.every(time.Minute, func() {
			in.Log.Error("an exception for a host could not be stored", "client", e.Network, "cause", e.Cause, "error", err)
		})
	}
}
