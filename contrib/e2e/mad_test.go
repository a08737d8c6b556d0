package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// broken is a rule of rspamd that hits every message with the score that is in a file, 0 where
// there is none: what a bad map or a slip of the pen does.
const broken = `
rspamd_config.BROKEN = {
  callback = function(task)
    local f = io.open(%q)
    if not f then return false end
    local score = tonumber(f:read('*a'))
    f:close()
    return true, score
  end,
  score = 1.0,
}
`

// TestRspamdGoesMad breaks the scores of a real rspamd: for as many messages as a well-known sender
// has in an hour it calls all mail spam, first by headers, then by refusing it.
func TestRspamdGoesMad(t *testing.T) {
	t.Parallel()
	score := filepath.Join(tempDir(t), "score")
	// Greylisting would keep the mail from being called anything.
	x := withRspamd(t, map[string]string{"rspamd.local.lua": fmt.Sprintf(broken, score), "local.d/greylist.conf": "enabled = false;\n"})
	token, err := x.daemon.FeedToken()
	must(t, err)

	// Well-known senders, each in a network of its own: ham of hours ago.
	var known []string
	for i := range 8 {
		client := fmt.Sprintf("198.%d.100.7", 20+i)
		known = append(known, client)
		for k := range 6 {
			body := fmt.Sprintf(`{"ip":%q,"qid":"OLD%d-%d","class":"ham","time":%q}`, client, i, k, time.Now().Add(-12*time.Hour+time.Duration(k)*time.Minute).Format(time.RFC3339))
			req, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/feed/verdict", x.daemon.HTTP), strings.NewReader(body))
			must(t, err)
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header.Set("Content-Type", "application/json")
			answer, err := http.DefaultClient.Do(req)
			must(t, err)
			answer.Body.Close()
		}
	}
	_, err = x.daemon.WaitEvents(48)
	must(t, err)

	denied, sent := 0, 0
	send := func(client string) {
		sent++
		s, err := x.Dial(client)
		must(t, err)
		if !s.Offered {
			denied++
		}
		m := message("hello")
		m.Body = fmt.Sprint("message ", sent)
		m.Last = []string{"Date: " + time.Now().Format(time.RFC1123Z), fmt.Sprintf("Message-ID: <%d.message@sender.example>", sent)}
		s.Deliver(m)
		s.Quit()
	}
	round := func(n int) {
		t.Helper()
		for range n {
			for _, client := range known {
				send(client)
			}
		}
	}
	round(1)
	for _, mad := range []string{"9", "20"} {
		must(t, os.WriteFile(score, []byte(mad), 0o644))
		round(6)
		send("203.0.113." + mad)
	}
	if denied > 0 {
		t.Errorf("of %d sessions of well-known senders %d were denied STARTTLS", sent, denied)
	}
	x.settle(t)
	for _, client := range append(known, "203.0.113.9", "203.0.113.20") {
		if l, err := x.daemon.Lookup(client); err != nil || l.STARTTLS != "offer" {
			t.Errorf("%s: %+v, %v", client, l, err)
		}
		if out := x.command("explain", client); !strings.Contains(out, " 0.0 spam and") {
			t.Errorf("spam was learnt of %s:\n%s", client, out)
		}
	}
	status := x.command("status")
	for _, source := range []string{"header", "rspamd", "milter-reject"} {
		if !strings.Contains(status, source+" has called mail of hosts with a long good record spam") || strings.Count(x.daemon.Log(), "source="+source+" networks") != 1 {
			t.Errorf("%s is not said to be mad, or more than once:\n%s", source, status)
		}
	}

	// The score is right again. Sources are believed when the senders' next mail is settled.
	must(t, os.Remove(score))
	round(1)
	time.Sleep(11 * time.Second)
	round(1)
	x.settle(t)
	if n, err := x.daemon.Metric("ehlogate_sources_distrusted"); err != nil || n != 0 {
		t.Errorf("%v sources are distrusted still, %v\n%s", n, err, x.command("status"))
	}
	if n := strings.Count(x.daemon.Log(), "is learnt from again"); n != 3 {
		t.Errorf("said %d times that all is well", n)
	}
	must(t, os.WriteFile(score, []byte("20"), 0o644))
	send("203.0.113.99")
	send("203.0.113.99")
	x.settle(t)
	if l, err := x.daemon.Lookup("203.0.113.99"); err != nil || l.STARTTLS != "withhold" {
		t.Errorf("a spammer that came afterwards: %+v, %v", l, err)
	}
}

// settle waits until nothing more comes into the event log.
func (x *exchanger) settle(t *testing.T) {
	t.Helper()
	var events []mx.Event
	for quiet := time.Now(); time.Since(quiet) < 1500*time.Millisecond; time.Sleep(50 * time.Millisecond) {
		now, err := x.daemon.Events()
		must(t, err)
		if len(now) != len(events) {
			events, quiet = now, time.Now()
		}
	}
}
