package intake

import (
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

// word is what nodes tell each other of a message: what was posted of it, or that it is taken.
type word struct {
	Posted *policy.Signal `json:"posted,omitempty"`
	Taken  *name          `json:"taken,omitempty"`
}

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

// Told takes what another node tells. What there is to wait for is nil, unless it corrects a
// message.
func (in *Intake) Told(node string, line []byte) *Receipt {
	var w word
	if json.Unmarshal(line, &w) != nil {
		// Another version's.
		return nil
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
