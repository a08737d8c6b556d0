// Command model draws the curves of the reputation model: how the score moves with messages and
// time and, given a simulator of labelled traces, what share of spam over TLS it avoids at what
// share of ham harmed.
//
//	go run ./contrib/model
//	go run ./contrib/model -sim DIR -worlds busy,small -seeds 1,2,3
//
// The simulator is a Go program in DIR with two commands: "trace -world W -seed N" writes a trace
// for "ehlogate replay", and "judge -world W -seed N -json" reads the decisions and writes
// {"avoided":SHARE,"harmed":SHARE,"harmed_known":SHARE}.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/guptarohit/asciigraph"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

func main() {
	sim := flag.String("sim", "", "`directory` of a simulator")
	seeds := flag.String("seeds", "1,2,3,4,5", "its seeds, separated by commas")
	worlds := flag.String("worlds", "busy,small,poor,nervous", "its mail exchangers, separated by commas")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "model: unknown argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	fmt.Print(messagesCurve(), "\n", fadingCurve())
	if *sim == "" {
		return
	}
	if err := operatingCurves(*sim, strings.Split(*worlds, ","), strings.Split(*seeds, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		os.Exit(1)
	}
}

// noon is a time in the middle of a slice.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func sent(spam, ham float64) (host, network reputation.Evidence) {
	host, moved := reputation.Evidence{}.Add(noon, spam, ham)
	return host, reputation.Evidence{}.Apply(moved)
}

// network is the evidence of a network of so many spammers and honest hosts.
func network(spammers, honest int) (n reputation.Evidence) {
	for i := range spammers + honest {
		var one reputation.Evidence
		if i < spammers {
			_, one = sent(2, 0)
		} else {
			_, one = sent(0, 2)
		}
		n = reputation.Merge(n, one)
	}
	return n
}

// messagesCurve draws the score over the messages of a fresh client: spam to the right of the
// middle, ham to the left.
func messagesCurve() string {
	const most, steps = 5, 10
	var series [][]float64
	for _, n := range []reputation.Evidence{network(0, 10), {}, network(10, 0)} {
		var line []float64
		for i := -most * steps; i <= most*steps; i++ {
			messages := float64(i) / steps
			host, _ := sent(max(messages, 0), max(-messages, 0))
			line = append(line, reputation.Judge(host, n, reputation.Evidence{}, noon, reputation.DefaultParams).Score)
		}
		series = append(series, line)
	}
	return "Score of a client over its messages: five ham at the left, none in the middle, five spam at the right;\n" +
		"in a network of ten honest hosts (lowest), of whom nothing is known, and of ten spammers (highest).\n" +
		fmt.Sprintf("Bad is entered at %g, good at %g.\n\n", reputation.DefaultThresholds.Bad.Enter, reputation.DefaultThresholds.Good.Enter) +
		asciigraph.PlotMany(series, asciigraph.Height(14), asciigraph.Precision(1)) + "\n"
}

// fadingCurve draws the score over two days after a burst of spam, without and with ham beside it,
// and after as much ham.
func fadingCurve() string {
	const hours, steps = 48, 2
	var series [][]float64
	for _, m := range []reputation.Mass{{Spam: 100}, {Spam: 100, Ham: 10}, {Ham: 100}} {
		host, net := sent(m.Spam, m.Ham)
		var line []float64
		for i := range hours*steps + 1 {
			line = append(line, reputation.Judge(host, net, reputation.Evidence{}, noon.Add(time.Duration(i)*time.Hour/steps), reputation.DefaultParams).Score)
		}
		series = append(series, line)
	}
	return "Score over the 48 hours after a hundred spam messages (highest), after as many and ten ham (between), and after a hundred ham (lowest).\n\n" +
		asciigraph.PlotMany(series, asciigraph.Height(12), asciigraph.Precision(1)) + "\n"
}

// point is a policy's figures over the seeds, medians in percent.
type point struct{ enter, avoided, harmed, known float64 }

// simulated are traces of a mail exchanger, one for each seed, and the programs that decide and
// judge.
type simulated struct {
	dir, binary, simulator, world string
	seeds, traces                 []string
}

// operatingCurves sweeps the score at which protect withholds in each world, and that at which earn
// offers in the first.
func operatingCurves(sim string, worlds, seeds []string) error {
	dir, err := mx.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, err := mx.Build(dir)
	if err != nil {
		return err
	}
	simulator := filepath.Join(dir, "simulator")
	build := exec.Command("go", "build", "-o", simulator, ".")
	build.Dir = sim
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the simulator: %w\n%s", err, out)
	}
	for i, world := range worlds {
		w := &simulated{dir: dir, binary: binary, simulator: simulator, world: world, seeds: seeds}
		if err := w.simulate(); err != nil {
			return err
		}
		if err := w.protect(); err != nil {
			return err
		}
		if i > 0 {
			continue
		}
		if err := w.earn(); err != nil {
			return err
		}
	}
	return nil
}

func (w *simulated) simulate() error {
	for _, seed := range w.seeds {
		trace := filepath.Join(w.dir, "trace-"+w.world+"-"+seed)
		out, err := exec.Command(w.simulator, "trace", "-world", w.world, "-seed", seed).Output()
		if err = errors.Join(err, os.WriteFile(trace, out, 0o600)); err != nil {
			return fmt.Errorf("world %s, seed %s: %w", w.world, seed, err)
		}
		w.traces = append(w.traces, trace)
	}
	return nil
}

// measure is the medians of the figures under a configuration.
func (w *simulated) measure(toml string, enter float64) (point, error) {
	p := point{enter: enter}
	var avoided, harmed, known []float64
	for i, seed := range w.seeds {
		f, err := w.judged(i, toml)
		if err != nil {
			return p, fmt.Errorf("world %s, seed %s: %w", w.world, seed, err)
		}
		avoided, harmed, known = append(avoided, f.Avoided), append(harmed, f.Harmed), append(known, f.HarmedKnown)
	}
	p.avoided, p.harmed, p.known = 100*median(avoided), 100*median(harmed), 100*median(known)
	return p, nil
}

func (w *simulated) protect() error {
	th := reputation.DefaultThresholds.Bad
	var points []point
	for _, enter := range []float64{0.8, 1.0, 1.2, 1.4, 1.6, 2.0, 2.6} {
		toml := fmt.Sprintf("[policy]\n[[policy.tier]]\nname = 'bad'\nenter = %g\nleave = %g\n", enter, enter-(th.Enter-th.Leave))
		p, err := w.measure(toml, enter)
		if err != nil {
			return err
		}
		points = append(points, p)
	}
	fmt.Printf("\nWorld %s: spam over TLS avoided over ham connections harmed in protect, %% of each, medians of seeds %s\n\n", w.world, strings.Join(w.seeds, ", "))
	fmt.Println(drawn(points, 0, 1))
	fmt.Println("\nBAD ENTERED AT  AVOIDED %  HARMED %")
	for _, p := range points {
		fmt.Printf("%-14.1f  %-9.1f  %.2f\n", p.enter, p.avoided, p.harmed)
	}
	return nil
}

func (w *simulated) earn() error {
	th := reputation.DefaultThresholds
	fmt.Println("\nGOOD ENTERED AT  AVOIDED % IN EARN  HARMED % OF THOSE WITH THREE HAM OR MORE BEHIND THEM")
	for _, enter := range []float64{-0.5, -1, -1.5, -2, -2.5, -3} {
		toml := fmt.Sprintf("[policy]\nmode = 'earn'\n[[policy.tier]]\nname = 'good'\nenter = %g\nleave = %g\n", enter, min(enter-(th.Good.Enter-th.Good.Leave), th.Suspect.Leave-0.01))
		p, err := w.measure(toml, enter)
		if err != nil {
			return err
		}
		fmt.Printf("%-15.1f  %-17.1f  %.2f\n", p.enter, p.avoided, p.known)
	}
	return nil
}

type figures struct {
	Avoided     float64 `json:"avoided"`
	Harmed      float64 `json:"harmed"`
	HarmedKnown float64 `json:"harmed_known"`
}

// judged replays a trace under a configuration and has the simulator judge the decisions.
func (w *simulated) judged(i int, toml string) (f figures, err error) {
	config := filepath.Join(w.dir, "policy.toml")
	if err := os.WriteFile(config, []byte(toml), 0o600); err != nil {
		return f, err
	}
	var decisions, stderr bytes.Buffer
	replay := exec.Command(w.binary, "replay", "--config", config, "--trace", w.traces[i], "--decisions", "-")
	replay.Stdout, replay.Stderr = &decisions, &stderr
	if err := replay.Run(); err != nil {
		return f, fmt.Errorf("replay: %w: %s", err, &stderr)
	}
	judge := exec.Command(w.simulator, "judge", "-world", w.world, "-seed", w.seeds[i], "-json")
	judge.Stdin = &decisions
	out, err := judge.Output()
	if err != nil {
		return f, fmt.Errorf("judge: %w", err)
	}
	return f, json.Unmarshal(out, &f)
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// drawn is the curve through points, between two shares of harm.
func drawn(points []point, from, to float64) string {
	slices.SortFunc(points, func(a, b point) int { return int(1e6 * (a.harmed - b.harmed)) })
	const columns = 70
	var line []float64
	for i := range columns + 1 {
		x := from + (to-from)*float64(i)/columns
		x = min(max(x, points[0].harmed), points[len(points)-1].harmed)
		j, _ := slices.BinarySearchFunc(points, x, func(p point, x float64) int { return int(1e6 * (p.harmed - x)) })
		j = min(max(j, 1), len(points)-1)
		a, b := points[j-1], points[j]
		at := 0.0
		if b.harmed > a.harmed {
			at = (x - a.harmed) / (b.harmed - a.harmed)
		}
		line = append(line, a.avoided+at*(b.avoided-a.avoided))
	}
	return asciigraph.Plot(line, asciigraph.Height(8), asciigraph.Precision(1), asciigraph.Caption(fmt.Sprintf("harmed, %.1f %% at the left to %.1f %% at the right", from, to)))
}
