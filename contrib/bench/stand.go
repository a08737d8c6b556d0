package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
)

// contender is what a Postfix is connected to.
type contender struct {
	name string
	// milter and table are addresses, HOST:PORT, empty for none.
	milter, table string
	// pid is its process, 0 for none; helper is that of a server which it uses, 0 for none.
	pid, helper int
}

// The contenders' names, as tables and results have them.
const (
	alone    = "no milter"
	noop     = "no-op milter and trivial table"
	embedded = "ehlogate, embedded store"
	onRedis  = "ehlogate, Redis"
)

// stand has a Postfix and all that it can be connected to.
type stand struct {
	dir, binary string
	postfix     *mx.Postfix
	contenders  []*contender
	daemons     map[string]*mx.Daemon
	redis       *redisd.Server
	stops       []func()
}

// newStand starts everything; more is configuration of both daemons.
func newStand(more string) (s *stand, err error) {
	s = &stand{daemons: map[string]*mx.Daemon{}}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	s.stopWhenInterrupted()
	if s.dir, err = mx.TempDir(); err != nil {
		return s, err
	}
	s.stops = append(s.stops, func() { os.RemoveAll(s.dir) })
	if s.binary, err = mx.Build(s.dir); err != nil {
		return s, err
	}
	s.contenders = append(s.contenders, &contender{name: alone})
	p, err := startPeer()
	if err != nil {
		return s, err
	}
	s.stops = append(s.stops, p.stop)
	s.contenders = append(s.contenders, &contender{name: noop, milter: p.milter, table: p.table, pid: p.cmd.Process.Pid})
	if s.redis, err = redisd.New(filepath.Join(s.dir, "redis"), "--appendonly", "yes"); err != nil {
		return s, err
	}
	if err = s.redis.Start(); err != nil {
		return s, err
	}
	s.stops = append(s.stops, func() { s.redis.Stop() })
	for _, c := range []contender{{name: embedded}, {name: onRedis, helper: s.redis.Pid()}} {
		store := ""
		if c.helper != 0 {
			store = "redis://" + s.redis.Addr()
		}
		d, err := s.daemon(c.name, store, more)
		if err != nil {
			return s, err
		}
		c.milter, c.table, c.pid = fmt.Sprintf("127.0.0.1:%d", d.Milter), fmt.Sprintf("127.0.0.1:%d", d.Socketmap), d.Pid()
		s.contenders = append(s.contenders, &c)
	}
	if s.postfix, err = mx.NewPostfix(filepath.Join(s.dir, "postfix")); err != nil {
		return s, err
	}
	if err = s.postfix.Start(); err != nil {
		return s, err
	}
	s.stops = append(s.stops, func() { s.postfix.Stop() })
	return s, nil
}

// stopWhenInterrupted leaves nothing running behind when the bench is interrupted.
func (s *stand) stopWhenInterrupted() {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		s.stop()
		fmt.Fprintln(os.Stderr, "bench: interrupted; nothing was written")
		os.Exit(1)
	}()
}

// daemon starts a daemon in a directory of its own.
func (s *stand) daemon(name, store, more string) (*mx.Daemon, error) {
	own := filepath.Join(s.dir, strings.ReplaceAll(name, " ", "-"))
	if err := os.Mkdir(own, 0o755); err != nil {
		return nil, err
	}
	d, err := mx.NewDaemon(s.binary, own, store, more)
	if err != nil {
		return nil, err
	}
	if err := d.Start(); err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() { d.Stop() })
	s.daemons[name] = d
	return d, nil
}

func (s *stand) stop() {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
}

// connect connects Postfix to a contender, with further parameters of main.cf, and waits until the
// smtpd processes of before have ended.
func (s *stand) connect(c *contender, params ...string) error {
	milters, table := "", ""
	if c.milter != "" {
		milters = "inet:" + c.milter
	}
	if c.table != "" {
		table = "socketmap:inet:" + c.table + ":starttls"
	}
	params = append([]string{"smtpd_milters = " + milters, "smtpd_discard_ehlo_keyword_address_maps = " + table}, params...)
	if err := s.postfix.Set(params...); err != nil {
		return err
	}
	if err := s.postfix.Reload(); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	return nil
}

// master is the process of Postfix that all others come from.
func (s *stand) master() (int, error) {
	b, err := os.ReadFile(filepath.Join(s.postfix.Dir, "spool", "pid", "master.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// cost is what a run cost in processor time: Postfix, the contender, and the server that it uses.
type cost struct{ postfix, own, helper time.Duration }

// measure is the cost of a run.
func (s *stand) measure(c *contender, run func() error) (cost, error) {
	master, err := s.master()
	if err != nil {
		return cost{}, err
	}
	read := func() (x cost, err error) {
		for _, part := range []struct {
			pid  int
			into *time.Duration
		}{{master, &x.postfix}, {c.pid, &x.own}, {c.helper, &x.helper}} {
			if part.pid == 0 {
				continue
			}
			t, errPart := spent(part.pid)
			*part.into, err = t, errors.Join(err, errPart)
		}
		return x, err
	}
	before, err := read()
	if err != nil {
		return cost{}, err
	}
	if err := run(); err != nil {
		return cost{}, fmt.Errorf("%s: %w", c.name, err)
	}
	after, err := read()
	return cost{after.postfix - before.postfix, after.own - before.own, after.helper - before.helper}, err
}
