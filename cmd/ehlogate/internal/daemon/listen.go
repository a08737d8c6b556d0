package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/guard"
)

// Listeners are the daemon's listening sockets. Those that are set before New are used as they are,
// as systemd.socket(5) passes them; the rest is listened on as configured. One that is configured
// as none stays nil.
type Listeners struct {
	Milter, Socketmap, Memcache, HTTP net.Listener

	// sockets are those in the file system, ungiven what keeps an MTA from connecting to one.
	sockets []socket
	ungiven []string
}

// socket is a unix socket as it was made.
type socket struct {
	key, path string
	made      os.FileInfo
}

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

// socketMode is that of unix sockets: who is in their group can connect.
const socketMode = 0o660

// mostConnections is how many connections a listener has open at once, at most; each has its share
// of the file descriptors that there are.
const mostConnections = 4096

// door is a listener as it is configured.
type door struct {
	key, section string
	cfg          *config.Config
	addr         config.Address
	field        *net.Listener
	access       func(*config.Config) config.Access
	// mta says that an MTA connects, weight is the listener's share of the file descriptors.
	mta    bool
	weight int
}

func (l *Listeners) doors(cfg *config.Config) []door {
	milter := func(c *config.Config) config.Access { return c.Milter.Access }
	table := func(c *config.Config) config.Access { return c.Table.Access }
	http := func(c *config.Config) config.Access { return c.HTTP.Access }
	return []door{
		{"milter.listen", "milter", cfg, cfg.Milter.Listen, &l.Milter, milter, true, 4},
		{"table.socketmap", "table", cfg, cfg.Table.Socketmap, &l.Socketmap, table, true, 2},
		{"table.memcache", "table", cfg, cfg.Table.Memcache, &l.Memcache, table, true, 2},
		{"http.listen", "http", cfg, cfg.HTTP.Listen, &l.HTTP, http, false, 1},
	}
}

// listen listens as configured, where nothing was passed, and puts a guard before each listener,
// which goes by the configuration in force.
func (l *Listeners) listen(cfg *config.Config, inForce func() *config.Config, log *slog.Logger) (guards []*guard.Listener, err error) {
	doors := l.doors(cfg)
	weights := make([]int, len(doors))
	for i, d := range doors {
		weights[i] = d.weight
	}
	shares := guard.Shares(mostConnections, weights...)
	var errs []error
	for i, d := range doors {
		if *d.field == nil {
			if d.addr == (config.Address{}) {
				continue
			}
			made, err := l.listenOn(d)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w; %s", d.key, err, listenRemedy(err)))
				continue
			}
			*d.field = made
		}
		l.note(d)
		g := guard.New(*d.field, guard.Rules{
			Key: d.key, Most: shares[i], PeersKey: d.section + ".peers", Log: log,
			Peers: func() []netip.Prefix { return d.access(inForce()).Peers },
		})
		*d.field = g
		guards = append(guards, g)
	}
	return guards, errors.Join(errs...)
}

// listenRemedy says what to do when an address cannot be listened on.
func listenRemedy(err error) string {
	switch {
	case errors.Is(err, errNoSocket):
		return "name another path"
	case errors.As(err, new(user.UnknownGroupError)):
		return "name a group of this host"
	case errors.Is(err, errGroup):
		return "make user " + userName() + " a member of that group, or name another one"
	case errors.Is(err, syscall.EADDRINUSE):
		return "another program listens there: stop it if it is another ehlogate, or give this one another address"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "that is not an address of this host"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "user " + userName() + " may not listen there: take a port above 1023, or a directory that it can write"
	case errors.Is(err, syscall.ENOENT):
		return "make the directory of the socket"
	}
	return "name an address of this host"
}

// note remembers the socket of a listener.
func (l *Listeners) note(d door) {
	if addr := (*d.field).Addr(); addr.Network() == "unix" {
		if info, err := os.Stat(addr.String()); err == nil {
			l.sockets = append(l.sockets, socket{d.key, addr.String(), info})
		}
	}
}

// warnings are what keeps an MTA on this host from connecting.
func (l *Listeners) warnings() []string {
	all := slices.Clone(l.ungiven)
	for _, s := range l.sockets {
		if now, err := os.Stat(s.path); err != nil || !os.SameFile(now, s.made) {
			all = append(all, fmt.Sprintf("the socket of %s, %s, was removed or replaced, and nobody can connect to it: restart the daemon", s.key, s.path))
		}
	}
	return all
}

// watchEvery is how often it is looked whether the sockets are still there.
const watchEvery = 10 * time.Second

// watch logs what keeps an MTA from connecting, when that begins, and looks after the tokens, until
// the context ends.
func (l *Listeners) watch(ctx context.Context, tokens []*api.Token, log *slog.Logger) {
	said := map[string]bool{}
	for {
		for _, t := range tokens {
			t.Look()
		}
		for _, w := range l.warnings() {
			if !said[w] {
				log.Error(w)
				said[w] = true
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchEvery):
		}
	}
}

func (l *Listeners) listenOn(d door) (net.Listener, error) {
	a := d.addr
	if a.Network != "unix" {
		return net.Listen(a.Network, a.Address)
	}
	// It has its mode from its first moment on.
	defer syscall.Umask(syscall.Umask(0o777 &^ socketMode))
	if info, err := os.Lstat(a.Address); err == nil && info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s %w", a.Address, errNoSocket)
	}
	made, err := net.Listen(a.Network, a.Address)
	if errors.Is(err, syscall.EADDRINUSE) && stale(a.Address) {
		if err := os.Remove(a.Address); err != nil {
			return nil, err
		}
		made, err = net.Listen(a.Network, a.Address)
	}
	if err != nil {
		return nil, err
	}
	if err := l.giveTo(d, a.Address); err != nil {
		made.Close()
		return nil, err
	}
	return made, nil
}

// postfixGroup is the group of Postfix's processes.
const postfixGroup = "postfix"

// errNoSocket is a path that is something else already.
var errNoSocket = errors.New("is there, and is not a socket")

// errGroup is a group that a socket cannot be given to.
var errGroup = errors.New("cannot be given to the group")

// giveTo gives a unix socket to its group: the one that is configured, else Postfix's, if an MTA
// connects, and there is that group, and the daemon may.
func (l *Listeners) giveTo(d door, path string) error {
	name, wanted := d.access(d.cfg).Group, true
	if name == "" {
		name, wanted = postfixGroup, false
		if !d.mta {
			return nil
		}
	}
	group, err := user.LookupGroup(name)
	if err == nil {
		var gid int
		if gid, err = strconv.Atoi(group.Gid); err == nil {
			err = os.Lchown(path, -1, gid)
		}
	}
	if err != nil && wanted {
		return fmt.Errorf("%s %w %s: %w", path, errGroup, name, err)
	}
	if errors.Is(err, syscall.EPERM) {
		l.ungiven = append(l.ungiven, fmt.Sprintf("Postfix may not be able to connect to %s, as user %s is not a member of group %s and so cannot give %s to it: make it a member, or set %s.group",
			d.key, userName(), name, path, d.section))
	}
	return nil
}

// stale reports whether a unix socket was left behind by a daemon that is gone. What is no socket
// is somebody's.
func stale(path string) bool {
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
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
