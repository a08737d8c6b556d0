package mx

import (
	"net"
	"strings"

	gomilter "github.com/d--j/go-milter"
)

// Filter is a small spam filter, a milter that runs before ehlogate: a Subject with the word "spam"
// is flagged "X-Spam-Flag: YES", one with "mute" is left alone, one with "discard" or "hold" is
// discarded or held, every other gets "X-Spam-Flag: NO". Its headers are added at the end, as most
// filters do.
type Filter struct {
	server *gomilter.Server
	addr   string
}

// StartFilter starts one on a free port.
func StartFilter() (*Filter, error) { return StartFilterAt("tcp", "127.0.0.1:0") }

// StartFilterAt starts one on an address.
func StartFilterAt(network, address string) (*Filter, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	f := &Filter{addr: "inet:" + l.Addr().String()}
	f.server = gomilter.NewServer(
		gomilter.WithMilter(func() gomilter.Milter { return &filterSession{} }),
		gomilter.WithAction(gomilter.OptAddHeader|gomilter.OptQuarantine),
		gomilter.WithProtocol(gomilter.OptNoConnect|gomilter.OptNoHelo|gomilter.OptNoMailFrom|gomilter.OptNoRcptTo|gomilter.OptNoBody|gomilter.OptNoHeaderReply),
	)
	go f.server.Serve(l)
	return f, nil
}

// Addr is its address as smtpd_milters wants it.
func (f *Filter) Addr() string { return f.addr }

// Stop stops it.
func (f *Filter) Stop() { f.server.Close() }

type filterSession struct {
	gomilter.NoOpMilter
	subject string
}

func (f *filterSession) Header(name, value string, _ gomilter.Modifier) (*gomilter.Response, error) {
	if strings.EqualFold(name, "Subject") {
		f.subject = value
	}
	return gomilter.RespContinue, nil
}

func (f *filterSession) EndOfMessage(m gomilter.Modifier) (*gomilter.Response, error) {
	switch {
	case strings.Contains(f.subject, "mute"):
		return gomilter.RespAccept, nil
	case strings.Contains(f.subject, "discard"):
		return gomilter.RespDiscard, nil
	case strings.Contains(f.subject, "hold"):
		return gomilter.RespAccept, m.Quarantine("held by the filter")
	case strings.Contains(f.subject, "spam"):
		return gomilter.RespAccept, m.AddHeader("X-Spam-Flag", "YES")
	}
	return gomilter.RespAccept, m.AddHeader("X-Spam-Flag", "NO")
}
