package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/store"
)

const (
	// perNetwork is how many known clients are in a /24.
	perNetwork = 8
	// lookedUp is how many clients are asked for in a large store, known or not.
	lookedUp = 10_000_000
	// settling is how long a daemon is left alone before its memory is read.
	settling = 15 * time.Second
)

// sizes are how many clients a store knows.
var sizes = []int{0, 1_000_000, 2_000_000}

// nth is a client by its number.
func nth(i int) netip.Addr {
	n := uint32(24<<24 + i/perNetwork<<8 + 1 + i%perNetwork*31)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// size measures the embedded store of many clients: the time of a start, memory, and lookups.
func (s *stand) size(rounds int, last time.Duration) (figures []figure, err error) {
	name := func(known int) string {
		if known == 0 {
			return "none known"
		}
		return fmt.Sprintf("%d M known", known/1_000_000)
	}
	daemons := map[int]*mx.Daemon{}
	for _, known := range sizes {
		if daemons[known], err = s.filled(known); err != nil {
			return nil, err
		}
	}
	answers := newSeries("start of the embedded store until it answers", "s")
	knows := newSeries("start of the embedded store until it knows all", "s")
	memory := newSeries("resident memory of the embedded store, a known client", "bytes")
	rates := newSeries(fmt.Sprintf("lookups with a large store, %d connections", askers), "lookups/s")
	large := sizes[len(sizes)-1]
	for round := range rounds {
		resident := map[int]float64{}
		for _, known := range sizes {
			d := daemons[known]
			began := time.Now()
			if err := d.Start(); err != nil {
				return nil, err
			}
			answers.add(name(known), time.Since(began).Seconds())
			if known > 0 {
				if err := untilKnown(d, nth(known-1)); err != nil {
					return nil, err
				}
				knows.add(name(known), time.Since(began).Seconds())
			}
			time.Sleep(settling)
			if resident[known], err = residentBytes(d.Pid()); err != nil {
				return nil, err
			}
			if known > 0 {
				memory.add(name(known), (resident[known]-resident[0])/float64(known))
			}
			if known != 0 && known != large {
				d.Stop()
			}
		}
		if round == 0 {
			if err := askEach(socketmap(daemons[large]), lookedUp); err != nil {
				return nil, fmt.Errorf("looking up %d clients: %w\n%s", lookedUp, err, daemons[large].Log())
			}
		}
		for _, c := range []struct {
			name   string
			daemon *mx.Daemon
			among  int
		}{
			{"1,000 clients, none known", daemons[0], 1000},
			{"10 M clients, 2 M known", daemons[large], lookedUp},
		} {
			some := func() netip.Addr { return nth(rand.IntN(c.among)) }
			if _, _, err := askAll([]string{socketmap(c.daemon)}, time.Second, some); err != nil {
				return nil, err
			}
			rate, _, err := askAll([]string{socketmap(c.daemon)}, last, some)
			if err != nil {
				return nil, err
			}
			rates.add(c.name, rate)
		}
		daemons[0].Stop()
		daemons[large].Stop()
	}
	figures = append(answers.figures("", nil), knows.figures("", map[string]string{name(1_000_000): "<= 1"})...)
	figures = append(figures, memory.figures("", map[string]string{name(1_000_000): "<= 100", name(2_000_000): "<= 100"})...)
	return append(figures, rates.figures("1,000 clients, none known", map[string]string{"10 M clients, 2 M known": ">= 0.91"})...), nil
}

func socketmap(d *mx.Daemon) string { return fmt.Sprintf("127.0.0.1:%d", d.Socketmap) }

// filled is a daemon, not started, whose embedded store knows so many clients.
func (s *stand) filled(known int) (*mx.Daemon, error) {
	dir := filepath.Join(s.dir, fmt.Sprintf("known-%d", known))
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
		return nil, err
	}
	d, err := mx.NewDaemon(s.binary, dir, "", fmt.Sprintf("max_records = %d\n", 2*lookedUp))
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() { d.Stop() })
	p := policy.Default()
	inForce := policy.NewInForce(policy.New(p), time.Now)
	e, err := store.Open(filepath.Join(dir, "data"), store.Options{Layout: p.Layout, Tier: inForce.Tier, Now: time.Now, Most: 2 * lookedUp})
	if err != nil {
		return nil, err
	}
	<-e.Ready()
	judge := policy.NewJudge(inForce, e)
	learn := func(i int) error {
		return <-judge.Learn(&policy.Message{Time: time.Now(), Client: policy.Client{Addr: nth(i)}, Mail: true, Verdict: policy.Verdict{Class: policy.Spam, Weight: 1}})
	}
	// Not in their order: clients of a network come over the days.
	networks := known / perNetwork
	for i := range known {
		if err := learn(i%networks*perNetwork + i/networks); err != nil {
			return nil, err
		}
	}
	for range 5 {
		if known == 0 {
			break
		}
		// The last one is tier bad for sure, which untilKnown waits for.
		if err := learn(known - 1); err != nil {
			return nil, err
		}
	}
	return d, e.Close()
}

// untilKnown waits until a daemon knows that a client is bad.
func untilKnown(d *mx.Daemon, client netip.Addr) error {
	c, err := net.Dial("tcp", socketmap(d))
	if err != nil {
		return err
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(5 * time.Millisecond) {
		if err := ask(c, "tier", client); err != nil {
			return err
		}
		answer, err := readAnswer(r)
		if err != nil {
			return err
		}
		if bytes.Contains(answer, []byte("bad")) {
			return nil
		}
	}
	return fmt.Errorf("%s is not known after a minute", client)
}

// askEach asks a table for each of so many clients, many in one packet.
func askEach(table string, clients int) error {
	c, err := net.Dial("tcp", table)
	if err != nil {
		return err
	}
	defer c.Close()
	const together = 200
	out, in := bufio.NewWriterSize(c, 16<<10), bufio.NewReader(c)
	for i := 0; i < clients; i += together {
		for k := range together {
			if err := ask(out, "starttls", nth(i+k)); err != nil {
				return err
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
		for range together {
			if _, err := readAnswer(in); err != nil {
				return err
			}
		}
	}
	return nil
}

// residentBytes is how much memory a process takes, without what it has mapped of files: that is
// the system's cache.
func residentBytes(pid int) (float64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	kilobytes, _, _ := strings.Cut(field(path, "RssAnon"), " ")
	n, err := strconv.ParseFloat(kilobytes, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: RssAnon: %w", path, err)
	}
	return 1024 * n, nil
}
