package daemon

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/milter/verdict/maillog"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/docket"
	"github.com/ehlogate/ehlogate/policy/ledger"
)

const (
	// dueEvery is how often is looked what has waited long enough for its session.
	dueEvery = 250 * time.Millisecond
	// fedMost bounds the posts of other programs that wait to be worked on; one more is dropped and counted.
	fedMost = 10_000
	// underWayMost bounds the observations under way that nobody waits for.
	underWayMost = 4096
	// rememberedMost is how much of the event log is read at the start, in bytes.
	rememberedMost = 64 << 20
)

// hearing is what the daemon has heard of sessions and of what else tells of them.
type hearing struct {
	docket  *docket.Docket
	harvest *verdict.Harvest
	// handshakes notices how hosts get along with STARTTLS.
	handshakes *policy.Handshakes
	fed        chan policy.Testimony
	log        logFollower
	// underWay bounds what nobody waits for.
	underWay chan struct{}

	spam, ham, corrections  atomic.Uint64
	broken, marks           atomic.Uint64
	feeds, dropped, orphans atomic.Uint64
	refused                 atomic.Uint64
}

func (h *hearing) init() {
	h.handshakes = policy.NewHandshakes()
	h.docket, h.harvest, h.fed = docket.New(time.Now), verdict.NewHarvest(), make(chan policy.Testimony, fedMost)
	h.underWay = make(chan struct{}, underWayMost)
	h.log.reader = maillog.NewReader(time.Now, time.Local, h.harvest.Count)
}

func (h *hearing) count(v policy.Verdict) {
	switch v.Class {
	case policy.Spam:
		h.spam.Add(1)
	case policy.Ham:
		h.ham.Add(1)
	}
}

// remember takes the last hours of the event log into the docket, so that what is told again, or late, of what was heard before a restart
// is known.
func (d *Daemon) remember(cfg *config.Config) error {
	if cfg.Log.Anonymize {
		return nil
	}
	known, err := ledger.Recall(cfg.Log.Events, time.Now().Add(-docket.Remember), rememberedMost)
	for _, o := range known {
		d.hearing.docket.Restore(o)
	}
	return err
}

func (d *Daemon) heard() api.Heard {
	h := &d.hearing
	return api.Heard{Messages: d.milter.Stats.Messages.Load(), Spam: h.spam.Load(), Ham: h.ham.Load()}
}

// observe takes an observation of the milter's: with what was told of it already, it is learnt and recorded.
func (d *Daemon) observe(o *policy.Observation) {
	d.hearing.docket.Hear(o)
	d.record(o)()
	d.notice(o)
	if h := d.heard(); h.OneSided() {
		d.oneSided.Do(func() {
			d.log.Warn("spam is heard of and ham never, so whoever sends some spam looks like a spammer: if the filter marks only spam, set verdict.silence = \"ham\"", "messages", h.Messages, "spam", h.Spam)
		})
	}
}

// record learns an observation and writes it down. Both are queued at once, and waited for together by the function that it returns.
func (d *Daemon) record(o *policy.Observation) (wait func()) {
	d.hearing.count(o.Verdict)
	cfg := d.cfg.Load()
	learnt := d.judge.Learn(o)
	line, err := ledger.Encode(o, cfg.Log.Node, cfg.Log.Anonymize)
	return d.settle(o, learnt, line, err)
}

// correct learns a correction and writes it down, as record does.
func (d *Daemon) correct(c *docket.Correction) (wait func()) {
	d.hearing.corrections.Add(1)
	if c.Now.Verdict.Class != c.Was.Class {
		d.hearing.count(c.Now.Verdict)
	}
	cfg := d.cfg.Load()
	learnt := d.judge.Correct(c.Policy())
	line, err := ledger.EncodeCorrection(c.Now, c.Was, time.Now(), cfg.Log.Node, cfg.Log.Anonymize)
	return d.settle(c.Now, learnt, line, err)
}

// settle appends a line to the event log and returns what waits for it and for what was learnt.
func (d *Daemon) settle(o *policy.Observation, learnt <-chan error, line []byte, err error) (wait func()) {
	if err != nil {
		d.log.Error("record an observation", "session", o.Session, "client", o.Client.Addr, "error", err)
		return func() {}
	}
	written := d.ledger.Append(line)
	return func() { d.await(o, learnt, written) }
}

// await waits for what was learnt and written, no longer than recordWait.
func (d *Daemon) await(o *policy.Observation, learnt, written <-chan error) {
	deadline := time.NewTimer(recordWait)
	defer deadline.Stop()
	for range 2 {
		var err error
		select {
		case err = <-learnt:
			learnt = nil
		case err = <-written:
			written = nil
		case <-deadline.C:
			d.late.Add(1)
			return
		}
		if err != nil {
			d.late.Add(1)
			d.odd.Do(func() {
				d.log.Error("an observation is not durable yet", "session", o.Session, "client", o.Client.Addr, "error", err)
			})
		}
		if learnt == nil && written == nil {
			return
		}
	}
}

// tell takes what something beside the sessions told.
func (d *Daemon) tell(t policy.Testimony) {
	t.Verdict = d.cfg.Load().Verdict.Weights.Weigh(t.Verdict)
	if t.Trouble == policy.HandshakeFailed {
		d.failed(t.Addr, t.Time)
	}
	if c, _ := d.hearing.docket.Tell(t); c != nil {
		d.unwatched(d.correct(c))
	}
}

// unwatched waits for what nobody waits for, so that what goes wrong is counted; when too much is under way it lets the caller wait.
func (d *Daemon) unwatched(wait func()) {
	d.hearing.underWay <- struct{}{}
	go func() {
		defer func() { <-d.hearing.underWay }()
		wait()
	}()
}

// feed takes a testimony posted by another program, which is answered at once.
func (d *Daemon) feed(t policy.Testimony) {
	d.hearing.feeds.Add(1)
	select {
	case d.hearing.fed <- t:
	default:
		d.hearing.dropped.Add(1)
	}
}

// hear works on what is fed, follows the MTA's log, and makes observations of what no session came for, until the returned function is called.
func (d *Daemon) hear() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() {
		for {
			select {
			case t := <-d.hearing.fed:
				d.tell(t)
			case <-ctx.Done():
				return
			}
		}
	})
	working.Go(func() { d.followLog(ctx) })
	working.Go(func() {
		tick := time.NewTicker(dueEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				d.conclude(false)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		working.Wait()
		for len(d.hearing.fed) > 0 {
			d.tell(<-d.hearing.fed)
		}
		d.conclude(true)
		for range underWayMost {
			d.hearing.underWay <- struct{}{}
		}
		d.hearing.log.keep(true)
	}
}

// conclude makes observations of what has waited for its session. What names no client teaches nothing.
func (d *Daemon) conclude(all bool) {
	for _, o := range d.hearing.docket.Due(all) {
		if !o.Client.Addr.IsValid() {
			d.hearing.orphans.Add(1)
			continue
		}
		o.Decision = d.judge.Decide(o.Client.Addr)
		d.unwatched(d.record(o))
	}
}

// learn takes the word of people on messages: each corrects what is known of its message, or is a verdict of its own.
func (d *Daemon) learn(reports []api.Report) (done []api.Learnt, err error) {
	if err := d.look(reports); err != nil {
		return nil, err
	}
	for _, r := range reports {
		l, wait := d.learnOne(r)
		defer wait()
		done = append(done, l)
	}
	return done, nil
}

// look takes the messages that are reported from the event log into the docket, as far as they are not there.
func (d *Daemon) look(reports []api.Report) error {
	var missing []string
	for _, r := range reports {
		if r.QueueID != "" && !d.hearing.docket.Has(r.QueueID) {
			missing = append(missing, r.QueueID)
		}
	}
	cfg := d.cfg.Load()
	if len(missing) == 0 || cfg.Log.Anonymize {
		return nil
	}
	found, err := ledger.Find(cfg.Log.Events, missing)
	for _, o := range found {
		d.hearing.docket.Restore(o)
	}
	return err
}

func (d *Daemon) learnOne(r api.Report) (l api.Learnt, wait func()) {
	t := policy.Testimony{Time: r.Time, Addr: r.Addr, QueueID: r.QueueID, Mail: true, FromDomain: r.FromDomain, Verdict: policy.Verdict{Class: r.Class, Source: r.Source, Reason: verdict.Clip(r.Reason)}}
	t.Verdict = d.cfg.Load().Verdict.Weights.Weigh(t.Verdict)
	l, wait = api.Learnt{QueueID: r.QueueID, Addr: r.Addr}, func() {}
	c, known := d.hearing.docket.Report(t)
	switch {
	case known && c == nil:
		l.Status = api.StatusAgain
	case known && c.Now.Authenticated:
		l.Status = api.StatusOwnUser
	case known:
		l.Status, l.Addr, wait = api.StatusCorrected, c.Now.Client.Addr, d.correct(c)
	case !r.Addr.IsValid():
		l.Status = api.StatusUnknown
	default:
		if now := time.Now(); t.Time.IsZero() || t.Time.After(now) {
			t.Time = now
		}
		o := t.Observation()
		o.Decision = d.judge.Decide(r.Addr)
		if o.QueueID != "" {
			// Reported again, it is known.
			d.hearing.docket.Restore(o)
		}
		l.Status, wait = api.StatusNew, d.record(o)
	}
	return l, wait
}
