package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// Listeners are the daemon's listening sockets. Those that are set before New are used as they are,
// as systemd.socket(5) passes them; the rest is listened on as configured. One that is configured
// as none stays nil.
type Listeners struct{ Milter, Socketmap, Memcache, HTTP net.Listener }

// Passed takes over sockets passed by systemd under their FileDescriptorName: milter, socketmap,
// memcache, http.
func Passed(byName map[string][]net.Listener) (*Listeners, error) {
	l := &Listeners{}
	fields := map[string]*net.Listener{"milter": &l.Milter, "socketmap": &l.Socketmap, "memcache": &l.Memcache, "http": &l.HTTP}
	for name, passed := range byName {
		field := fields[name]
		if field == nil || len(passed) != 1 {
			return nil, fmt.Errorf("%d sockets passed as %q; want one each with FileDescriptorName= milter, socketmap, memcache or http", len(passed), name)
		}
		*field = passed[0]
	}
	return l, nil
}

// The modes of unix sockets: the MTA's user needs the first two, and on the API's socket
// permissions stand in for the token.
const (
	mtaSocketMode = 0o666
	apiSocketMode = 0o660
)

func (l *Listeners) listen(cfg *config.Config) error {
	var errs []error
	for _, want := range []struct {
		key   string
		addr  config.Address
		field *net.Listener
		mode  os.FileMode
	}{
		{"milter.listen", cfg.Milter.Listen, &l.Milter, mtaSocketMode},
		{"table.socketmap", cfg.Table.Socketmap, &l.Socketmap, mtaSocketMode},
		{"table.memcache", cfg.Table.Memcache, &l.Memcache, mtaSocketMode},
		{"http.listen", cfg.HTTP.Listen, &l.HTTP, apiSocketMode},
	} {
		if *want.field != nil || want.addr == (config.Address{}) {
			continue
		}
		made, err := listenOn(want.addr, want.mode)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w; %s", want.key, err, listenRemedy(err)))
			continue
		}
		*want.field = made
	}
	return errors.Join(errs...)
}

// listenRemedy says what to do when an address cannot be listened on.
func listenRemedy(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "another program listens there: stop it if it is another ehlogate, or give this one another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "that is not an address of this host"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "user " + userName() + " may not listen there: take a port above 1023, or a directory that it can write"
	case errors.Is(err, syscall.ENOENT):
		return "make the directory of the socket"
	}
	return "name an address of this host"
}

func listenOn(a config.Address, mode os.FileMode) (net.Listener, error) {
	l, err := net.Listen(a.Network, a.Address)
	if a.Network == "unix" && errors.Is(err, syscall.EADDRINUSE) && stale(a.Address) {
		if err := os.Remove(a.Address); err != nil {
			return nil, err
		}
		l, err = net.Listen(a.Network, a.Address)
	}
	if err == nil && a.Network == "unix" {
		err = os.Chmod(a.Address, mode)
	}
	return l, err
}

// stale reports whether a unix socket was left behind by a daemon that is gone.
func stale(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func (l *Listeners) close() {
	for _, field := range []net.Listener{l.Milter, l.Socketmap, l.Memcache, l.HTTP} {
		if field != nil {
			field.Close()
		}
	}
}
