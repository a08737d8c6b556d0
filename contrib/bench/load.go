package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// drone is an address of the networks that are set aside for measurements (RFC 2544).
func drone() netip.Addr {
	return netip.AddrFrom4([4]byte{198, byte(18 + rand.IntN(2)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))})
}

// mail is a message that a filter before us has found to be spam or not.
func mail(verdict string) mx.Message {
	return mx.Message{From: "alice@sender.example", To: []string{"bob@mx.example"}, Subject: "hello", Last: []string{"X-Spam-Flag: " + verdict}}
}

// warmUp is how many sessions come before those that are measured.
const warmUp = 20

// oneByOne runs sessions one after another through a Postfix.
func oneByOne(n int, session func(client string) error) func() error {
	return func() error {
		for range n {
			if err := session(drone().String()); err != nil {
				return err
			}
		}
		return nil
	}
}

// costOfSessions measures what one session costs in processor time: one after another through
// Postfix, with a message and without.
func (s *stand) costOfSessions(rounds, n int) (figures []figure, err error) {
	kinds := []struct {
		name    string
		session func(client string) error
	}{
		{"with a message", func(client string) error { return s.send(client, nil, "NO") }},
		{"without a message", func(client string) error { return s.send(client, nil, "") }},
	}
	own := []*series{newSeries("processor time of the milter and table, a session with a message", "ms"), newSeries("processor time of the milter and table, a session without one", "ms")}
	postfix := []*series{newSeries("processor time of Postfix beside it, a session with a message", "ms"), newSeries("processor time of Postfix beside it, a session without one", "ms")}
	redis := newSeries("processor time of Redis, a session with a message", "ms")
	for range rounds {
		for _, c := range s.contenders {
			if err := s.connect(c); err != nil {
				return nil, err
			}
			for k, kind := range kinds {
				if err := oneByOne(warmUp, kind.session)(); err != nil {
					return nil, err
				}
				x, err := s.measure(c, oneByOne(n, kind.session))
				if err != nil {
					return nil, err
				}
				each := func(d time.Duration) float64 { return inMilliseconds(d) / float64(n) }
				if c.pid != 0 {
					own[k].add(c.name, each(x.own))
				}
				postfix[k].add(c.name, each(x.postfix))
				if c.helper != 0 && k == 0 {
					redis.add(c.name, each(x.helper))
				}
			}
		}
	}
	for k := range kinds {
		figures = append(figures, own[k].figures(noop, map[string]string{embedded: "<= 1.25", onRedis: "<= 1.6"})...)
		figures = append(figures, postfix[k].figures(alone, nil)...)
	}
	return append(figures, redis.figures("", nil)...), nil
}

// send is a session of a client that says EHLO, with TLS if it is told how and that is offered, and
// sends a message with a verdict unless that is empty.
func (s *stand) send(client string, start func(*mx.Session) error, verdict string) error {
	c, err := s.postfix.Dial(client)
	if err != nil {
		return err
	}
	defer c.Close()
	if start != nil && c.Offered {
		if err := start(c); err != nil {
			return err
		}
	}
	if verdict != "" {
		if err := c.Deliver(mail(verdict)); err != nil {
			return err
		}
	}
	return c.Quit()
}

// throughPostfix measures messages a second with twenty senders at once, by Postfix's own
// smtp-source(1).
func (s *stand) throughPostfix(rounds, messages int, more ...*contender) ([]figure, error) {
	const senders = 20
	path := filepath.Join(s.dir, "message")
	if err := os.WriteFile(path, []byte("From: <alice@sender.example>\nTo: <bob@mx.example>\nSubject: hello\nX-Spam-Flag: NO\n\nHello\n"), 0o644); err != nil {
		return nil, err
	}
	rates := newSeries(fmt.Sprintf("messages through Postfix, %d senders", senders), "messages/s")
	for range rounds {
		for _, c := range append(slices.Clone(s.contenders), more...) {
			if err := s.connect(c); err != nil {
				return nil, err
			}
			began := time.Now()
			out, err := exec.Command("smtp-source", "-s", strconv.Itoa(senders), "-m", strconv.Itoa(messages), "-F", path,
				"-f", "alice@sender.example", "-t", "bob@mx.example", fmt.Sprintf("inet:127.0.0.1:%d", s.postfix.Port)).CombinedOutput()
			if err != nil {
				return nil, fmt.Errorf("smtp-source: %w: %s", err, out)
			}
			rates.add(c.name, float64(messages)/time.Since(began).Seconds())
		}
	}
	return rates.figures(noop, map[string]string{embedded: ">= 0.95", onRedis: ">= 0.9"}), nil
}

// overTheProtocol measures milter sessions a second, spoken to by the bench itself on twenty
// connections at once: each session is a connection of its own with a message of 15 headers. How
// long the end of a message takes is measured at that rate, and at the one that the no-op milter
// reaches.
func (s *stand) overTheProtocol(rounds int, last time.Duration) ([]figure, error) {
	rates := newSeries(fmt.Sprintf("milter sessions, %d connections, %d headers", connections, headers), "sessions/s")
	worst := newSeries("the same, 99th percentile of the reply to the end of a message", "ms")
	worstAtNoops := newSeries("the same at the rate of the no-op milter", "ms")
	own := newSeries("the same, processor time of the milter", "ms a session")
	for range rounds {
		rateOfNoop := 0.0
		for _, c := range s.contenders {
			if c.milter == "" {
				continue
			}
			before, err := spent(c.pid)
			if err != nil {
				return nil, err
			}
			n, took, p99, err := c.load(last, 0)
			if err != nil {
				return nil, err
			}
			after, err := spent(c.pid)
			if err != nil {
				return nil, err
			}
			rates.add(c.name, float64(n)/took.Seconds())
			worst.add(c.name, inMilliseconds(p99))
			own.add(c.name, inMilliseconds(after-before)/float64(n))
			switch c.name {
			case noop:
				rateOfNoop = float64(n) / took.Seconds()
			case embedded, onRedis:
				if _, _, p99, err = c.load(last, rateOfNoop); err != nil {
					return nil, err
				}
				worstAtNoops.add(c.name, inMilliseconds(p99))
			}
		}
	}
	figures := rates.figures(noop, map[string]string{embedded: ">= 0.9", onRedis: ">= 0.8"})
	figures = append(figures, worst.figures("", map[string]string{embedded: "<= 5", onRedis: "<= 5"})...)
	figures = append(figures, worstAtNoops.figures("", map[string]string{embedded: "<= 5", onRedis: "<= 5"})...)
	return append(figures, own.figures(noop, nil)...), nil
}

// connections are how many an MTA has open to a milter at once, headers how many each message has.
const connections, headers = 20, 15

// load speaks to a milter for a time, as much as it takes or at a rate in sessions a second. It
// returns how many sessions that were, and the 99th percentile of the reply to the end of a
// message.
func (c *contender) load(last time.Duration, rate float64) (n int64, took, p99 time.Duration, err error) {
	var eoms [connections][]time.Duration
	began := time.Now()
	n, took, err = atOnce(connections, last, func(i, nth int) error {
		if rate > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(float64(nth*connections+i) / rate * float64(time.Second)))))
		}
		eom, err := session(c.milter, drone(), headers, fmt.Sprintf("%X%08X", i, nth))
		eoms[i] = append(eoms[i], eom)
		return err
	})
	if err != nil {
		return 0, 0, 0, fmt.Errorf("%s: %w", c.name, err)
	}
	return n, took, percentile(slices.Concat(eoms[:]...), 99), nil
}

func inMilliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// lookups measures answers of the table a second on fifty connections.
func (s *stand) lookups(rounds int, last time.Duration) ([]figure, error) {
	rates := newSeries(fmt.Sprintf("lookups, %d connections", askers), "lookups/s")
	worst := newSeries("the same, 99th percentile", "µs")
	for range rounds {
		for _, c := range s.contenders {
			if c.table == "" {
				continue
			}
			// For a second first, until the daemon has taken the processors that it needs.
			if _, _, err := askAll([]string{c.table}, time.Second, drone); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			rate, p99, err := askAll([]string{c.table}, last, drone)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			rates.add(c.name, rate)
			worst.add(c.name, float64(p99.Microseconds()))
		}
	}
	return append(rates.figures(noop, map[string]string{embedded: ">= 0.9"}), worst.figures("", nil)...), nil
}

// askers is how many connections ask a table at once.
const askers = 50

// askAll asks socketmap tables on all connections for a time.
func askAll(tables []string, last time.Duration, client func() netip.Addr) (rate float64, p99 time.Duration, err error) {
	conns := make([]net.Conn, askers)
	for i := range conns {
		if conns[i], err = net.Dial("tcp", tables[i%len(tables)]); err != nil {
			return 0, 0, err
		}
		defer conns[i].Close()
	}
	var took [askers][]time.Duration
	readers := make([]*bufio.Reader, askers)
	n, all, err := atOnce(askers, last, func(i, nth int) error {
		if readers[i] == nil {
			readers[i] = bufio.NewReader(conns[i])
		}
		asked := client()
		began := time.Now()
		if err := ask(conns[i], "starttls", asked); err != nil {
			return err
		}
		if _, err := readAnswer(readers[i]); err != nil {
			return err
		}
		took[i] = append(took[i], time.Since(began))
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return float64(n) / all.Seconds(), percentile(slices.Concat(took[:]...), 99), nil
}

// ask asks a socketmap table for a client.
func ask(w io.Writer, table string, client netip.Addr) error {
	key := table + " " + client.String()
	_, err := fmt.Fprintf(w, "%d:%s,", len(key), key)
	return err
}

// askOne asks a table on a connection of its own, as an smtpd does that has just begun.
func askOne(table string, client netip.Addr) error {
	c, err := net.Dial("tcp", table)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := ask(c, "starttls", client); err != nil {
		return err
	}
	_, err = readAnswer(bufio.NewReader(c))
	return err
}

// readAnswer reads what a table answers: a netstring, in which there may be commas.
func readAnswer(r *bufio.Reader) ([]byte, error) {
	length, err := r.ReadSlice(':')
	if err != nil {
		return nil, err
	}
	n := 0
	for _, digit := range length[:len(length)-1] {
		n = 10*n + int(digit-'0')
	}
	answer, err := r.Peek(n + 1)
	if err == nil {
		_, err = r.Discard(n + 1)
	}
	return answer, err
}

// percentile is the one that so many hundredths of all are not above. It sorts them.
func percentile(of []time.Duration, hundredths int) time.Duration {
	slices.Sort(of)
	return of[len(of)*hundredths/100]
}

// atOnce does something on many goroutines, again and again, for a time.
func atOnce(goroutines int, last time.Duration, do func(i, nth int) error) (n int64, took time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), last, nil)
	defer cancel()
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	began := time.Now()
	for i := range goroutines {
		running.Go(func() {
			for nth := 0; ctx.Err() == nil; nth++ {
				if err := do(i, nth); err != nil {
					failed.CompareAndSwap(nil, &err)
					cancel()
					return
				}
				done.Add(1)
			}
		})
	}
	running.Wait()
	took = time.Since(began)
	if f := failed.Load(); f != nil {
		err = *f
	}
	return done.Load(), took, err
}
