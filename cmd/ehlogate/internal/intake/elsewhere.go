package intake

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/correlate"
)

// Peers are the other nodes of a cluster. One filter can serve several exchangers and post to one
// of them what it says of the messages of all; the node it posts to asks the others whose message
// it is.
type Peers interface {
	// Name tells this node from the others.
	Name() string
	// Tell sends a line to all others. It does not wait, and a line that cannot be sent is lost.
	Tell(line []byte)
}

// again is how long after the first time something is told once more: by then the MTA of the other
// node has told it the queue id of the message, and a Redis that was slow has come round. toldMost
// bounds what is to be told again, and the messages that are asked for.
const (
	again    = correlate.Wait / 2
	toldMost = 20_000
)

// word is what nodes tell each other.
//
//   - Of a message of which something was posted at a node that has not heard it: that node asks
//     (Posted), the one that has heard it says so (Heard), and the first one gives it what was
//     posted (Yours), and forgets it. Whatever of this is lost, nothing counts at both.
//   - Of a message that a person reports at such a node: Reported, and what became of it, Learnt.
type word struct {
	Posted   *name     `json:"posted,omitempty"`
	Heard    *name     `json:"heard,omitempty"`
	Yours    *yours    `json:"yours,omitempty"`
	Reported *reported `json:"reported,omitempty"`
	Learnt   *reply    `json:"learnt,omitempty"`
}

// name is what all nodes call a message.
type name struct {
	QueueID string     `json:"queue_id"`
	Addr    netip.Addr `json:"addr"`
}

// yours is what was posted of a message that a node has heard.
type yours struct {
	Node   string        `json:"node"`
	Signal policy.Signal `json:"signal"`
}

// reported is a report, and the number by which its node knows it; reply is what became of it.
type (
	reported struct {
		Number uint64 `json:"number"`
		Node   string `json:"node"`
		Report Report `json:"report"`
	}
	reply struct {
		Number uint64     `json:"number"`
		Node   string     `json:"node"`
		Status Status     `json:"status"`
		Addr   netip.Addr `json:"addr,omitzero"`
	}
)

// elsewhere is what other nodes are asked, and told again.
type elsewhere struct {
	sync.Mutex
	// posted are the posts of messages that others were asked for, until they are concluded.
	posted map[name][]policy.Signal
	// later is to be told again, what comes first first.
	later []later
}

// later is a word that is told again at a time; a question only if it is still one.
type later struct {
	at   time.Time
	word word
}

// ask asks the other nodes whose message it is that was posted, where this one has not heard it.
func (in *Intake) ask(s policy.Signal) {
	if in.Peers == nil || !s.Posted || in.Correlator.Knows(s.QueueID, s.Addr) != correlate.Posted {
		return
	}
	e, n := &in.elsewhere, name{s.QueueID, s.Addr}
	e.Lock()
	if e.posted == nil {
		e.posted = map[name][]policy.Signal{}
	}
	full := len(e.posted) >= toldMost
	if !full {
		e.posted[n] = append(e.posted[n], s)
	}
	e.Unlock()
	if full {
		return
	}
	in.tellTwice(word{Posted: &n})
}

// tellTwice tells something now, and again.
func (in *Intake) tellTwice(w word) {
	in.tell(w)
	e := &in.elsewhere
	e.Lock()
	defer e.Unlock()
	if len(e.later) < toldMost {
		e.later = append(e.later, later{in.Now().Add(again), w})
	}
}

// tellAgain tells what is due, and forgets the posts that were concluded here.
func (in *Intake) tellAgain() {
	e := &in.elsewhere
	e.Lock()
	due := 0
	for now := in.Now(); due < len(e.later) && !e.later[due].at.After(now); {
		due++
	}
	words := e.later[:due:due]
	e.later = e.later[due:]
	for n := range e.posted {
		if in.Correlator.Knows(n.QueueID, n.Addr) != correlate.Posted {
			delete(e.posted, n)
		}
	}
	e.Unlock()
	for _, l := range words {
		if n := l.word.Posted; n == nil || in.Correlator.Knows(n.QueueID, n.Addr) == correlate.Posted {
			in.tell(l.word)
		}
	}
}

// Asking reports whether other nodes have yet to say whose a message is.
func (in *Intake) Asking() bool {
	e := &in.elsewhere
	e.Lock()
	defer e.Unlock()
	return len(e.posted) > 0
}

func (in *Intake) tell(w word) {
	if line, err := json.Marshal(w); err == nil {
		in.Peers.Tell(line)
	}
}

// give gives what was posted of a message to the node that has heard it, unless it is counted here
// by now.
func (in *Intake) give(n name, node string) {
	e := &in.elsewhere
	e.Lock()
	signals := e.posted[n]
	delete(e.posted, n)
	e.Unlock()
	if len(signals) == 0 || !in.Correlator.Withdraw(n.QueueID, n.Addr) {
		return
	}
	in.Stats.Elsewhere.Add(1)
	for _, s := range signals {
		in.tellTwice(word{Yours: &yours{node, s}})
	}
}

// IsReport reports whether what another node tells is a report. To find its message can take some
// seconds, in which the rest of what is told should not wait.
func IsReport(line []byte) bool { return bytes.HasPrefix(line, []byte(`{"reported":`)) }

// Told takes what another node tells. What there is to wait for is nil, unless it corrects a
// message.
func (in *Intake) Told(node string, line []byte) *Receipt {
	var w word
	if json.Unmarshal(line, &w) != nil {
		// Another version's.
		return nil
	}
	switch {
	case w.Posted != nil && in.isOurs(*w.Posted, node):
		in.tell(word{Heard: w.Posted})
	case w.Heard != nil:
		in.give(*w.Heard, node)
	case w.Yours != nil && w.Yours.Node == in.Peers.Name():
		return in.take(w.Yours.Signal)
	case w.Learnt != nil && w.Learnt.Node == in.Peers.Name():
		in.replies.answer(*w.Learnt)
	case w.Reported != nil:
		return in.learnForPeer(w.Reported)
	}
	return nil
}

// isOurs reports whether this node counts a message of which another node knows a post only. Of two
// to which the same was posted, and that know no more, it is one.
func (in *Intake) isOurs(n name, node string) bool {
	switch in.Correlator.Knows(n.QueueID, n.Addr) {
	case correlate.Heard:
		return true
	case correlate.Posted:
		return in.Peers.Name() < node
	}
	return false
}

// replyWait is how long other nodes may take to find messages that are reported here: a person
// waits. longID is how long a queue id is that no two hosts give; by a shorter one a message is
// known only with its client.
const (
	replyWait = time.Second
	longID    = 13
)

// replies are waited for, by their numbers.
type replies struct {
	sync.Mutex
	last    uint64
	waiting map[uint64]chan<- reply
}

// await gives a report a number, to be told a reply by.
func (r *replies) await(answers chan<- reply) uint64 {
	r.Lock()
	defer r.Unlock()
	if r.waiting == nil {
		r.waiting = map[uint64]chan<- reply{}
	}
	r.last++
	r.waiting[r.last] = answers
	return r.last
}

func (r *replies) answer(a reply) {
	r.Lock()
	defer r.Unlock()
	if answers, ok := r.waiting[a.Number]; ok {
		delete(r.waiting, a.Number)
		answers <- a
	}
}

// forget waits no more for replies.
func (r *replies) forget(numbers map[uint64]int) {
	r.Lock()
	defer r.Unlock()
	for n := range numbers {
		delete(r.waiting, n)
	}
}

// askOfReports asks the other nodes for the messages of reports that are not known here, and
// returns what they have made of them.
func (in *Intake) askOfReports(reports []Report) map[int]Learnt {
	if in.Peers == nil {
		return nil
	}
	// Each is answered once, so that nobody waits to answer.
	answers, asked, done := make(chan reply, len(reports)), map[uint64]int{}, map[int]Learnt{}
	for i, r := range reports {
		known := in.Correlator.Has(r.QueueID) || r.Fingerprint != "" && in.Correlator.Has(r.Fingerprint)
		if known || r.QueueID == "" || !r.Addr.IsValid() && len(r.QueueID) < longID {
			continue
		}
		n := in.replies.await(answers)
		asked[n] = i
		in.tell(word{Reported: &reported{Number: n, Node: in.Peers.Name(), Report: r}})
	}
	defer in.replies.forget(asked)
	late := time.NewTimer(replyWait)
	defer late.Stop()
	for len(done) < len(asked) {
		select {
		case a := <-answers:
			done[asked[a.Number]] = Learnt{Status: a.Status, Addr: a.Addr}
		case <-late.C:
			return done
		}
	}
	return done
}

// learnForPeer takes a report that was given at another node, if its message is known here.
func (in *Intake) learnForPeer(r *reported) *Receipt {
	reports := []Report{r.Report}
	// What cannot be read is not known here.
	if in.find(reports) != nil || !in.Correlator.Has(reports[0].QueueID) {
		return nil
	}
	l, known := in.learnKnown(reports[0])
	if !known {
		return nil
	}
	in.tell(word{Learnt: &reply{Number: r.Number, Node: r.Node, Status: l.Status, Addr: l.Addr}})
	return l.Receipt
}
