package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/eventlog"
	"github.com/ehlogate/ehlogate/policy/fault"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

const (
	// recordWait is how long the end of a message waits until its observation is durable. After
	// that the observation is queued, and counted as late.
	recordWait = 100 * time.Millisecond
	// concludeEvery is how often intake looks for signals that have been pending long enough.
	concludeEvery = 250 * time.Millisecond
	// hearAgain is how long it takes until other nodes are heard again when that broke off.
	hearAgain = 250 * time.Millisecond
	// mostPosts bounds the posts of other programs that wait to be worked on; one more is dropped
	// and counted.
	mostPosts = 10_000
	// mostUnderWay bounds the observations under way that nobody waits for.
	mostUnderWay = 4096
	// lastAnswers is how long other nodes may take, at the end, to say which posts are theirs.
	lastAnswers = 500 * time.Millisecond
	// mostReports bounds the reports of other nodes that wait.
	mostReports = 1000
)

// inbox is intake at work, with the posts that wait for it and what is not durable yet.
type inbox struct {
	*intake.Intake
	posts    chan policy.Signal
	underWay chan struct{}
	// hear takes what other nodes tell until that breaks off; nil where there is one node.
	hear func(context.Context, func(node string, line []byte)) error
	// reports are those that were given at other nodes.
	reports chan peerReport

	// Posts counts the verdicts posted by other programs, Dropped those of them for which there was
	// no room, Refused posts that could not be read, and Late observations that were not durable in
	// time.
	Posts, Dropped, Refused, Late atomic.Uint64
	// unread are the keys of the last post which mean nothing.
	unread atomic.Pointer[[]string]
	// Strangers counts posts without a token.
	Strangers              atomic.Uint64
	lastStranger, lastPost atomic.Int64
	tokenFile              string
	throttled, strange     rate.Sometimes
	faults                 *fault.Guard
}

// stranger counts a post of a program that may not.
func (b *inbox) stranger() {
	b.Strangers.Add(1)
	b.lastStranger.Store(time.Now().Unix())
	b.strange.Do(func() { b.Log.Warn(b.aboutStrangers()) })
}

// aboutStrangers says what is wrong with the feed, and what to do.
func (b *inbox) aboutStrangers() string {
	return fmt.Sprintf("verdicts posted without a valid token were not taken, %d of them, the last at %s: put the token in %s into the filter's configuration (for rspamd see contrib/rspamd)",
		b.Strangers.Load(), time.Unix(b.lastStranger.Load(), 0).Format(time.TimeOnly), b.tokenFile)
}

// strangersSay is what is wrong with the feed now, or "": a post that is taken ends it.
func (b *inbox) strangersSay() string {
	if last := b.lastStranger.Load(); last == 0 || b.lastPost.Load() > last {
		return ""
	}
	return b.aboutStrangers()
}

// manyOrphans is the share of posts from which on it is said that they are about unknown messages:
// after a start there are some.
const manyOrphans = 0.05

// notes are what somebody who posts should know, and what keeps nothing from working.
func (b *inbox) notes() (all []string) {
	posts, orphans := b.Posts.Load(), b.Stats.OrphanedPosts.Load()
	if float64(orphans) > manyOrphans*float64(posts) {
		all = append(all, fmt.Sprintf("%d of %d verdicts posted by other programs taught nothing: neither the milter nor the log has told of a message of that queue id, and the client was not named; have them name it (\"ip\")", orphans, posts))
	}
	if keys := b.unread.Load(); keys != nil && len(*keys) > 0 {
		all = append(all, fmt.Sprintf("the last verdict posted to /feed/verdict had keys that mean nothing there: %s", strings.Join(*keys, ", ")))
	}
	if n := b.Refused.Load(); float64(n) > manyOrphans*float64(posts) {
		all = append(all, fmt.Sprintf("%d posts of other programs could not be read, and were answered with what is wrong", n))
	}
	return all
}

func newInbox(in *intake.Intake, faults *fault.Guard) *inbox {
	return &inbox{
		faults: faults,
		Intake: in, posts: make(chan policy.Signal, mostPosts), underWay: make(chan struct{}, mostUnderWay), reports: make(chan peerReport, mostReports),
		throttled: rate.Sometimes{First: 1, Interval: time.Minute}, strange: rate.Sometimes{First: 1, Interval: time.Minute},
	}
}

// observe takes an observation of the milter's and waits until it is durable, but not for long.
func (b *inbox) observe(o *policy.Observation, assessments []policy.Assessment) {
	b.await(b.Observe(o, assessments))
}

// await waits until a message is learnt and written, no longer than recordWait.
func (b *inbox) await(r intake.Receipt) {
	deadline := time.NewTimer(recordWait)
	defer deadline.Stop()
	if r.Learnt != nil {
		select {
		case err := <-r.Learnt:
			b.missed(&r, err)
		case <-deadline.C:
			b.Late.Add(1)
			b.writeLater(r)
			return
		}
	}
	select {
	case err := <-r.Write():
		b.missed(&r, err)
	case <-deadline.C:
		b.Late.Add(1)
	}
}

// missed takes note that a message is not learnt, or not written, where there is an error.
func (b *inbox) missed(r *intake.Receipt, err error) {
	if err == nil {
		return
	}
	b.Late.Add(1)
	b.throttled.Do(func() {
		what := "an observation is not durable yet"
		if errors.Is(err, eventlog.ErrDropped) {
			what = "an observation is missing from the event log"
		}
		b.Log.Error(what, "session", r.Message.Session, "client", r.Message.Client.Addr, "error", err)
	})
}

// writeLater writes a message when it is learnt, while nobody waits. When too much is under way, it
// writes at once.
func (b *inbox) writeLater(r intake.Receipt) {
	select {
	case b.underWay <- struct{}{}:
	default:
		r.Write()
		return
	}
	go func() {
		defer func() { <-b.underWay }()
		b.faults.Do("waiting", func() {
			b.missed(&r, <-r.Learnt)
			b.missed(&r, <-r.Write())
		})
	}()
}

// awaitLater waits where nobody else does, so that what goes wrong is counted. When too much is
// under way, the caller waits.
func (b *inbox) awaitLater(r intake.Receipt) {
	b.underWay <- struct{}{}
	go func() {
		defer func() { <-b.underWay }()
		b.faults.Do("waiting", func() { b.await(r) })
	}()
}

// signal takes a signal.
func (b *inbox) signal(s policy.Signal) {
	if r := b.Signal(s); r != nil {
		b.awaitLater(*r)
	}
}

// post takes a signal posted by another program, which is answered at once.
func (b *inbox) post(s policy.Signal) {
	b.Posts.Add(1)
	b.lastPost.Store(time.Now().Unix())
	s.Posted = true
	select {
	case b.posts <- s:
	default:
		b.Dropped.Add(1)
	}
}

// meet has the inbox ask the other nodes, where the store is one that they share.
func (b *inbox) meet(k keeper) {
	if s, ok := k.(*redis.Store); ok {
		b.Peers, b.hear = s, s.Hear
	}
}

// peerReport is a report that was given at another node, as that tells it.
type peerReport struct {
	node string
	line []byte
}

// told takes what another node tells.
func (b *inbox) told(node string, line []byte) {
	b.faults.Do("what another node tells", func() {
		if r := b.Told(node, line); r != nil {
			b.awaitLater(*r)
		}
	})
}

// findReported finds the messages that are reported at other nodes.
func (b *inbox) findReported(ctx context.Context) {
	for {
		select {
		case t := <-b.reports:
			b.told(t.node, t.line)
		case <-ctx.Done():
			return
		}
	}
}

// hearPeers takes what other nodes tell, until the context ends.
func (b *inbox) hearPeers(ctx context.Context) {
	for ctx.Err() == nil {
		b.hear(ctx, func(node string, line []byte) {
			if !intake.IsReport(line) {
				b.told(node, line)
				return
			}
			select {
			case b.reports <- peerReport{node, bytes.Clone(line)}:
			default:
				// It is learnt where it was given.
			}
		})
		select {
		case <-ctx.Done():
		case <-time.After(hearAgain):
		}
	}
}

func (b *inbox) conclude(all bool) {
	for _, r := range b.Conclude(all) {
		b.awaitLater(r)
	}
}

// learn takes the reports of people and waits until they are durable, but not for long.
func (b *inbox) learn(reports []api.Report) (done []api.Learnt, err error) {
	told := make([]intake.Report, len(reports))
	for i, r := range reports {
		told[i] = intake.Report{Trust: r.Trust, Fingerprint: r.Fingerprint, Signal: policy.Signal{
			Time: r.Time, Addr: r.Addr, QueueID: r.QueueID, Mail: true, FromDomain: r.FromDomain,
			Assessment: policy.Assessment{Class: r.Class, Confidence: policy.Certain, Source: r.Source, Reason: verdict.Clip(r.Reason)},
		}}
	}
	learnt, err := b.Learn(told)
	for i, l := range learnt {
		if l.Receipt != nil {
			b.await(*l.Receipt)
		}
		done = append(done, api.Learnt{QueueID: reports[i].QueueID, Addr: l.Addr, Status: l.Status, Class: reports[i].Class})
	}
	return done, err
}

// forgot takes note that the evidence of a network was dropped.
func (b *inbox) forgot(n netip.Prefix) {
	if err := <-b.Forgot(n); err != nil {
		b.Late.Add(1)
		b.Log.Error("that evidence was dropped is not in the event log", "network", n, "error", err)
	}
}

// changed writes down what an operator changed of a network.
func (b *inbox) changed(n netip.Prefix, c eventlog.Change) {
	if err := <-b.Changed(n, c); err != nil {
		b.Late.Add(1)
		b.Log.Error("a change of the overrides is not in the event log", "network", n, "verb", c.Verb, "by", c.By, "error", err)
	}
}

// start works on posts, follows the MTA's log, and concludes what no session came for, until stop
// is called.
func (b *inbox) start(follower *follower) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	// Other nodes are heard to the end.
	hearing, deafen := context.WithCancel(context.Background())
	var working, listening sync.WaitGroup
	working.Go(func() {
		for {
			select {
			case s := <-b.posts:
				b.faults.Do("a post", func() { b.signal(s) })
			case <-ctx.Done():
				return
			}
		}
	})
	working.Go(func() {
		b.faults.Keep(ctx, "following the log", func(ctx context.Context) { follower.follow(ctx, os.Stdin) })
	})
	working.Go(func() {
		tick := time.NewTicker(concludeEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				b.faults.Do("concluding", func() { b.conclude(false) })
			case <-ctx.Done():
				return
			}
		}
	})
	if b.hear != nil {
		listening.Go(func() { b.faults.Keep(hearing, "hearing other nodes", b.hearPeers) })
		listening.Go(func() { b.faults.Keep(hearing, "finding what is reported", b.findReported) })
	}
	return func() {
		cancel()
		working.Wait()
		b.faults.Do("ending", func() {
			for len(b.posts) > 0 {
				b.signal(<-b.posts)
			}
			for end := time.Now().Add(lastAnswers); b.Asking() && time.Now().Before(end); {
				time.Sleep(lastAnswers / 50)
			}
		})
		deafen()
		listening.Wait()
		b.faults.Do("ending", func() { b.conclude(true) })
		for range mostUnderWay {
			b.underWay <- struct{}{}
		}
		follower.keep(true)
	}
}
