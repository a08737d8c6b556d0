package milter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/ehlogate/ehlogate/policy/deadline"
)

const (
	// maxCommand is the longest packet of a command, or of its macros, in bytes: Postfix's
	// line_length_limit is 2 KiB.
	maxCommand = 16 << 10
	// maxFrame is the longest packet taken whole of a header, or of a body, for which we do not
	// ask: an MTA that sends one all the same does so in pieces of 64 KiB. Postfix's
	// header_size_limit is 100 KB by default.
	maxFrame = 128 << 10
	// maxHeader is the longest packet of a header that is let through, cut to maxFrame: an MTA may
	// allow longer headers, and what it sent would go unheard without them.
	maxHeader = 16 << 20
	// small is how much of a packet needs no leave from the budget: that is read ahead of each
	// connection. Postfix sends no more at once.
	small = 4 << 10
	// Budget is how many bytes of packets that are not complete yet are held in all, over those.
	Budget = 64 << 20
	// frameWait is how long a packet may take from its first byte to its last. An MTA writes it at
	// once.
	frameWait = 30 * time.Second
	// replyWait is how long the MTA may take to read a reply.
	replyWait = 10 * time.Second
)

// ErrMalformed ends a connection whose peer does not speak the milter protocol.
var ErrMalformed = errors.New("malformed milter packet")

// errBudget ends a connection for whose packet there is no room.
var errBudget = errors.New("too many packets are incomplete")

// listener hands out checked connections.
type listener struct {
	net.Listener
	server *Server
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.server.Stats.Connections.Add(1)
	return &checkedConn{Conn: c, server: l.server, in: bufio.NewReaderSize(c, small), acknowledge: acknowledger(c)}, nil
}

// checkedConn reads whole packets and lets only well-formed ones through to the library, which
// panics on some others in a goroutine of its own, where nobody could recover, and reads up to 512
// MB at a peer's word.
//
// It reads ahead, writes each packet at once, and sets a deadline only where the old one will not
// do: what the library does by itself takes two system calls more for each packet, and four timers.
type checkedConn struct {
	net.Conn
	server     *Server
	in         *bufio.Reader
	negotiated bool
	// mail says that a message may be on its way from the client, which takes its time.
	mail bool
	// pending is what the library has not read yet of a packet, of which held bytes are still in
	// in.
	pending []byte
	held    int
	// out is the start of a packet that is to be written, replied says that one was since the last
	// read.
	out     []byte
	replied bool
	// acknowledge has what came acknowledged at once.
	acknowledge      func()
	reading, writing deadline.Lazy
}

func (c *checkedConn) Read(p []byte) (int, error) {
	if len(c.pending) == 0 {
		err := c.next()
		switch {
		case errors.Is(err, ErrMalformed):
			c.server.Stats.Malformed.Add(1)
		case errors.Is(err, errBudget):
			c.server.crowded()
		}
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

// acknowledger is what has the kernel acknowledge at once what came on a connection. A command
// without a reply would be acknowledged 40 ms later, and until then the MTA's kernel holds back
// what the MTA writes next (RFC 896, RFC 1122 section 4.2.3.2): the headers of each message, from
// Postfix, and each command with macros, from Sendmail. The kernel forgets the option by and by
// (tcp(7)), so it is set each time.
func acknowledger(c net.Conn) func() {
	for {
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = inner.NetConn()
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return func() {}
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return func() {}
	}
	set := func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1) }
	return func() { raw.Control(set) }
}

// Write writes a packet when all of it is there: the library writes its head and the rest apart.
func (c *checkedConn) Write(p []byte) (int, error) {
	c.out = append(c.out, p...)
	if len(c.out) < 4 || len(c.out)-4 < int(binary.BigEndian.Uint32(c.out)) {
		return len(p), nil
	}
	if until, set := c.writing.Move(time.Now(), replyWait); set {
		c.SetWriteDeadline(until)
	}
	c.replied = true
	_, err := c.Conn.Write(c.out)
	if c.out = c.out[:0]; cap(c.out) > small {
		c.out = nil
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// next reads and checks the next packet. Memory grows with what arrives, not with what is
// announced, and what is incomplete is bounded over all connections.
func (c *checkedConn) next() error {
	c.in.Discard(c.held)
	// Nothing holds on to a large packet while the next one is waited for.
	c.pending, c.held = nil, 0
	if c.in.Buffered() == 0 {
		c.expect(c.patience())
		if !c.replied {
			c.acknowledge()
		}
		c.replied = false
		if _, err := c.in.Peek(1); err != nil {
			return err
		}
	}
	head, err := c.peek(4)
	if err != nil {
		return err
	}
	length := int64(binary.BigEndian.Uint32(head))
	if length == 0 {
		return fmt.Errorf("%w: empty", ErrMalformed)
	}
	if head, err = c.peek(5); err != nil {
		return err
	}
	code := head[4]
	kept, most := length, int64(maxCommand)
	switch code {
	case 'L':
		kept, most = min(length, maxFrame), maxHeader
	case 'B':
		most = maxFrame
	}
	if length > most {
		return fmt.Errorf("%w: %q, %d bytes long", ErrMalformed, code, length)
	}
	total := 4 + int(length)
	var frame []byte
	if total <= c.in.Size() {
		frame, err = c.peek(total)
		c.held = total
	} else {
		c.expectRest()
		frame, err = c.readLarge(4+int(kept), length-kept)
	}
	if err != nil {
		return err
	}
	c.pending = frame
	return c.check(frame[4:])
}

// peek is the start of the next packet, of which something has come.
func (c *checkedConn) peek(n int) ([]byte, error) {
	if c.in.Buffered() < n {
		c.expectRest()
	}
	b, err := c.in.Peek(n)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %d of %d bytes", io.ErrUnexpectedEOF, len(b), n)
	}
	return b, err
}

// expect sees to it that the peer has so long to send something, or somewhat longer. Before the
// negotiation, the library's own deadline holds.
func (c *checkedConn) expect(wait time.Duration) {
	if !c.negotiated {
		return
	}
	if until, set := c.reading.Move(time.Now(), wait); set {
		c.SetReadDeadline(until)
	}
}

// expectRest sees to it that the peer has frameWait for the rest of a packet.
func (c *checkedConn) expectRest() {
	if c.negotiated {
		c.SetReadDeadline(c.reading.Set(time.Now(), frameWait))
	}
}

// readLarge reads a packet that is larger than in: so many bytes of it are kept, with its length,
// and more are not.
func (c *checkedConn) readLarge(total int, more int64) ([]byte, error) {
	frame := make([]byte, 0, min(total, small))
	budget := c.server.budget
	held := int64(0)
	defer func() { budget.Release(held) }()
	for len(frame) < total {
		if len(frame) == cap(frame) {
			larger := min(total, 2*cap(frame))
			need := int64(larger) - held
			if !budget.TryAcquire(need) {
				return nil, errBudget
			}
			held += need
			frame = append(make([]byte, 0, larger), frame...)
		}
		n, err := c.in.Read(frame[len(frame):cap(frame)])
		frame = frame[:len(frame)+n]
		if err != nil && len(frame) < total {
			return nil, fmt.Errorf("%w: %d of %d bytes", io.ErrUnexpectedEOF, len(frame), total)
		}
	}
	if more > 0 {
		if _, err := io.CopyN(io.Discard, c.in, more); err != nil {
			return nil, err
		}
		c.server.Stats.Cut.Add(1)
		binary.BigEndian.PutUint32(frame, uint32(total-4))
		frame[len(frame)-1] = 0
	}
	return frame, nil
}

// patience is how long the next packet is waited for.
func (c *checkedConn) patience() time.Duration {
	if c.mail {
		return mailIdle
	}
	return idle
}

// check holds a packet against the protocol, as libmilter's milter-protocol.txt describes it.
func (c *checkedConn) check(packet []byte) error {
	code, data := packet[0], packet[1:]
	if (code == 'O') == c.negotiated {
		return fmt.Errorf("%w: %q out of turn", ErrMalformed, code)
	}
	ok := false
	switch code {
	case 'O': // SMFIC_OPTNEG: version, actions, protocol
		ok = len(data) >= 12
		c.negotiated = ok
	case 'D': // SMFIC_MACRO: the command's code, then names and values
		ok = len(data) == 1 || len(data) > 1 && data[len(data)-1] == 0
	case 'C': // SMFIC_CONNECT: host name, family, port, address
		ok = checkConnect(data)
	case 'H', 'M', 'R': // SMFIC_HELO, SMFIC_MAIL, SMFIC_RCPT: strings
		ok = len(data) > 0 && data[len(data)-1] == 0
	case 'L': // SMFIC_HEADER: name and value
		ok = len(data) >= 2 && data[len(data)-1] == 0 && bytes.Count(data, []byte{0}) == 2
	case 'U': // SMFIC_UNKNOWN
		ok = len(data) > 0 && data[len(data)-1] == 0
	case 'T', 'N', 'B', 'E', 'A', 'Q', 'K': // DATA, EOH, BODY, BODYEOB, ABORT, QUIT, QUIT_NC
		ok = true
	}
	if !ok {
		return fmt.Errorf("%w: %q with %d bytes", ErrMalformed, code, len(data))
	}
	switch code {
	case 'R':
		// DATA needs no reply, so the MTA may send it only with what comes after the body.
		c.mail = true
	case 'E', 'A', 'H':
		c.mail = false
	}
	return nil
}

func checkConnect(data []byte) bool {
	end := bytes.IndexByte(data, 0)
	if end < 0 || len(data) < end+2 {
		return false
	}
	family, rest := data[end+1], data[end+2:]
	switch family {
	case 'U':
		return true
	case 'L', '4', '6':
		return len(rest) >= 3 && rest[len(rest)-1] == 0
	}
	return false
}
