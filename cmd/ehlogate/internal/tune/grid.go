package tune

import (
	"cmp"
	"context"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// Setting is what tune varies: the model's parameters, and where tier bad is entered and left.
type Setting struct {
	Params reputation.Params
	Bad    reputation.Threshold
}

// Result is what a setting would have done in mode protect.
type Result struct {
	Setting
	// Whole is for all of the trace, Late for its second half, of which nothing was unknown for
	// being the beginning.
	Whole, Late Figures
}

// Figures count sessions.
type Figures struct {
	Spam, SpamWithheld int
	// TLS counts those of spam that used TLS, or might have had they been offered it.
	TLS, TLSWithheld int
	Ham, HamWithheld int
}

// Harm is the share of ham that is denied STARTTLS.
func (f Figures) Harm() float64 { return share(f.HamWithheld, f.Ham) }

// SpamShare is the share of all spam that is denied STARTTLS.
func (f Figures) SpamShare() float64 { return share(f.SpamWithheld, f.Spam) }

// Avoided is the share of spam over TLS that is not offered it, or of all spam where the trace has
// none over TLS.
func (f Figures) Avoided() float64 {
	if f.TLS == 0 {
		return f.SpamShare()
	}
	return share(f.TLSWithheld, f.TLS)
}

func share(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

func (f *Figures) add(s *step, withheld bool) {
	n := 0
	if withheld {
		n = 1
	}
	switch s.truth {
	case spam:
		f.Spam++
		f.SpamWithheld += n
		if s.tls {
			f.TLS++
			f.TLSWithheld += n
		}
	case ham:
		f.Ham++
		f.HamWithheld += n
	}
}

// The grid around the setting in force.
var (
	halfLives        = []time.Duration{5 * time.Minute, 20 * time.Minute, time.Hour, 4 * time.Hour}
	networkHalfLives = []time.Duration{24 * time.Hour, 100 * time.Hour, 300 * time.Hour}
	priors           = []float64{0.2, 0.35, 0.5}
	enters           = []float64{1.0, 1.2, 1.4, 1.6, 1.8, 2.2, 2.6, 3.2}
)

// line is the settings that share the model's parameters: a trace is run once for all of them,
// because only the tier depends on where it is entered.
type line struct {
	params reputation.Params
	bad    []reputation.Threshold
}

// grid is the settings that are tried: those in force first.
func grid(p *policy.Policy) []line {
	gap := p.Thresholds.Bad.Enter - p.Thresholds.Bad.Leave
	bad := []reputation.Threshold{p.Thresholds.Bad}
	for _, enter := range enters {
		if enter != p.Thresholds.Bad.Enter {
			bad = append(bad, reputation.Threshold{Enter: enter, Leave: enter - gap})
		}
	}
	lines := []line{{p.Params, bad}}
	for _, half := range halfLives {
		for _, network := range networkHalfLives {
			for _, prior := range priors {
				params := p.Params
				params.HalfLife, params.NetworkHalfLife, params.Prior = half, network, prior
				if params != p.Params {
					lines = append(lines, line{params, bad})
				}
			}
		}
	}
	return lines
}

// Run runs a history under the settings around a policy's, on all processors. The first result is
// that of the policy itself. Progress is told how many of how many runs over the history are done.
func Run(ctx context.Context, h *History, p *policy.Policy, progress func(done, all int)) ([]Result, error) {
	lines := grid(p)
	results := make([][]Result, len(lines))
	work := make(chan int)
	var workers sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range min(runtime.GOMAXPROCS(0), len(lines)) {
		workers.Go(func() {
			for i := range work {
				results[i] = h.run(ctx, lines[i])
				mu.Lock()
				done++
				progress(done, len(lines))
				mu.Unlock()
			}
		})
	}
	for i := range lines {
		work <- i
	}
	close(work)
	workers.Wait()
	return slices.Concat(results...), ctx.Err()
}

// client is a host on its way through the history: its evidence, and in which settings it is bad,
// one bit each.
type client struct {
	evidence reputation.Evidence
	bad      uint16
}

// run judges each session by what was known before it, and learns from it afterwards, as the daemon
// does.
func (h *History) run(ctx context.Context, l line) []Result {
	results := make([]Result, len(l.bad))
	for i, b := range l.bad {
		results[i].Setting = Setting{l.params, b}
	}
	hosts := make([]client, h.hosts)
	networks, systems := make([]reputation.Evidence, h.networks), make([]reputation.Evidence, h.systems)
	for i := range h.steps {
		if i%(1<<16) == 0 && ctx.Err() != nil {
			return nil
		}
		s := &h.steps[i]
		if !s.decided && !s.taught {
			continue
		}
		host, network, system := &hosts[s.host], &networks[s.network], new(reputation.Evidence)
		if s.system >= 0 {
			system = &systems[s.system]
		}
		now := time.UnixMilli(s.at)
		bad := l.tiers(host.bad, reputation.Judge(host.evidence, *network, *system, now, l.params).Score)
		if s.decided {
			for k := range results {
				withheld := bad>>k&1 == 1 && !s.exempt
				results[k].Whole.add(s, withheld)
				if !s.early {
					results[k].Late.add(s, withheld)
				}
			}
		}
		if !s.taught {
			continue
		}
		var m reputation.Move
		host.evidence, m = host.evidence.AddCount(s.slice, s.lesson)
		*network, *system = network.Apply(m), system.Apply(m)
		host.bad = l.tiers(bad, reputation.Judge(host.evidence, *network, *system, now, l.params).Score)
	}
	return results
}

// tiers are the settings in which a host of a score is bad, given those in which it was.
func (l *line) tiers(was uint16, score float64) (bad uint16) {
	for k, t := range l.bad {
		if score >= t.Enter || was>>k&1 == 1 && score >= t.Leave {
			bad |= 1 << k
		}
	}
	return bad
}

// Best are the results that avoid most for their harm, from the least harm to the most.
func Best(all []Result) (best []Result) {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b Result) int {
		return cmp.Or(cmp.Compare(a.Whole.Harm(), b.Whole.Harm()), cmp.Compare(b.Whole.Avoided(), a.Whole.Avoided()))
	})
	for _, r := range sorted {
		if len(best) == 0 || r.Whole.Avoided() > best[len(best)-1].Whole.Avoided() {
			best = append(best, r)
		}
	}
	return best
}

// near is how much less a setting may avoid than the best one, if it changes less.
const near = 0.005

// Choose is the result that avoids most with no more harm than this, in all of the history and in
// its second half; of those that are as good within half a percent, the one that changes least of
// the setting in force, the first result. ok is false where there is none.
func Choose(all []Result, harm float64) (chosen Result, ok bool) {
	var fit []Result
	most := 0.0
	for _, r := range all {
		if r.Whole.Harm() <= harm && r.Late.Harm() <= harm {
			fit = append(fit, r)
			most = max(most, r.Whole.Avoided())
		}
	}
	least := math.MaxInt
	for _, r := range fit {
		if changes := r.changes(all[0].Setting); r.Whole.Avoided() >= most-near && changes < least {
			chosen, ok, least = r, true, changes
		}
	}
	return chosen, ok
}

// changes is in how many keys two settings differ.
func (s Setting) changes(from Setting) (n int) {
	for _, differs := range []bool{
		s.Params.HalfLife != from.Params.HalfLife, s.Params.NetworkHalfLife != from.Params.NetworkHalfLife,
		s.Params.Prior != from.Params.Prior, s.Bad != from.Bad,
	} {
		if differs {
			n++
		}
	}
	return n
}
