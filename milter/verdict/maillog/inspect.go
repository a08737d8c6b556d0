package maillog

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/ehlogate/ehlogate/policy/regular"
)

// inspected is how much of the end of a log is inspected, in bytes.
const inspected = 256 << 10

// Sample is what the end of a log shows of how well it can be read.
type Sample struct {
	// Lines counts all lines, Postfix those of the MTA's programs that have a time.
	Lines, Postfix int
	// MX counts the lines of the mail exchanger's smtpd(8), Users those of the services of users,
	// and Service is the name of the first of these.
	MX, Users int
	Service   string
	// Unread is the first line that could not be read: without a program or, where that is one of
	// Postfix's, without a time. Other is the first line of another program.
	Unread, Other string

	// listed says that the services of the mail exchanger are listed.
	listed bool
}

// Fault says what is wrong with a log of which nothing can be read, or in which nothing is
// Postfix's, with the first such line. It is empty where nothing is wrong, or there is no line yet.
func (s Sample) Fault() string {
	switch {
	case s.MX == 0 && s.Users > 0 && s.listed:
		return fmt.Sprintf("no smtpd of verdict.services is in it; the first service that is not listed is %q", s.Service)
	case s.Lines == 0 || s.Postfix > 0:
		return ""
	case s.Unread != "":
		return fmt.Sprintf("no line of %d can be read as Postfix's, Sendmail's or Exim's; the first that cannot be read is %q", s.Lines, s.Unread)
	}
	return fmt.Sprintf("no line of %d is Postfix's, Sendmail's or Exim's; the first is %q", s.Lines, s.Other)
}

// Inspect reads the end of a log.
func Inspect(path string, o Options) (s Sample, err error) {
	f, err := regular.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", path)
	}
	if err != nil {
		return s, err
	}
	from := max(0, info.Size()-inspected)
	if from > 0 {
		// Not within a line.
		from--
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return s, err
	}
	in := bufio.NewReaderSize(f, maxLine)
	if from > 0 {
		in.ReadSlice('\n')
	}
	r := NewReader(o)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 && err == nil {
			s.Take(r, line[:len(line)-1])
		}
		if err != nil {
			return s, nil
		}
	}
}

// Take inspects a line as a reader reads it.
func (s *Sample) Take(r *Reader, line []byte) {
	s.Lines++
	s.listed = len(r.Services) > 0
	p, ok := split(line)
	if !ok || r.programOf(p.tag) == another {
		if _, _, known := r.readExim(line); known {
			s.Postfix++
			return
		}
	}
	if ok {
		switch r.programOf(p.tag) {
		case another:
			note(&s.Other, line)
			return
		case smtpd:
			s.MX++
		case submission:
			s.Users++
			note(&s.Service, bytes.TrimSuffix(p.tag, []byte("/smtpd")))
		}
		r.when = when{stamp: p.head, outer: p.outer}
		if _, ok = r.time(); ok {
			s.Postfix++
			return
		}
	}
	note(&s.Unread, line)
}

// note keeps a line, if it is the first.
func note(first *string, line []byte) {
	if *first == "" {
		*first = string(line[:min(len(line), 200)])
	}
}
