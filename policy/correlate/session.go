package correlate

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// session is an SMTP session that is open.
type session struct {
	id     string
	client policy.Client
	began  time.Time
	// queueID is that of the message under way, empty as long as it has none.
	queueID string
}

// sessions are those that are open.
type sessions struct {
	byID     map[string]*session
	byClient map[netip.Addr][]*session
	byQueue  map[string]*session
}

func newSessions() sessions {
	return sessions{map[string]*session{}, map[netip.Addr][]*session{}, map[string]*session{}}
}

// Begin notes that a session of a client has begun. Each must End.
func (c *Correlator) Begin(id string, client policy.Client, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &session{id: id, client: client, began: at}
	c.sessions.byID[id] = s
	c.sessions.byClient[client.Addr] = append(c.sessions.byClient[client.Addr], s)
}

// Queued notes the queue id of the message that is under way in a session.
func (c *Correlator) Queued(id, queueID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions.byID[id]; s != nil {
		c.sessions.queued(s, queueID)
	}
}

// queued replaces the queue id of a session's message, by none when that is over.
func (s *sessions) queued(open *session, queueID string) {
	delete(s.byQueue, open.queueID)
	if open.queueID = queueID; queueID != "" {
		s.byQueue[queueID] = open
	}
}

// End notes that a session is over: all of it was observed.
func (c *Correlator) End(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions.byID[id]
	if s == nil {
		return
	}
	delete(c.sessions.byID, id)
	delete(c.sessions.byQueue, s.queueID)
	drop(c.sessions.byClient, s.client.Addr, s)
}

// about reports whether a session is open, other than one, that a signal can be about. The signal's
// time may lie so early before the session.
func (s *sessions) about(client policy.Client, queueID string, at time.Time, early time.Duration, other string) bool {
	if open := s.byQueue[queueID]; queueID != "" && open != nil {
		return open.id != other
	}
	if !client.Addr.IsValid() {
		return false
	}
	return slices.ContainsFunc(s.byClient[client.Addr], func(open *session) bool {
		if open.id == other || queueID != "" && open.queueID != "" {
			return false
		}
		return sameClient(client, open.client) && !at.Before(open.began.Add(-early))
	})
}
