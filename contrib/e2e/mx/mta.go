package mx

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	gomilter "github.com/d--j/go-milter"
)

// MTA speaks the milter protocol to a daemon as an MTA does, for more messages a second than a
// Postfix on a small machine passes on.
type MTA struct{ client *gomilter.Client }

// NewMTA returns an MTA before a daemon.
func NewMTA(d *Daemon) *MTA {
	return &MTA{gomilter.NewClient("tcp", fmt.Sprintf("127.0.0.1:%d", d.Milter))}
}

// Message lets a client send a message that the filter before the daemon found to be spam or not,
// and returns how long the daemon took at its end. Any answer but "go on" is an error.
func (m *MTA) Message(client netip.Addr, spam bool) (eom time.Duration, err error) {
	return m.MessageCalled("", client, spam)
}

// MessageCalled is Message with a queue id.
func (m *MTA) MessageCalled(queueID string, client netip.Addr, spam bool) (eom time.Duration, err error) {
	macros := gomilter.NewMacroBag()
	macros.Set("{client_addr}", client.String())
	if queueID != "" {
		macros.Set("i", queueID)
	}
	s, err := m.client.Session(macros)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	verdict := "NO"
	if spam {
		verdict = "YES"
	}
	for _, step := range []func() (*gomilter.Action, error){
		func() (*gomilter.Action, error) {
			return s.Conn("unknown", gomilter.FamilyInet, 40000, client.String())
		},
		func() (*gomilter.Action, error) { return s.Helo("client.example") },
		func() (*gomilter.Action, error) { return s.Mail("alice@sender.example", "") },
		func() (*gomilter.Action, error) { return s.Rcpt("bob@mx.example", "") },
		s.DataStart,
		func() (*gomilter.Action, error) { return s.HeaderField("Subject", "hello", nil) },
		func() (*gomilter.Action, error) { return s.HeaderField("X-Spam-Flag", verdict, nil) },
		s.HeaderEnd,
		func() (*gomilter.Action, error) { return s.BodyChunk([]byte("hello\r\n")) },
	} {
		if err := goesOn(step()); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	_, action, err := s.End()
	return time.Since(start), goesOn(action, err)
}

func goesOn(a *gomilter.Action, err error) error {
	if err == nil && a.Type != gomilter.ActionContinue && a.Type != gomilter.ActionAccept && a.Type != gomilter.ActionSkip {
		err = fmt.Errorf("mx: the daemon said %v", a)
	}
	return err
}

// Table asks a daemon's memcache table, on one connection, as Postfix does.
type Table struct {
	conn net.Conn
	in   *bufio.Reader
}

// NewTable connects to a daemon's table.
func NewTable(d *Daemon) (*Table, error) {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", d.Memcache))
	if err != nil {
		return nil, err
	}
	return &Table{c, bufio.NewReader(c)}, nil
}

// Close closes the connection.
func (t *Table) Close() { t.conn.Close() }

// Lookup returns the EHLO keywords that a client is not offered, and how long the answer took.
func (t *Table) Lookup(client string) (keywords string, took time.Duration, err error) {
	start := time.Now()
	t.conn.SetDeadline(start.Add(10 * time.Second))
	if _, err := fmt.Fprintf(t.conn, "get starttls:%s\r\n", client); err != nil {
		return "", 0, err
	}
	for {
		line, err := t.in.ReadString('\n')
		switch line = strings.TrimRight(line, "\r\n"); {
		case err != nil:
			return "", 0, err
		case line == "END":
			return keywords, time.Since(start), nil
		case !strings.HasPrefix(line, "VALUE "):
			keywords = line
		}
	}
}
