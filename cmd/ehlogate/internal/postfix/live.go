package postfix

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/smtp"
	"strings"
	"time"
)

// liveWait is how long the session of a live check may take: postscreen(8) lets a new client wait
// for six seconds.
const liveWait = 30 * time.Second

// testClient is the address that a live check's session has where Postfix takes PROXY lines (RFC
// 5737: it is nobody's).
const testClient = "192.0.2.254"

// Live is what a session with an MTA showed.
type Live struct {
	// Target is where it was connected to, Client the address that it saw.
	Target, Client string
	// HELO is the name that it gave, by which the event log tells it from others.
	HELO     string
	STARTTLS bool
}

// Converse has one session with the MTA at an address that says EHLO and leaves. Proxied says that
// it takes PROXY lines.
func Converse(ctx context.Context, at string, proxied bool) (l Live, err error) {
	ctx, cancel := context.WithTimeout(ctx, liveWait)
	defer cancel()
	l.Target, l.HELO = at, "ehlogate-check-"+strings.ToLower(rand.Text()[:12])+".invalid"
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", at)
	if err != nil {
		return l, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if local, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
		l.Client = local.Addr().Unmap().String()
	}
	if proxied {
		l.Client = testClient
		fmt.Fprintf(conn, "PROXY TCP4 %s 192.0.2.253 40000 25\r\n", testClient)
	}
	c, err := smtp.NewClient(conn, at)
	if err != nil {
		return l, fmt.Errorf("%s greets with: %w", at, err)
	}
	if err := c.Hello(l.HELO); err != nil {
		return l, fmt.Errorf("%s answers EHLO with: %w", at, err)
	}
	l.STARTTLS, _ = c.Extension("STARTTLS")
	return l, c.Quit()
}

// Door is where strangers reach Postfix: the first service in master.cf that faces them.
func (p *Postfix) Door() (at string, proxied bool, err error) {
	for _, s := range p.services {
		isExchanger := s.smtpd() && s.kind == "inet" && s.role() == exchanger
		if !isExchanger && s.command != "postscreen" {
			continue
		}
		proxied := s.value("smtpd_upstream_proxy_protocol") == "haproxy"
		if s.command == "postscreen" {
			proxied = s.value("postscreen_upstream_proxy_protocol") == "haproxy"
		}
		host := s.host()
		if host == "" {
			host = p.listensOn()
		}
		return net.JoinHostPort(host, cmp.Or(s.number(), s.port())), proxied, nil
	}
	return "", false, errors.New("postfix: no service in master.cf takes mail from strangers; name it with --live-address HOST:PORT")
}

// listensOn is an address that inet_interfaces has.
func (p *Postfix) listensOn() string {
	first := "all"
	if list := split(p.values["inet_interfaces"]); len(list) > 0 {
		first = list[0]
	}
	switch first {
	case "all", "loopback-only", "localhost":
		if p.values["inet_protocols"] == "ipv6" {
			return "::1"
		}
		return "127.0.0.1"
	}
	return strings.Trim(first, "[]")
}
