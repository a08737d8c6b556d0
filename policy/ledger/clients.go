package ledger

import (
	"encoding/binary"
	"fmt"

	"github.com/axiomhq/hyperloglog"

	"github.com/ehlogate/ehlogate/policy"
)

// clientSets are the sets of clients that are estimated: all, those that used TLS, and those that
// sent spam.
const (
	allClients = iota
	tlsClients
	spamClients
	clientSets
)

// precision makes an estimate right to 1.04/sqrt(2^precision), which is 1.6 %, in 4 KiB at most.
const precision = 12

// Clients estimates how many different clients there were in a slot. Few are counted exactly.
type Clients [clientSets]*hyperloglog.Sketch

func newClients() *Clients {
	c := new(Clients)
	for i := range c {
		c[i], _ = hyperloglog.NewSketch(precision, true)
	}
	return c
}

func (l *Ledger) countClient(e *Entry) {
	addr := e.Addr.As16()
	for _, w := range []Width{Coarse, Daily} {
		key := slotKey{w, w.start(e.Time).Unix()}
		if w == Coarse && (l.opt.Path == "" || l.tooOld(e.Time, keepFine)) {
			continue
		}
		c := l.clients[key]
		if c == nil {
			c = newClients()
			l.load(leafKey{leafClients, w, "", key.at}, c.decode)
			l.clients[key] = c
		}
		c[allClients].Insert(addr[:])
		if e.TLS != nil {
			c[tlsClients].Insert(addr[:])
		}
		if e.Message && e.Verdict.Class == policy.Spam {
			c[spamClients].Insert(addr[:])
		}
		l.touch(leafKey{leafClients, w, "", key.at})
	}
}

// encode writes the sets, each after its length.
func (c *Clients) encode() ([]byte, error) {
	var b []byte
	for _, s := range c {
		set, err := s.MarshalBinary()
		if err != nil {
			return nil, err
		}
		b = append(binary.AppendUvarint(b, uint64(len(set))), set...)
	}
	return b, nil
}

// decode adds sets that were written.
func (c *Clients) decode(b []byte) (err error) {
	// The library trusts what it reads.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("clients: %v", p)
		}
	}()
	for i := range c {
		length, n := binary.Uvarint(b)
		if n <= 0 || length > uint64(len(b)-n) {
			return errShort
		}
		set := b[n : n+int(length)]
		b = b[n+int(length):]
		var s hyperloglog.Sketch
		if err := s.UnmarshalBinary(set); err != nil {
			return err
		}
		if err := c[i].Merge(&s); err != nil {
			return err
		}
	}
	return nil
}
