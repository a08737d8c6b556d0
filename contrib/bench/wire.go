package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// The steps of the milter protocol that a filter may ask not to be told of (SMFIP_NO...) or not to
// reply to (SMFIP_NR_...), by the command's code.
var (
	untold = map[byte]uint32{'C': 0x1, 'H': 0x2, 'M': 0x4, 'R': 0x8, 'B': 0x10, 'L': 0x20, 'N': 0x40, 'T': 0x200}
	mute   = map[byte]uint32{'L': 0x80, 'C': 0x1000, 'H': 0x2000, 'M': 0x4000, 'R': 0x8000, 'T': 0x10000, 'N': 0x40000, 'B': 0x80000}
)

// changes are the replies to the end of a message that change it, before the one that ends it.
var changes = []byte("+-2bhiempq")

// mta is the MTA's side of a milter connection. It writes as Postfix does: what needs no reply goes
// out with the next command that does.
type mta struct {
	conn     net.Conn
	in       *bufio.Reader
	out      *bufio.Writer
	protocol uint32
	answer   []byte
}

// dialMTA connects to a milter and negotiates what Postfix 3.7 offers.
func dialMTA(addr string) (*mta, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	m := &mta{conn: c, in: bufio.NewReader(c), out: bufio.NewWriterSize(c, 16<<10)}
	offer := binary.BigEndian.AppendUint32(nil, 6)
	offer = binary.BigEndian.AppendUint32(offer, 0x1ff)
	offer = binary.BigEndian.AppendUint32(offer, 0x1fffff)
	m.packet('O', offer)
	code, err := m.reply()
	if err != nil || code != 'O' || len(m.answer) < 12 {
		c.Close()
		return nil, fmt.Errorf("negotiation: %q, %w", code, err)
	}
	m.protocol = binary.BigEndian.Uint32(m.answer[8:])
	return m, nil
}

func (m *mta) packet(code byte, data []byte) {
	var head [5]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(data)+1))
	head[4] = code
	m.out.Write(head[:])
	m.out.Write(data)
}

// reply flushes what is to be sent and reads a reply.
func (m *mta) reply() (code byte, err error) {
	if err := m.out.Flush(); err != nil {
		return 0, err
	}
	var head [5]byte
	if _, err := io.ReadFull(m.in, head[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint32(head[:])) - 1
	if cap(m.answer) < n {
		m.answer = make([]byte, n)
	}
	m.answer = m.answer[:n]
	_, err = io.ReadFull(m.in, m.answer)
	return head[4], err
}

// tell sends a command, with macros of its own, unless the filter does not want it, and waits for
// the reply if there is to be one.
func (m *mta) tell(command byte, data, macros []byte) error {
	if m.protocol&untold[command] != 0 {
		return nil
	}
	if macros != nil {
		m.packet('D', append([]byte{command}, macros...))
	}
	m.packet(command, data)
	if m.protocol&mute[command] != 0 {
		return nil
	}
	for {
		switch code, err := m.reply(); {
		case err != nil:
			return err
		case code == 'c' || code == 'a' || code == 's':
			return nil
		case command != 'E' || !bytes.Contains(changes, []byte{code}):
			return fmt.Errorf("the reply to %q is %q", command, code)
		}
	}
}

// session is an SMTP session of a client with one message of so many headers, the last of which is
// a verdict. It returns how long the reply to the end of the message took.
func session(addr string, client netip.Addr, headers int, queueID string) (eom time.Duration, err error) {
	m, err := dialMTA(addr)
	if err != nil {
		return 0, err
	}
	defer m.conn.Close()
	text := func(parts ...string) (b []byte) {
		for _, p := range parts {
			b = append(append(b, p...), 0)
		}
		return b
	}
	connect := append(text("client.example"), '4', 0x9c, 0x40)
	steps := []struct {
		command      byte
		data, macros []byte
	}{
		{'C', append(connect, text(client.String())...), text("j", "mx.example", "{client_addr}", client.String(), "{client_port}", "40000", "{client_name}", "client.example", "{client_ptr}", "client.example", "{daemon_name}", "smtpd")},
		{'H', text("client.example"), text()},
		{'M', text("<alice@sender.example>"), text("{mail_addr}", "alice@sender.example", "{mail_host}", "sender.example")},
		{'R', text("<bob@mx.example>"), text("i", queueID, "{rcpt_addr}", "bob@mx.example", "{rcpt_host}", "mx.example", "{rcpt_mailer}", "local")},
		{'T', nil, text("i", queueID)},
	}
	for _, s := range steps {
		if err := m.tell(s.command, s.data, s.macros); err != nil {
			return 0, err
		}
	}
	for i := range headers - 1 {
		if err := m.tell('L', text(fmt.Sprintf("X-Header-%d", i), "with a value as long as they often are, which is some sixty bytes"), nil); err != nil {
			return 0, err
		}
	}
	if err := m.tell('L', text("X-Spam-Flag", "NO"), nil); err != nil {
		return 0, err
	}
	if err := m.tell('N', nil, text("i", queueID)); err != nil {
		return 0, err
	}
	if err := m.tell('B', []byte("Hello\r\n"), nil); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := m.tell('E', nil, text("i", queueID)); err != nil {
		return 0, err
	}
	eom = time.Since(began)
	m.packet('A', nil)
	m.packet('Q', nil)
	return eom, m.out.Flush()
}
