// Command bench measures what ehlogate costs, beside a milter that does nothing and a table that
// knows one answer: processor time a session, messages through a real Postfix, sessions and lookups
// a second, memory, and the time of a start and of a replay.
//
//	go run ./contrib/bench [-rounds 5] [-only PART,...]
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
	only := flag.String("only", "", "measure these `parts` only, of "+strings.Join(names(), ", "))
	out := flag.String("out", filepath.Join("contrib", "bench", "results.json"), "the `file` that keeps the results")
	flag.Parse()
	var err error
	switch flag.Arg(0) {
	case "peer":
		err = servePeer(os.Stdin, os.Stdout)
	case "":
		err = run(*rounds, *only, *out)
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
	run  func(*stand, int) ([]figure, error)
}

var parts = []part{
	{"sessions", func(s *stand, rounds int) ([]figure, error) { return s.costOfSessions(rounds, 300) }},
	{"postfix", func(s *stand, rounds int) ([]figure, error) { return s.throughPostfix(rounds, 4000) }},
	{"protocol", func(s *stand, rounds int) ([]figure, error) { return s.overTheProtocol(rounds, 3*time.Second) }},
	{"lookups", func(s *stand, rounds int) ([]figure, error) { return s.lookups(rounds, 3*time.Second) }},
}

func names() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

func run(rounds int, only, out string) error {
	before, err := readResults(out)
	if err != nil {
		return err
	}
	s, err := newStand("")
	if err != nil {
		return err
	}
	defer s.stop()
	r := results{Machine: thisMachine(), Commit: output("git", "rev-parse", "--short", "HEAD"), Time: time.Now().UTC().Format(time.RFC3339)}
	for _, p := range parts {
		if only != "" && !slices.Contains(strings.Split(only, ","), p.name) {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring:", p.name)
		figures, err := p.run(s, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		r.Figures = append(r.Figures, figures...)
	}
	r.print(os.Stdout, before)
	return r.write(out, before)
}

// output is what a command prints, "" if it fails.
func output(name string, args ...string) string {
	b, _ := exec.Command(name, args...).Output()
	return strings.TrimSpace(string(b))
}
