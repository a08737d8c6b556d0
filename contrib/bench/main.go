// Command bench measures what ehlogate costs, beside a milter that does nothing and a table that
// knows one answer, and other people's milters as far as they are installed: processor time and
// system calls a session, messages through a real Postfix, sessions and lookups a second, a store
// of millions of clients, a replay, and daemons that share a Redis.
//
//	go run ./contrib/bench [-rounds 5] [-sessions 300] [-only PART,...]
//	go run ./contrib/bench flood
//
// All contenders take turns in every round. The table has the medians, and the ratios within a
// round; results.json beside this file keeps them, and the next run is compared with it. The second
// form measures what a flood of drones costs, with STARTTLS offered and withheld. Run it on a
// machine that does nothing else, as root, with what contrib/test installs.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "rounds")
	sessions := flag.Int("sessions", 300, "sessions one after another, for each figure of processor time")
	only := flag.String("only", "", "measure these `parts` only, of "+strings.Join(names(), ", "))
	out := flag.String("out", filepath.Join("contrib", "bench", "results.json"), "the `file` that keeps the results")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: bench [FLAG...] [flood]\nA run of all parts takes half an hour, flood five minutes. Flags come before flood.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 1 {
		flag.Usage()
		os.Exit(2)
	}
	for _, name := range strings.FieldsFunc(*only, func(r rune) bool { return r == ',' }) {
		if !slices.Contains(names(), name) {
			fmt.Fprintf(os.Stderr, "bench: no part %q; want some of %s\n", name, strings.Join(names(), ", "))
			os.Exit(2)
		}
	}
	var err error
	switch flag.Arg(0) {
	case "peer":
		err = servePeer(os.Stdin, os.Stdout)
	case "":
		err = run(*rounds, *sessions, *only, *out)
	case "flood":
		err = keep(*out, func() ([]figure, error) { return flood(*rounds, *sessions) })
	default:
		err = fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// part is a part of the bench.
type part struct {
	name string
	// filters says that other people's milters take part.
	filters bool
	run     func(s *stand, rounds, sessions int) ([]figure, error)
}

var parts = []part{
	{"sessions", true, func(s *stand, rounds, sessions int) ([]figure, error) { return s.costOfSessions(rounds, sessions) }},
	{"postfix", true, func(s *stand, rounds, _ int) ([]figure, error) { return s.throughPostfix(rounds, 2000) }},
	{"protocol", true, func(s *stand, rounds, _ int) ([]figure, error) { return s.overTheProtocol(rounds, 3*time.Second) }},
	{"lookups", false, func(s *stand, rounds, _ int) ([]figure, error) { return s.lookups(rounds, 5*time.Second) }},
	{"calls", false, func(s *stand, rounds, sessions int) ([]figure, error) {
		return s.calls(min(rounds, 3), min(sessions, 100))
	}},
	{"size", false, func(s *stand, rounds, _ int) ([]figure, error) { return s.size(rounds, 3*time.Second) }},
	{"replay", false, func(s *stand, rounds, _ int) ([]figure, error) { return s.replay(rounds) }},
	{"cluster", false, func(s *stand, rounds, _ int) ([]figure, error) { return s.cluster(rounds, 3*time.Second) }},
}

func names() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

func run(rounds, sessions int, only, out string) error {
	return keep(out, func() (all []figure, err error) {
		s, err := newStand("")
		if err != nil {
			return nil, err
		}
		defer s.stop()
		wanted := slices.DeleteFunc(slices.Clone(parts), func(p part) bool {
			return only != "" && !slices.Contains(strings.Split(only, ","), p.name)
		})
		if slices.ContainsFunc(wanted, func(p part) bool { return p.filters }) {
			if err := s.withFilters(); err != nil {
				return nil, err
			}
		}
		for _, p := range wanted {
			fmt.Fprintln(os.Stderr, "measuring:", p.name)
			figures, err := p.run(s, rounds, sessions)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			all = append(all, figures...)
		}
		return all, nil
	})
}

// keep prints what is measured beside the run before, and keeps it.
func keep(out string, measure func() ([]figure, error)) error {
	before, err := readResults(out)
	if err != nil {
		return err
	}
	r := results{Machine: thisMachine(), Commit: output("git", "rev-parse", "--short", "HEAD"), Time: time.Now().UTC().Format(time.RFC3339)}
	if r.Figures, err = measure(); err != nil {
		return err
	}
	r.print(os.Stdout, before)
	return r.write(out, before)
}

// output is what a command prints, "" if it fails.
func output(name string, args ...string) string {
	b, _ := exec.Command(name, args...).Output()
	return strings.TrimSpace(string(b))
}
