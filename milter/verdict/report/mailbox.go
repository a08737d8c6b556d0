package report

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// The reasons for which a file cannot be read at all.
var (
	errUTF16 = errors.New("it is in UTF-16; save it as the mail server has it, in UTF-8 or ASCII")
	errBABYL = errors.New("it is a mailbox of Emacs' Rmail (BABYL), which is not read; save it as mbox")
	errMMDF  = errors.New("it is a mailbox of MMDF, which is not read; save it as mbox")
	errCR    = errors.New("its lines end with CR alone, as on a Mac of old; convert them, with tr '\\r' '\\n'")
)

// envelope is the line before a message in an mbox: the sender, which can have blanks in quotes or
// be missing, and a date, as asctime(3) writes it, with a zone, in RFC 5322's order, or ISO 8601's.
var envelope = regexp.MustCompile(`^From[ \t](?:.{0,320}[ \t])?(?i:` +
	`(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +(?:(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +[0-9]{1,2}|[0-9]{1,2} +(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec))[ ,].*[0-9]{1,2}:[0-9]{2}` +
	`|[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}` +
	`|[0-9]{1,2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4} [0-9]{2}:[0-9]{2})`)

// undated is such a line without a date, as Thunderbird and others write it: "From - ", "From ". It
// counts behind a blank line only.
var undated = regexp.MustCompile(`^From(?: ?| -? ?| [^ ]{1,320} ?)$`)

// fieldLine is the first line of a header.
var fieldLine = regexp.MustCompile(`^>?[!-9;-~]+[ \t]*:|^>?From `)

// What compressed files begin with: RFC 1952 section 2.3.1, RFC 8878 section 3.1.1.
var gzipMagic, zstdMagic = []byte{0x1f, 0x8b}, []byte{0x28, 0xb5, 0x2f, 0xfd}

// mostWindow bounds the memory that unpacking takes, in bytes. It is what zstd(1) writes without
// --ultra.
const mostWindow = 8 << 20

// Unzip reads what may be compressed with gzip or zstd, and reports whether it is.
func Unzip(r io.Reader) (in *bufio.Reader, zipped bool, err error) {
	in = bufio.NewReaderSize(r, 64<<10)
	start, _ := in.Peek(len(zstdMagic))
	var unzipped io.Reader
	switch {
	case bytes.HasPrefix(start, gzipMagic):
		if unzipped, err = gzip.NewReader(in); err != nil {
			return nil, true, fmt.Errorf("gzip: %w", err)
		}
	case bytes.HasPrefix(start, zstdMagic):
		if unzipped, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(mostWindow)); err != nil {
			return nil, true, fmt.Errorf("zstd: %w", err)
		}
	default:
		return in, false, nil
	}
	return bufio.NewReaderSize(unzipped, 64<<10), true, nil
}

// Each calls f for each message of a stream: an mbox (RFC 4155) if it begins with "From ", else one
// message; compressed with gzip or not. What is beyond MaxMessage of a message is not looked at. It
// ends with the stream, or with the first error of f.
func Each(r io.Reader, f func(raw []byte) error) error {
	in, _, err := Unzip(r)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	start, _ := in.Peek(in.Size())
	switch {
	case bytes.HasPrefix(start, []byte("\xff\xfe")), bytes.HasPrefix(start, []byte("\xfe\xff")):
		return errUTF16
	case bytes.HasPrefix(start, []byte("BABYL OPTIONS:")):
		return errBABYL
	case bytes.HasPrefix(start, []byte("\x01\x01\x01\x01\n")), bytes.HasPrefix(start, []byte("\x01\x01\x01\x01\r\n")):
		return errMMDF
	case bytes.IndexByte(start, '\r') >= 0 && bytes.IndexByte(start, '\n') < 0:
		return errCR
	case bytes.HasPrefix(start, []byte("\ufeff")):
		in.Discard(len("\ufeff"))
		start = start[len("\ufeff"):]
	}
	begin := bytes.TrimLeft(start, "\r\n")
	s := splitter{in: in, f: f, mbox: bytes.HasPrefix(begin, []byte("From ")) || bytes.HasPrefix(begin, []byte("From\t")) || bytes.HasPrefix(begin, []byte("From\n")), blank: true}
	return s.run()
}

// nearly is how much a Content-Length may be too great, in bytes.
const nearly = 16

// swallowedMost is how many lines that look like the beginning of a message a Content-Length may
// make a part of a body: it can be the sender's.
const swallowedMost = 3

// splitter parts an mbox.
type splitter struct {
	in   *bufio.Reader
	f    func([]byte) error
	mbox bool

	message []byte
	// begun says that the message has a line; blank that the line before was blank.
	begun, blank bool
	// body is where the body begins in the message, or -1 in the header. until is where it ends, by
	// its Content-Length (mboxcl2), or -1; candidates are the lines before that that look like the
	// beginning of another message.
	body, until int
	candidates  []int
}

func (s *splitter) run() error {
	s.reset()
	for {
		line, err := s.in.ReadSlice('\n')
		if s.mbox && len(line) > 0 && s.begins(line) {
			if s.body >= 0 && len(s.message) < s.until && len(s.candidates) < swallowedMost {
				s.candidates = append(s.candidates, len(s.message))
			} else if err := s.end(true); err != nil {
				return err
			}
		}
		s.take(line)
		switch {
		case errors.Is(err, io.EOF):
			return s.end(true)
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("report: %w", err)
		}
		if s.until >= 0 && s.body >= 0 && len(s.message) >= s.until && len(s.candidates) > 0 && !s.ends() {
			// The Content-Length is wrong; many are by a little, for the line ends of another
			// system.
			if last := s.candidates[len(s.candidates)-1]; s.until-last <= nearly {
				s.candidates = []int{last}
			}
			if err := s.end(false); err != nil {
				return err
			}
		}
	}
}

func (s *splitter) reset() {
	s.message, s.begun, s.blank, s.body, s.until, s.candidates = s.message[:0], false, true, -1, -1, nil
}

// begins reports whether a line begins another message: what follows has to look like a header.
func (s *splitter) begins(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("From")) {
		return false
	}
	bare := bytes.TrimRight(line, "\r\n")
	if !envelope.Match(bare) && !(s.blank && undated.Match(bare)) {
		return false
	}
	next, _ := s.in.Peek(1)
	if len(next) == 0 {
		return !s.begun
	}
	next, _ = s.in.Peek(min(s.in.Buffered(), 1000))
	next, _, _ = bytes.Cut(next, []byte("\n"))
	return fieldLine.Match(next)
}

// ends reports whether a message ends here: with the stream, or with the beginning of another one,
// after a blank line or not.
func (s *splitter) ends() bool {
	next, err := s.in.Peek(1)
	if len(next) == 0 && err != nil {
		return true
	}
	next, _ = s.in.Peek(min(s.in.Buffered(), 1000))
	next = bytes.TrimLeft(next, "\r\n")
	return len(next) == 0 || bytes.HasPrefix(next, []byte("From"))
}

// take adds a line to the message.
func (s *splitter) take(line []byte) {
	s.begun = s.begun || len(bytes.TrimRight(line, "\r\n")) > 0
	s.message = append(s.message, line[:min(len(line), MaxMessage-len(s.message))]...)
	s.blank = len(bytes.TrimRight(line, "\r\n")) == 0
	if s.body >= 0 || !s.blank || !s.begun {
		return
	}
	s.body = len(s.message)
	h, _ := split(s.message)
	if n, err := strconv.Atoi(h.first("Content-Length")); err == nil && n >= 0 && n < MaxMessage-s.body {
		s.until = s.body + n
	}
}

// end ends the message. Where its Content-Length was wrong, it is parted at the lines that look
// like the beginning of another one; the last of these goes on.
func (s *splitter) end(whole bool) error {
	if !s.begun {
		s.reset()
		return nil
	}
	if whole && (s.until < 0 || len(s.message) >= s.until) {
		s.candidates = nil
	}
	from := 0
	for _, to := range s.candidates {
		if err := s.f(s.message[from:to]); err != nil {
			return err
		}
		from = to
	}
	if whole {
		err := s.f(s.message[from:])
		s.reset()
		return err
	}
	rest := append([]byte(nil), s.message[from:]...)
	s.reset()
	s.message, s.begun, s.blank = append(s.message, rest...), true, bytes.HasSuffix(rest, []byte("\n\n"))
	if _, body := split(rest); body != nil {
		s.body = len(s.message) - len(body)
	}
	return nil
}

// indexFiles are the files that mail servers keep beside messages.
var indexFiles = regexp.MustCompile(`^(?:\.|dovecot|courier|maildirfolder$|maildirsize$|subscriptions$|sieve|cyrus\.)|\.(?:lock|msf|index|cache|log|dat|sbd)$|~$`)

// Files are the files of a directory that can hold messages: of a Maildir those of cur and new, and
// not of its folders, which begin with a dot; else all but those that mail servers keep for
// themselves. Messages marked as trashed are passed over.
func Files(dir string) (files []string, err error) {
	roots := []string{dir}
	if isDir(filepath.Join(dir, "cur")) {
		roots = []string{filepath.Join(dir, "cur")}
		if added := filepath.Join(dir, "new"); isDir(added) {
			roots = append(roots, added)
		}
	}
	for _, root := range roots {
		err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			switch name := entry.Name(); {
			case path != root && entry.IsDir() && (strings.HasPrefix(name, ".") || name == "tmp"):
				return fs.SkipDir
			case !entry.Type().IsRegular() || indexFiles.MatchString(name) || isTrashed(name):
				return nil
			}
			files = append(files, path)
			return nil
		})
		if err != nil {
			return files, err
		}
	}
	return files, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// isTrashed reports the flag T of a Maildir's file.
func isTrashed(name string) bool {
	_, flags, ok := strings.Cut(name, ":2,")
	return ok && strings.Contains(flags, "T")
}
