package milter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxFrame is the longest packet read, in bytes. We ask for no body, and Postfix's
// header_size_limit is 100 KB by default; an MTA that sends bodies all the same sends them in
// pieces of up to 1 MB.
const maxFrame = 1<<20 + 64

// maxConnections is how many milter connections are served at once.
const maxConnections = 8192

// ErrMalformed ends a connection whose peer does not speak the milter protocol.
var ErrMalformed = errors.New("malformed milter packet")

// listener hands out checked connections, bounds their number, and outlives passing failures of
// accept(2).
type listener struct {
	net.Listener
	stats *Stats
	open  *atomic.Int64
	quit  <-chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			select {
			case <-l.quit:
				return nil, err
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return nil, err
			}
			// Out of file descriptors, most likely: it passes when sessions end.
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if l.open.Add(1) > maxConnections {
			l.open.Add(-1)
			l.stats.Refused.Add(1)
			c.Close()
			continue
		}
		l.stats.Connections.Add(1)
		return &checkedConn{Conn: c, stats: l.stats, release: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
	}
}

// checkedConn reads whole packets and lets only well-formed ones through to the library, which
// panics on some others in a goroutine of its own, where nobody could recover, and reads up to 512
// MB at a peer's word.
type checkedConn struct {
	net.Conn
	stats      *Stats
	release    func()
	negotiated bool
	pending    []byte
}

func (c *checkedConn) Read(p []byte) (int, error) {
	if len(c.pending) == 0 {
		frame, err := readFrame(c.Conn)
		if err == nil {
			err = c.check(frame[4:])
		}
		if err != nil {
			if errors.Is(err, ErrMalformed) {
				c.stats.Malformed.Add(1)
			}
			return 0, err
		}
		c.pending = frame
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

func (c *checkedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// readFrame reads a packet with its length. Memory grows with what arrives, not with what is
// announced.
func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(head[:])
	if length == 0 || length > maxFrame {
		return nil, fmt.Errorf("%w: %d bytes long", ErrMalformed, length)
	}
	if length <= 4096 {
		frame := make([]byte, 4+length)
		copy(frame, head[:])
		_, err := io.ReadFull(r, frame[4:])
		return frame, err
	}
	var b bytes.Buffer
	b.Write(head[:])
	if n, err := io.CopyN(&b, r, int64(length)); err != nil {
		return nil, fmt.Errorf("%w: %d of %d bytes", io.ErrUnexpectedEOF, n, length)
	}
	return b.Bytes(), nil
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
