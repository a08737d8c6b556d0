package table

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// maxValue is how long a value that a peer wants to store may be; it is read and thrown away.
const maxValue = 1 << 16

// Memcache speaks the part of memcached's text protocol that Postfix's memcache_table(5) uses: get
// answers, set and add are read and ignored. A key is "starttls:ADDRESS", "tier:ADDRESS" or a bare
// address.
func Memcache(s *Server, c *peer) error {
	r := bufio.NewReaderSize(c, MaxRequest)
	w := bufio.NewWriter(c)
	for {
		if err := s.wait(c); err != nil {
			return err
		}
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("%w: line longer than %d bytes", errMalformed, MaxRequest)
		} else if err != nil {
			return err
		}
		c.now = time.Now()
		if key, ok := bytes.CutPrefix(bytes.TrimRight(line, "\r\n"), []byte("get ")); ok && !bytes.ContainsAny(key, " \t") {
			// What Postfix asks.
			err = s.get(key, c.now, w)
		} else {
			err = s.command(strings.Fields(string(line)), c.now, r, w)
		}
		if err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
}

func (s *Server) command(words []string, now time.Time, r *bufio.Reader, w *bufio.Writer) error {
	if len(words) == 0 {
		return fmt.Errorf("%w: empty command", errMalformed)
	}
	switch verb := words[0]; verb {
	case "get", "gets":
		for _, key := range words[1:] {
			s.value([]byte(key), now, w)
		}
		_, err := w.WriteString("END\r\n")
		return err
	case "set", "add", "replace":
		return discard(words, r, w)
	case "version":
		_, err := w.WriteString("VERSION ehlogate\r\n")
		return err
	case "quit":
		return io.EOF
	default:
		return fmt.Errorf("%w: command %q", errMalformed, clip(verb))
	}
}

// get answers a get of one key.
func (s *Server) get(key []byte, now time.Time, w *bufio.Writer) error {
	s.value(key, now, w)
	_, err := w.WriteString("END\r\n")
	return err
}

// value answers a memcache key, if it is one. An offer is "silent-discard", which leaves nothing
// out, so that the backup table is not asked.
func (s *Server) value(key []byte, now time.Time, w *bufio.Writer) {
	name, addr := []byte(starttls), key
	for _, known := range tables {
		if rest, ok := bytes.CutPrefix(key, known); ok && len(rest) > 0 && rest[0] == ':' {
			name, addr = known, rest[1:]
		}
	}
	value, ok := s.lookup(name, addr, now)
	if !ok {
		return
	}
	if value == "" {
		value = policy.SilentDiscard
	}
	out := append(append(append(w.AvailableBuffer(), "VALUE "...), key...), " 0 "...)
	out = append(strconv.AppendInt(out, int64(len(value)), 10), "\r\n"...)
	w.Write(append(append(out, value...), "\r\n"...))
}

// discard reads the data of "set key flags exptime bytes [noreply]" and answers as if it were kept.
func discard(words []string, r *bufio.Reader, w *bufio.Writer) error {
	if len(words) < 5 {
		return fmt.Errorf("%w: %s with %d words", errMalformed, words[0], len(words))
	}
	n, err := strconv.Atoi(words[4])
	if err != nil || n < 0 || n > maxValue {
		return fmt.Errorf("%w: %s of %q bytes", errMalformed, words[0], clip(words[4]))
	}
	if _, err := r.Discard(n + len("\r\n")); err != nil {
		return err
	}
	if len(words) > 5 && words[5] == "noreply" {
		return nil
	}
	_, err = w.WriteString("STORED\r\n")
	return err
}
