package systems

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The clients. The bad one is denied by the operator, and so is the address of a user.
const good, bad = "198.51.100.7", "203.0.113.66"

// trySystem goes an operator's way with one system: all that clients see with ehlogate, with it
// up, hung and dead, is what they saw before, except that the bad client is not offered STARTTLS
// where strangers send.
func trySystem(t *testing.T, name string) {
	h := newHost(t, name)
	mainCF, master := read(t, "/etc/postfix/main.cf"), read(t, "/etc/postfix/master.cf")
	h.run("postfix", "start")
	t.Cleanup(func() { h.run("postfix", "stop") })
	before := h.visitAll("before")
	kept, _ := h.kept("before", before)

	h.startDaemon()
	t.Cleanup(func() { h.daemon.Stop() })
	h.must("deny", bad)
	applied := h.must("setup", "postfix", "--apply", "--mode", "protect")
	if out, status := h.ehlogate("check"); status != 0 && !h.expected(out) {
		t.Errorf("check after setup: %d\n%s", status, out)
	} else {
		t.Logf("row: %s | setup | %s", name, oneLine(notes(applied)))
		t.Logf("row: %s | check | %d: %s", name, status, oneLine(faults(out)))
	}
	// Setup has reloaded it.
	time.Sleep(300 * time.Millisecond)
	if out, _ := h.ehlogate("check", "--live"); !strings.Contains(out, "live: the table was asked, and answered") && !h.expectsNoTable() {
		t.Errorf("check --live:\n%s", out)
	}
	h.compare("up", before, true)
	after, forged := h.kept("up", before)
	if after != kept {
		t.Errorf("what filters and programs write: before %q, after %q", kept, after)
	}
	if forged != "" && !strings.Contains(applied, "have the filter remove") {
		t.Errorf("a stranger's own X-Spam-Flag came through: %s", forged)
	}

	must(t, h.daemon.Signal(syscall.SIGSTOP))
	for h.daemon.State() != 'T' {
		time.Sleep(10 * time.Millisecond)
	}
	h.compare("hung", before, false)
	must(t, h.daemon.Signal(syscall.SIGCONT))
	h.daemon.Kill()
	h.compare("dead", before, false)

	h.must("setup", "postfix", "--undo")
	if read(t, "/etc/postfix/main.cf") != mainCF || read(t, "/etc/postfix/master.cf") != master {
		t.Errorf("undo did not give the files back")
	}
	for _, left := range []string{"ehlogate-memcache.cf", "ehlogate-backup", "ehlogate-header-checks", "ehlogate-undo.json"} {
		if _, err := os.Stat("/etc/postfix/" + left); err == nil {
			t.Errorf("undo left %s behind", left)
		}
	}
	time.Sleep(300 * time.Millisecond)
	h.compare("undone", before, false)
	if t.Failed() {
		t.Logf("main.cf:\n%s\nmaster.cf:\n%s\nlog:\n%s", mainCF, master, h.log())
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func (h *host) must(args ...string) string {
	h.t.Helper()
	out, status := h.ehlogate(args...)
	if status != 0 {
		h.t.Fatalf("ehlogate %v: %d\n%s", args, status, out)
	}
	return out
}

// visits are what a client saw at each service.
type visits map[string]seen

// visitAll lets both clients visit all services at once.
func (h *host) visitAll(stage string) visits {
	all := visits{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for i, s := range h.services {
		for _, from := range []string{good, bad} {
			wait.Go(func() {
				v := visit(s, from, fmt.Sprintf("%s-%d-%s", stage, i, from))
				mu.Lock()
				defer mu.Unlock()
				all[s.String()+" from "+from] = v
			})
		}
	}
	wait.Wait()
	return all
}

// longest is how long a session may take at each stage longer than before: a hung daemon costs a
// second at the table, twice where a table before ours is joined with it, and one at the milter.
var longest = map[string]time.Duration{"up": 3 * time.Second, "hung": 8 * time.Second, "dead": 3 * time.Second, "undone": 3 * time.Second}

// compare visits all services again. Withholding says that the bad client is not offered STARTTLS
// where strangers send.
func (h *host) compare(stage string, before visits, withholding bool) {
	h.t.Helper()
	now := h.visitAll(stage)
	for name, was := range before {
		is := now[name]
		want := was
		if withholding && strings.HasPrefix(name, "strangers") && strings.HasSuffix(name, bad) && was.starttls {
			want.starttls, want.inside = false, ""
		}
		if is.String() != want.String() {
			h.t.Errorf("%s, %s:\n  saw  %s\n  want %s", stage, name, is, want)
		}
		if is.took > was.took+longest[stage] {
			h.t.Errorf("%s, %s: took %s, before %s", stage, name, is.took.Round(time.Millisecond), was.took.Round(time.Millisecond))
		}
	}
	h.t.Logf("row: %s | %s | %s", h.name, stage, summary(now))
}

// summary says how many services offered STARTTLS and took the message, by who sends there and
// which client it was.
func summary(now visits) string {
	var all []string
	for _, who := range []string{"strangers", "users", "filters"} {
		for _, from := range []string{good, bad} {
			count, offered, delivered := 0, 0, 0
			var slowest time.Duration
			for name, v := range now {
				if strings.HasPrefix(name, who) && strings.HasSuffix(name, from) {
					count++
					if v.starttls {
						offered++
					}
					if v.result == "delivered" {
						delivered++
					}
					slowest = max(slowest, v.took)
				}
			}
			if count > 0 {
				all = append(all, fmt.Sprintf("%s from %s: %d services, STARTTLS at %d, mail in at %d, %.1f s", who, from, count, offered, delivered, slowest.Seconds()))
			}
		}
	}
	return strings.Join(all, "; ")
}

// kept says which verdict headers are still there in what was delivered at a stage: of users' mail,
// of what a filter puts back, of what a program submits, and of what is attached to any. forged are
// the services of strangers whose own came through.
func (h *host) kept(stage string, before visits) (kept, forged string) {
	h.t.Helper()
	var said []string
	for i, s := range h.services {
		if before[s.String()+" from "+good].result != "delivered" {
			continue
		}
		text, err := h.delivered(fmt.Sprintf("%s-%d-%s", stage, i, good))
		own := strings.Contains(text, "X-Spam-Flag: OWN")
		if s.who == "strangers" && own {
			forged += s.String() + " "
		}
		said = append(said, fmt.Sprintf("%s: %v, own %v, attached %v", s, err, own && s.who != "strangers", strings.Contains(text, "X-Spam-Flag: ATTACHED")))
	}
	subject := stage + "-program"
	h.run("sh", "-c", "printf 'X-Spam-Flag: OWN\\nSubject: "+subject+"\\n\\nHello\\n' | sendmail -f alice@mx.example box@mx.example")
	text, err := h.delivered(subject)
	said = append(said, fmt.Sprintf("a program: %v, own %v", err, strings.Contains(text, "X-Spam-Flag: OWN")))
	return strings.ReplaceAll(strings.Join(said, "; "), stage, "STAGE"), forged
}

// expected reports whether a check found nothing but what the system's own file expects: a line
// that each fault begins with.
func (h *host) expected(out string) bool {
	b, _ := os.ReadFile(h.name + "/expect")
	for line := range strings.Lines(faults(out)) {
		ok := false
		for want := range strings.Lines(string(b)) {
			want = strings.TrimSpace(want)
			ok = ok || want != "" && strings.Contains(line, want)
		}
		if !ok {
			return false
		}
	}
	return true
}

// expectsNoTable reports whether the system's first service of strangers has no STARTTLS at all, or
// other milters than ours.
func (h *host) expectsNoTable() bool {
	b, _ := os.ReadFile(h.name + "/expect")
	return strings.Contains(string(b), "smtpd_milter_maps")
}

// faults are the lines of a check that say what is wrong, notes those of setup for the operator.
func faults(out string) string { return linesOf(out, "fix   ") }
func notes(out string) string  { return linesOf(out, "note: ") }

func linesOf(out, prefix string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			b.WriteString(rest)
		}
	}
	return b.String()
}

func oneLine(s string) string {
	s = strings.ReplaceAll(strings.TrimSpace(s), "\n", " / ")
	if s == "" {
		return "nothing to say"
	}
	return s
}
