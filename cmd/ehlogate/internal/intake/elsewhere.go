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

// askAgain is how long after the first time the other nodes are asked again: by then their MTA has
// told them the queue id of the message. askedMost bounds the messages to ask of again.
const (
	askAgain  = correlate.Wait / 2
	askedMost = 10_000
)

// word is what nodes tell each other of a message: what was posted of it, or that it is taken; or
// what a person reported of it, and what became of that.
type word struct {
	Posted   *policy.Signal `json:"posted,omitempty"`
	Taken    *name          `json:"taken,omitempty"`
	Reported *reported      `json:"reported,omitempty"`
	Learnt   *reply         `json:"learnt,omitempty"`
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

// name is what all nodes call a message.
type name struct {
	QueueID string     `json:"queue_id"`
	Addr    netip.Addr `json:"addr"`
}

// asked are the messages that the other nodes were asked of, the first one first.
type asked struct {
	sync.Mutex
	signals []policy.Signal
	again   []time.Time
}

// ask asks the other nodes whose message it is that was posted, where this one has not heard it.
func (in *Intake) ask(s policy.Signal) {
	if in.Peers == nil || !s.Posted || in.Correlator.Knows(s.QueueID, s.Addr) != correlate.Posted {
		return
	}
	in.tell(word{Posted: &s})
	in.asked.Lock()
	defer in.asked.Unlock()
	if len(in.asked.signals) < askedMost {
		in.asked.signals, in.asked.again = append(in.asked.signals, s), append(in.asked.again, in.Now().Add(askAgain))
	}
}

// askAgain asks of what is still nobody's.
func (in *Intake) askAgain() {
	in.asked.Lock()
	due := 0
	for now := in.Now(); due < len(in.asked.again) && !in.asked.again[due].After(now); {
		due++
	}
	signals := in.asked.signals[:due]
	in.asked.signals, in.asked.again = in.asked.signals[due:], in.asked.again[due:]
	in.asked.Unlock()
	for _, s := range signals {
		if in.Correlator.Knows(s.QueueID, s.Addr) == correlate.Posted {
			in.tell(word{Posted: &s})
		}
	}
}

func (in *Intake) tell(w word) {
	if line, err := json.Marshal(w); err == nil {
		in.Peers.Tell(line)
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
	if w.Learnt != nil && w.Learnt.Node == in.Peers.Name() {
		in.replies.answer(*w.Learnt)
	}
	if w.Reported != nil {
		return in.learnForPeer(w.Reported)
	}
	if w.Taken != nil && in.Correlator.Withdraw(w.Taken.QueueID, w.Taken.Addr) {
		in.Stats.Elsewhere.Add(1)
	}
	if w.Posted == nil || !in.isOurs(w.Posted, node) {
		return nil
	}
	in.tell(word{Taken: &name{w.Posted.QueueID, w.Posted.Addr}})
	return in.take(*w.Posted)
}

// isOurs reports whether this node counts a message of which another node knows a post only. Of two
// to which the same was posted, and that know no more, it is one.
func (in *Intake) isOurs(s *policy.Signal, node string) bool {
	switch in.Correlator.Knows(s.QueueID, s.Addr) {
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
