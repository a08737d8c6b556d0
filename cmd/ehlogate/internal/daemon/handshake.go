package daemon

import (
	"net/netip"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// notice takes what a session says of its client and STARTTLS.
func (d *Daemon) notice(o *policy.Observation) {
	host := o.Decision.Host
	if !host.IsValid() {
		return
	}
	switch {
	case o.TLS != nil:
		d.hearing.handshakes.Worked(host)
	case o.Trouble == policy.LeftWithout && o.Decision.Override == nil && o.Decision.Mark == nil:
		d.mark(d.hearing.handshakes.Left(host, o.Time))
	}
}

// failed takes a TLS handshake that failed.
func (d *Daemon) failed(addr netip.Addr, at time.Time) {
	d.hearing.broken.Add(1)
	if m, ok := d.hearing.handshakes.Failed(d.judge.Policy().Keys(addr).Host, at); ok && !m.Ended(time.Now()) {
		d.mark(m)
	}
}

// mark makes a mark hold, unless there are too many.
func (d *Daemon) mark(m policy.Override) {
	if d.store.Marked() >= policy.MarksMost {
		return
	}
	d.hearing.marks.Add(1)
	if err := d.store.SetOverride(m); err != nil {
		d.odd.Do(func() {
			d.log.Error("what was noticed of a host and STARTTLS does not hold", "host", m.Network, "cause", m.Cause, "error", err)
		})
	}
}
