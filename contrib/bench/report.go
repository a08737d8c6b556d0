package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// figure is what was measured of a contender: the median of all rounds.
type figure struct {
	Test      string    `json:"test"`
	Contender string    `json:"contender"`
	Unit      string    `json:"unit"`
	Median    float64   `json:"median"`
	All       []float64 `json:"all"`
	// Ratio is to Base, where there is one: the median of the ratios of each round.
	Base  string  `json:"base,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`
	// Target is what the ratio, or the figure where there is no base, has to keep to: "<= 1.25".
	Target string `json:"target,omitempty"`
}

// results are a whole run.
type results struct {
	Machine machine  `json:"machine"`
	Commit  string   `json:"commit"`
	Time    string   `json:"time"`
	Figures []figure `json:"figures"`
}

// machine is where it was measured.
type machine struct {
	Processors int    `json:"processors"`
	Model      string `json:"model"`
	Memory     string `json:"memory"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
	Postfix    string `json:"postfix"`
}

// series are the figures of one test, by contender, a value each round.
type series struct {
	test, unit string
	order      []string
	values     map[string][]float64
}

func newSeries(test, unit string) *series {
	return &series{test: test, unit: unit, values: map[string][]float64{}}
}

func (s *series) add(contender string, v float64) {
	if !slices.Contains(s.order, contender) {
		s.order = append(s.order, contender)
	}
	s.values[contender] = append(s.values[contender], v)
}

// figures compares each contender with a base, "" for none; targets are by contender.
func (s *series) figures(base string, targets map[string]string) (figures []figure) {
	for _, c := range s.order {
		f := figure{Test: s.test, Contender: c, Unit: s.unit, Median: median(s.values[c]), All: s.values[c], Target: targets[c]}
		if of := s.values[base]; len(of) == len(s.values[c]) && base != "" {
			f.Base = base
			ratios := make([]float64, len(of))
			for i := range of {
				ratios[i] = s.values[c][i] / of[i]
			}
			f.Ratio = median(ratios)
		}
		figures = append(figures, f)
	}
	return figures
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return s[len(s)/2]
}

// met says whether a figure keeps to its target, or "" where it has none.
func (f *figure) met() string {
	var sign string
	var limit float64
	if _, err := fmt.Sscan(f.Target, &sign, &limit); err != nil {
		return ""
	}
	v := f.Median
	if f.Base != "" {
		v = f.Ratio
	}
	if sign == "<=" && v <= limit || sign == ">=" && v >= limit {
		return "met"
	}
	return "MISSED"
}

// print writes the figures as a table, beside those of the run before.
func (r *results) print(w io.Writer, before *results) {
	old := map[string]float64{}
	if before != nil {
		for _, f := range before.Figures {
			old[f.Test+"\n"+f.Contender] = f.Median
		}
	}
	m := r.Machine
	fmt.Fprintf(w, "%d processors (%s), %s of memory, Linux %s, %s, Postfix %s; commit %s\n", m.Processors, m.Model, m.Memory, m.Kernel, m.Go, m.Postfix, r.Commit)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	test := ""
	for _, f := range r.Figures {
		if f.Test != test {
			test = f.Test
			fmt.Fprintf(t, "\n%s\tMEDIAN\tUNIT\tFROM\tTO\tRATIO\tTARGET\t\tBEFORE\n", strings.ToUpper(test[:1])+test[1:])
		}
		ratio, was := "", ""
		if f.Base != "" {
			ratio = fmt.Sprintf("%.2f", f.Ratio)
		}
		if v, ok := old[f.Test+"\n"+f.Contender]; ok && v != 0 {
			was = fmt.Sprintf("%.4g (%+.0f %%)", v, 100*(f.Median/v-1))
		}
		fmt.Fprintf(t, "  %s\t%.4g\t%s\t%.4g\t%.4g\t%s\t%s\t%s\t%s\n", f.Contender, f.Median, f.Unit, slices.Min(f.All), slices.Max(f.All), ratio, f.Target, f.met(), was)
	}
	t.Flush()
}

// readResults reads the run before; nil where there is none.
func readResults(path string) (*results, error) {
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &results{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// write keeps the run. Figures of the run before that this one has not are kept, so that a part can
// be measured alone.
func (r *results) write(path string, before *results) error {
	all := *r
	if before != nil {
		for _, f := range before.Figures {
			if !slices.ContainsFunc(r.Figures, func(g figure) bool { return g.Test == f.Test && g.Contender == f.Contender }) {
				all.Figures = append(all.Figures, f)
			}
		}
	}
	b, err := json.MarshalIndent(&all, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func thisMachine() machine {
	m := machine{Processors: runtime.NumCPU(), Go: runtime.Version()}
	m.Model = field("/proc/cpuinfo", "model name")
	m.Memory = field("/proc/meminfo", "MemTotal")
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel, _, _ = strings.Cut(strings.TrimSpace(string(b)), "-")
	m.Postfix = output("postconf", "-hd", "mail_version")
	return m
}

// field is the first value of a name in a file of "name: value" lines.
func field(path, name string) string {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if n, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(n) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
