package correlate

import (
	"net/netip"

	"github.com/ehlogate/ehlogate/policy"
)

// Knowledge is what a host knows of a message.
type Knowledge int

const (
	// Stranger: nothing.
	Stranger Knowledge = iota
	// Posted: what other programs posted of it, no more, and it is pending.
	Posted
	// Heard: its session is open here, or it was observed, or the MTA's log here tells of it.
	Heard
)

// Knows is what is known here of a client's message with a queue id. Both must be given: a host
// gives queue ids that another host gives as well.
func (c *Correlator) Knows(queueID string, client netip.Addr) Knowledge {
	if queueID == "" || !client.IsValid() {
		return Stranger
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions.byQueue[queueID]; s != nil && s.client.Addr == client {
		return Heard
	}
	switch e := c.byQueue[queueID]; {
	case e == nil || e.Client.Addr != client:
		return Stranger
	case e.posted && e.observation != nil:
		return Posted
	}
	return Heard
}

// KnowsClientOf reports whether it is known here who sent a message, of which only the queue id is
// given.
func (c *Correlator) KnowsClientOf(queueID string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byQueue[queueID]
	return c.sessions.byQueue[queueID] != nil || e != nil && e.Client.Addr.IsValid()
}

// Withdraw forgets what was posted of a client's message that another host has heard, and reports
// whether it was pending.
func (c *Correlator) Withdraw(queueID string, client netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byQueue[queueID]
	if queueID == "" || e == nil || e.observation == nil || !e.posted || !sameClient(e.Client, policy.Client{Addr: client}) {
		return false
	}
	c.take(e)
	return true
}
