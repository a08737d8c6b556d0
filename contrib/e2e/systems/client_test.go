package systems

import (
	"bufio"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// service is one that clients see, as a line of the file services says:
//
//	WHO ADDRESS [tls] [haproxy]
//
// WHO is strangers, users or filters. With tls it speaks TLS from the start; with haproxy it takes
// a PROXY line first.
type service struct {
	who, address string
	tls, haproxy bool
}

func readServices(path string) (all []service, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || strings.HasPrefix(words[0], "#") {
			continue
		}
		all = append(all, service{
			who: words[0], address: words[1],
			tls: slices.Contains(words, "tls"), haproxy: slices.Contains(words, "haproxy"),
		})
	}
	return all, lines.Err()
}

func (s service) String() string { return s.who + " at " + s.address }

// seen is what a client saw of a session, in words that can be compared.
type seen struct {
	// keywords are those of the first EHLO, without STARTTLS; starttls says whether that was there.
	keywords string
	starttls bool
	// inside are the keywords after TLS began.
	inside string
	// result is what became of the message.
	result string
	took   time.Duration
}

func (s seen) String() string {
	starttls := "no STARTTLS"
	if s.starttls {
		starttls = "STARTTLS"
	}
	return fmt.Sprintf("%s, [%s], over TLS [%s], %s", starttls, s.keywords, s.inside, s.result)
}

const patience = 20 * time.Second

// ports are those of our end of a connection, which say nothing.
var ports = regexp.MustCompile(`:\d+->`)

// visit has a session with a service as a client at an address that uses TLS if it can, logs in
// where users send, and sends one message with a subject. What goes wrong is a result.
func visit(s service, from, subject string) (got seen) {
	start := time.Now()
	defer func() { got.took = time.Since(start) }()
	if err := got.session(s, from, subject); err != nil {
		got.result = ports.ReplaceAllString(strings.Join(strings.Fields(err.Error()), " "), "")
	}
	return got
}

func (v *seen) session(s service, from, subject string) error {
	conn, err := dial(s, from)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	config := &tls.Config{InsecureSkipVerify: true}
	if s.tls {
		conn = tls.Client(conn, config)
	}
	c, err := smtp.NewClient(conn, "mx.example")
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			// Which of the two it is, is chance.
			err = errClosed
		}
		return fmt.Errorf("greeting: %w", err)
	}
	if v.keywords, err = keywordsOf(c); err != nil {
		return fmt.Errorf("EHLO: %w", err)
	}
	if v.starttls, _ = c.Extension("STARTTLS"); v.starttls {
		if err := c.StartTLS(config); err != nil {
			return fmt.Errorf("STARTTLS: %w", err)
		}
		if v.inside, err = keywordsOf(c); err != nil {
			return fmt.Errorf("EHLO over TLS: %w", err)
		}
	}
	if s.who == "users" {
		if ok, _ := c.Extension("AUTH"); ok {
			if err := c.Auth(smtp.PlainAuth("", "alice@mx.example", "secret", "mx.example")); err != nil {
				return fmt.Errorf("AUTH: %w", err)
			}
		}
	}
	if err := send(c, subject); err != nil {
		return err
	}
	v.result = "delivered"
	return c.Quit()
}

func dial(s service, from string) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	source := from
	if s.haproxy {
		source = "172.22.1.1"
	}
	if s.who == "filters" {
		source = "127.0.0.1"
	}
	d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	conn, err := d.Dial("tcp", s.address)
	if err == nil && s.haproxy {
		_, err = fmt.Fprintf(conn, "PROXY TCP4 %s 192.0.2.1 40000 25\r\n", from)
	}
	return conn, err
}

// keywordsOf says EHLO and returns the keywords without STARTTLS, in order.
func keywordsOf(c *smtp.Client) (string, error) {
	id, err := c.Text.Cmd("EHLO client.example")
	if err != nil {
		return "", err
	}
	c.Text.StartResponse(id)
	_, text, err := c.Text.ReadResponse(250)
	c.Text.EndResponse(id)
	if err != nil {
		return "", err
	}
	// The library says EHLO once more, and keeps what it is told.
	if err := c.Hello("client.example"); err != nil && !strings.Contains(err.Error(), "after other methods") {
		return "", err
	}
	var all []string
	for _, line := range strings.Split(text, "\n")[1:] {
		if line != "STARTTLS" {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", "), nil
}

// message has a verdict header of its own, which a stranger has forged and a filter has meant, and
// an attached message with one.
const message = "From: <alice@sender.example>\r\nTo: <box@mx.example>\r\nSubject: %s\r\n" +
	"X-Spam-Flag: OWN\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" +
	"--b\r\nContent-Type: text/plain\r\n\r\nHello\r\n" +
	"--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: attached\r\nX-Spam-Flag: ATTACHED\r\n\r\nHello\r\n--b--\r\n"

func send(c *smtp.Client, subject string) error {
	if err := c.Mail("alice@mx.example"); err != nil {
		return fmt.Errorf("MAIL: %w", err)
	}
	if err := c.Rcpt("box@mx.example"); err != nil {
		return fmt.Errorf("RCPT: %w", err)
	}
	w, err := c.Data()
	if err != nil {
		return fmt.Errorf("DATA: %w", err)
	}
	fmt.Fprintf(w, message, cmp.Or(subject, "hello"))
	if err := w.Close(); err != nil {
		return fmt.Errorf("end of message: %w", err)
	}
	return nil
}

// errClosed is a connection that the server closed.
var errClosed = errors.New("closed")
