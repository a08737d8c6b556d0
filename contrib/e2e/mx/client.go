package mx

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"net/smtp"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// Session is an SMTP session with a private Postfix, after EHLO.
type Session struct {
	*smtp.Client
	// Offered says whether EHLO listed STARTTLS.
	Offered bool
}

// sessionTimeout bounds a whole session.
const sessionTimeout = 60 * time.Second

// Dial connects as a client at any address, which is told to Postfix in a PROXY line.
func (p *Postfix) Dial(client string) (*Session, error) {
	c, err := p.DialRaw(client, p.ProxyPort)
	if err != nil {
		return nil, err
	}
	return greet(c)
}

// DialRaw connects as a client at any address to a port that takes PROXY lines, and says nothing
// more.
func (p *Postfix) DialRaw(client string, port int) (net.Conn, error) {
	addr, err := netip.ParseAddr(client)
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	line := fmt.Sprintf("PROXY TCP4 %s 192.0.2.250 40000 25\r\n", addr)
	if addr.Is6() {
		line = fmt.Sprintf("PROXY TCP6 %s 2001:db8::250 40000 25\r\n", addr)
	}
	c.SetDeadline(time.Now().Add(sessionTimeout))
	_, err = c.Write([]byte(line))
	return c, err
}

// DialFrom connects from a loopback address of this host.
func (p *Postfix) DialFrom(local string) (*Session, error) { return dialFrom(local, p.Port) }

func dialFrom(local string, port int) (*Session, error) {
	d, host := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}, "127.0.0.1"
	if strings.Contains(local, ":") {
		host = "::1"
	}
	c, err := d.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	return greet(c)
}

func greet(c net.Conn) (*Session, error) {
	c.SetDeadline(time.Now().Add(sessionTimeout))
	client, err := smtp.NewClient(c, "mx.example")
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("greeting: %w", err)
	}
	s := &Session{Client: client}
	if err := client.Hello("client.example"); err != nil {
		c.Close()
		return nil, fmt.Errorf("EHLO: %w", err)
	}
	s.Offered, _ = client.Extension("STARTTLS")
	return s, nil
}

// ForceTLS sends STARTTLS although it may not be offered, and returns the reply's code.
func (s *Session) ForceTLS() (int, error) {
	id, err := s.Text.Cmd("STARTTLS")
	if err != nil {
		return 0, err
	}
	s.Text.StartResponse(id)
	defer s.Text.EndResponse(id)
	code, _, err := s.Text.ReadResponse(220)
	if reply, ok := err.(*textproto.Error); ok {
		return reply.Code, nil
	}
	return code, err
}

// UseTLS starts TLS if it is offered.
func (s *Session) UseTLS() error {
	if !s.Offered {
		return nil
	}
	return s.StartTLS(&tls.Config{InsecureSkipVerify: true})
}

// Message is a message to send.
type Message struct {
	From    string
	To      []string
	Subject string
	// Headers are further lines "Name: value", Last those that come after all others.
	Headers []string
	Last    []string
	// Body is the text, "Hello" if it is empty.
	Body string
}

// Deliver sends a message and returns the error of the first command that the server refused.
func (s *Session) Deliver(m Message) error {
	if err := s.Mail(m.From); err != nil {
		return fmt.Errorf("MAIL: %w", err)
	}
	for _, to := range m.To {
		if err := s.Rcpt(to); err != nil {
			return fmt.Errorf("RCPT: %w", err)
		}
	}
	w, err := s.Data()
	if err != nil {
		return fmt.Errorf("DATA: %w", err)
	}
	lines := append(m.Headers, "From: <"+m.From+">", "To: <"+strings.Join(m.To, ">, <")+">", "Subject: "+m.Subject)
	lines = append(lines, m.Last...)
	if _, err := fmt.Fprintf(w, "%s\r\n\r\n%s\r\n", strings.Join(lines, "\r\n"), cmp.Or(m.Body, "Hello")); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("end of message: %w", err)
	}
	return nil
}
