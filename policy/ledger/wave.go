package ledger

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Watched is a share that is watched for a change.
type Watched string

// The shares that are watched, all of clients, each counted once a day.
const (
	// SpamOverTLS is how many of the clients that send spam use TLS: it rises when a botnet turns
	// to TLS.
	SpamOverTLS Watched = "spam-over-tls"
	// TLSThatIsSpam is how many of the clients that use TLS send spam.
	TLSThatIsSpam Watched = "tls-that-is-spam"
	// WithheldShare is from how many of the clients STARTTLS is withheld: it rises when we, or a
	// filter that we believe, are wrong.
	WithheldShare Watched = "withheld"
)

// AllWatched are all shares that are watched.
var AllWatched = []Watched{SpamOverTLS, TLSThatIsSpam, WithheldShare}

// says is the change in words, while it lasts or afterwards.
func (w Watched) says(over bool) string {
	words := map[Watched][2]string{
		SpamOverTLS:   {"more of the clients that send spam use TLS", "more of the clients that sent spam used TLS"},
		TLSThatIsSpam: {"more of the clients that use TLS send spam", "more of the clients that used TLS sent spam"},
		WithheldShare: {"STARTTLS is withheld from more of the clients", "STARTTLS was withheld from more of the clients"},
	}[w]
	if over {
		return words[1]
	}
	return words[0]
}

// of is the share in a slot: x of n clients.
func (w Watched) of(c *Counts) (x, n float64) {
	f := func(what int) float64 { return float64(max(0, c[atFresh+what])) }
	switch w {
	case SpamOverTLS:
		return f(freshSpamTLS), f(freshSpamTLS) + f(freshSpamPlain)
	case TLSThatIsSpam:
		return f(freshSpamTLS), f(freshSpamTLS) + f(freshHamTLS)
	}
	return f(freshWithheld), f(freshWithheld) + f(freshOffered)
}

// Wave is a share that has risen and has not fallen back.
type Wave struct {
	What Watched `json:"what"`
	// Began is when the share began to rise, Noticed when that was certain, Ended when it had
	// fallen back, or was what is usual by then; zero while it lasts.
	Began   time.Time `json:"began"`
	Noticed time.Time `json:"noticed"`
	Ended   time.Time `json:"ended,omitzero"`
	// Usual is the share that was expected, Share the one since it began.
	Usual float64 `json:"usual"`
	Share float64 `json:"share"`
}

// Text is the wave in a sentence.
func (w *Wave) Text() string {
	shares := fmt.Sprintf("%.0f %%, usually %.0f %%", 100*w.Share, 100*w.Usual)
	if !w.Ended.IsZero() {
		return fmt.Sprintf("from %s to %s %s: %s", w.Began.Format(waveFormat), w.Ended.Format(waveFormat), w.What.says(true), shares)
	}
	return fmt.Sprintf("since %s %s: %s", w.Began.Format(waveFormat), w.What.says(false), shares)
}

const waveFormat = "2006-01-02 15:04Z"

// looked is what is looked for in a share: a rise, in log-odds, and how much more likely it has to
// be than none, in nats, to be announced, after a warm-up in which nothing is. A false alarm comes
// about once in e^certain independent slots.
type looked struct {
	rise, certain float64
	warmUp        time.Duration
}

// looks is what is looked for. A botnet that turns to TLS multiplies the odds by eight in the
// simulator; 1.4 is half of that. Where honest mail has a part in the share, it takes more to be
// certain: the hours of a day differ.
func (w Watched) looks() looked {
	switch w {
	case SpamOverTLS:
		return looked{1.4, 12, 24 * time.Hour}
	case TLSThatIsSpam:
		return looked{1, 20, 3 * 24 * time.Hour}
	}
	return looked{1, 14, 3 * 24 * time.Hour}
}

const (
	// baseFor is the half-life of what is usual, baseLag how old a slot has to be to count for it,
	// so that a change does not hide itself.
	baseFor, baseLag = 4 * 24 * time.Hour, 6 * time.Hour
	// fewestClients is of how many clients something has to be known before anything is announced.
	fewestClients = 40
	// seasonal is from when on the hour of the week counts, hoursOfWeek how many there are, and
	// seasonShrink how many clients' worth of the usual share each hour has beside its own.
	seasonal, hoursOfWeek, seasonShrink = 14 * 24 * time.Hour, 7 * 24, 400
	// adopted is after how long a share that stays what it is becomes what is usual.
	adopted = 7 * 24 * time.Hour
	// block is the time in which clients may have one cause, for the dispersion.
	block = 6 * time.Hour
)

// watch finds waves of a share, slot by slot: a cumulative sum of log-likelihood ratios (CUSUM;
// Page, "Continuous inspection schemes", 1954), against what is usual at the hour of the week.
type watch struct {
	what Watched
	// base is x of n with the weight of age, at its time; since is when it began.
	base  weighted
	since time.Time
	// waiting are slots that are too young for the base.
	waiting []sample
	// hours are the same by hour of the week.
	hours [hoursOfWeek]weighted
	// blocks are the squared deviations of blocks of time, in units of the binomial variance.
	blocks  dispersion
	current sample
	// sum is the cumulative sum since rose, over x of n; run are the slots since then, each with
	// the sum before it. fall is the same against the wave.
	sum, fall float64
	rose      sample
	run       []step
	wave      *Wave
	found     []Wave
}

// step is a slot of a rise, and the sum before it.
type step struct {
	sample
	before float64
}

type sample struct {
	at   time.Time
	x, n float64
}

// weighted is x of n that fade.
type weighted struct {
	at   time.Time
	x, n float64
}

func (w *weighted) add(s sample, halfLife time.Duration) {
	if !w.at.IsZero() {
		fade := math.Exp2(-s.at.Sub(w.at).Hours() / halfLife.Hours())
		w.x, w.n = w.x*fade, w.n*fade
	}
	w.at, w.x, w.n = s.at, w.x+s.x, w.n+s.n
}

// dispersion is how much more blocks of time differ than independent clients would.
type dispersion struct{ sum, n float64 }

func (d *dispersion) factor() float64 {
	if d.n < 3 {
		// Until more is known, as if clients came in pairs.
		return 2
	}
	return max(1, d.sum/d.n)
}

// Waves finds the waves in a course of slots, which are in order, of any widths.
func Waves(slots []Slot) []Wave {
	var all []Wave
	for _, what := range AllWatched {
		w := watch{what: what}
		for i := range slots {
			w.step(&slots[i])
		}
		all = append(all, w.waves()...)
	}
	return all
}

// WavesIn are those of some waves that lasted at some time between two.
func WavesIn(all []Wave, since, until time.Time) []Wave {
	return slices.DeleteFunc(append([]Wave{}, all...), func(w Wave) bool {
		return !w.Ended.IsZero() && w.Ended.Before(since) || w.Began.After(until)
	})
}

// Lasting are those that last.
func Lasting(all []Wave) []Wave {
	return slices.DeleteFunc(append([]Wave{}, all...), func(w Wave) bool { return !w.Ended.IsZero() })
}

func (w *watch) waves() []Wave {
	if w.wave == nil {
		return w.found
	}
	return append(w.found, *w.wave)
}

// step takes the next slot.
func (w *watch) step(slot *Slot) {
	x, n := w.what.of(slot.Counts)
	s := sample{slot.At, x, n}
	if w.since.IsZero() {
		w.since = s.at
	}
	w.settle(s.at)
	if usual, ok := w.usual(s.at); ok {
		w.judge(s, usual)
	}
	w.waiting = append(w.waiting, s)
}

// settle takes what is old enough into the base. What belongs to a wave is left out until that is
// adopted.
func (w *watch) settle(now time.Time) {
	if w.wave != nil && now.Sub(w.wave.Began) > adopted {
		w.end(now)
		w.base, w.hours = weighted{}, [hoursOfWeek]weighted{}
	}
	for len(w.waiting) > 0 && now.Sub(w.waiting[0].at) >= baseLag {
		s := w.waiting[0]
		if w.wave != nil && !s.at.Before(w.wave.Began) {
			return
		}
		w.waiting = w.waiting[1:]
		w.disperse(s)
		w.base.add(s, baseFor)
		w.hours[hourOfWeek(s.at)].add(s, 4*7*24*time.Hour)
	}
}

func hourOfWeek(t time.Time) int {
	t = t.UTC()
	return int(t.Weekday())*24 + t.Hour()
}

// disperse compares a block of time with what was usual before it.
func (w *watch) disperse(s sample) {
	if w.current.at.IsZero() {
		w.current.at = s.at
	}
	w.current.x, w.current.n = w.current.x+s.x, w.current.n+s.n
	if s.at.Sub(w.current.at) < block || w.current.n < 5 {
		return
	}
	if p, ok := w.expected(w.current.at); ok {
		d := w.current.x - w.current.n*p
		w.blocks.sum += d * d / (w.current.n * p * (1 - p))
		w.blocks.n++
	}
	w.current = sample{}
}

// expected is the share at an hour of the week, by the base as it is.
func (w *watch) expected(at time.Time) (p float64, ok bool) {
	if w.base.n < 1 {
		return 0, false
	}
	p = (w.base.x + 0.5) / (w.base.n + 1)
	if at.Sub(w.since) >= seasonal {
		h := &w.hours[hourOfWeek(at)]
		p = (h.x + seasonShrink*p) / (h.n + seasonShrink)
	}
	return min(max(p, 0.005), 0.995), true
}

// usual is the share that is expected now; ok is false while too little is known.
func (w *watch) usual(at time.Time) (p float64, ok bool) {
	if at.Sub(w.since) < w.what.looks().warmUp || w.base.n < fewestClients {
		return 0, false
	}
	return w.expected(at)
}

func (w *watch) judge(s sample, usual float64) {
	if w.wave != nil {
		w.wave.add(s, &w.rose)
		ratio := evidence(s, usual, w.wave.rise()) / w.blocks.factor()
		if w.fall = max(0, w.fall-ratio); w.fall > w.what.looks().certain {
			w.end(s.at)
		}
		return
	}
	ratio := evidence(s, usual, w.what.looks().rise) / w.blocks.factor()
	if w.sum == 0 {
		w.rose, w.run = sample{at: s.at}, w.run[:0]
	}
	w.run = append(w.run, step{s, w.sum})
	if w.sum = max(0, w.sum+ratio); w.sum > w.needed(s.at) {
		w.rose = w.began()
		w.wave = &Wave{What: w.what, Began: w.rose.at, Noticed: s.at, Usual: usual, Share: w.rose.x / w.rose.n}
		w.fall, w.run = 0, nil
	}
}

// began is where a rise began that has become certain, and what came since: not where the sum was
// zero last, for a client or two that are early can keep it above that for long, but where a
// quarter of it was left behind.
func (w *watch) began() (all sample) {
	for i := len(w.run) - 1; i >= 0; i-- {
		s := &w.run[i]
		all.at, all.x, all.n = s.at, all.x+s.x, all.n+s.n
		if s.before <= w.sum/4 {
			break
		}
	}
	return all
}

// needed is how certain a rise has to be now: as much again for each four days that it takes, as
// what is usual drifts, too.
func (w *watch) needed(now time.Time) float64 {
	return w.what.looks().certain * (1 + now.Sub(w.rose.at).Hours()/96)
}

// add counts a slot to the share of a wave.
func (w *Wave) add(s sample, all *sample) {
	all.x, all.n = all.x+s.x, all.n+s.n
	if all.n > 0 {
		w.Share = all.x / all.n
	}
}

// rise is how far a wave has risen, in log-odds, as far as it can be told from what is usual.
func (w *Wave) rise() float64 {
	odds := func(share float64) float64 { return math.Log(share / (1 - share)) }
	return min(max(odds(min(w.Share, 0.99))-odds(w.Usual), 0.3), 2)
}

func (w *watch) end(at time.Time) {
	w.wave.Ended = at
	w.found = append(w.found, *w.wave)
	w.wave, w.sum, w.fall = nil, 0, 0
}

// evidence is how much more likely a slot is after the rise than before it, in nats.
func evidence(s sample, usual, rise float64) float64 {
	odds := math.Log(usual/(1-usual)) + rise
	risen := 1 / (1 + math.Exp(-odds))
	return s.x*math.Log(risen/usual) + (s.n-s.x)*math.Log((1-risen)/(1-usual))
}
