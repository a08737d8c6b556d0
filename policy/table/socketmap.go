package table

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"time"
)

// maxDigits is how many digits of a netstring's length are read before the peer is given up.
const maxDigits = 5

// Socketmap speaks Sendmail's socket map, which is Postfix's socketmap: netstrings, "name SP key"
// asked, "OK SP value" or "NOTFOUND SP" answered. The space after NOTFOUND is required by Postfix,
// and a bare OK would kill Sendmail's child.
func Socketmap(s *Server, c *peer) error {
	r := bufio.NewReaderSize(c, MaxRequest)
	buf := make([]byte, MaxRequest)
	var out []byte
	for {
		if err := s.wait(c); err != nil {
			return err
		}
		request, err := readNetstring(r, buf)
		if err != nil {
			return err
		}
		c.now = time.Now()
		status := "NOTFOUND "
		name, key, _ := bytes.Cut(request, []byte(" "))
		value, ok := s.lookup(name, key, c.now)
		if ok && value != "" {
			status = "OK "
		} else {
			value = ""
		}
		out = strconv.AppendInt(out[:0], int64(len(status)+len(value)), 10)
		out = append(append(append(append(out, ':'), status...), value...), ',')
		if _, err := c.Write(out); err != nil {
			return err
		}
	}
}

// readNetstring reads one netstring into buf, whose length bounds it, and returns its content.
func readNetstring(r *bufio.Reader, buf []byte) ([]byte, error) {
	length := 0
	for digits := 0; ; digits++ {
		b, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		if b == ':' && digits > 0 {
			break
		}
		if b < '0' || b > '9' || digits == maxDigits {
			return nil, fmt.Errorf("%w: netstring length has byte %q", errMalformed, b)
		}
		length = 10*length + int(b-'0')
	}
	if length > len(buf) {
		return nil, fmt.Errorf("%w: netstring of %d bytes", errMalformed, length)
	}
	if _, err := io.ReadFull(r, buf[:length]); err != nil {
		return nil, err
	}
	if b, err := r.ReadByte(); err != nil {
		return nil, err
	} else if b != ',' {
		return nil, fmt.Errorf("%w: netstring ends with %q", errMalformed, b)
	}
	return buf[:length], nil
}
