//go:build upgrade

package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
)

// before is the environment variable that names the program of the version before.
const before = "UPGRADE_FROM"

// TestUpgrade has an earlier version learn, be killed and be stopped, and then this one take over
// its files: what is known of each client is what it was, overrides hold, and the report counts
// what came in before.
func TestUpgrade(t *testing.T) {
	d, err := mx.NewDaemon(os.Getenv(before), tempDir(t), "", "")
	must(t, err)
	must(t, d.Start())
	mta := mx.NewMTA(d)
	const messages = 120
	for n := range messages {
		if n == messages/2 {
			d.Kill()
			must(t, d.Start())
		}
		client, spam := sender(n)
		if _, err := mta.Message(client, spam); err != nil {
			t.Fatal(err)
		}
	}
	if out, status := d.Command("deny", "203.0.113.0/24", "--note", "kept"); status != 0 {
		t.Fatalf("deny: %d: %s", status, out)
	}
	clients := map[netip.Addr]float64{}
	for n := range messages {
		client, _ := sender(n)
		clients[client] = 0
	}
	for client := range clients {
		l, err := d.Lookup(client.String())
		must(t, err)
		clients[client] = l.Score
	}
	must(t, d.Stop())

	d.Binary = binary
	must(t, d.Start())
	t.Cleanup(func() { d.Stop() })
	wrong := 0
	for client, was := range clients {
		l, err := d.Lookup(client.String())
		must(t, err)
		if math.Abs(l.Score-was) > 0.05 {
			if wrong++; wrong < 4 {
				t.Logf("%s: %.2f, was %.2f", client, l.Score, was)
			}
		}
	}
	// A version may score otherwise; but it knows each client.
	t.Logf("%d of %d clients have another score", wrong, len(clients))
	if wrong > 0 && os.Getenv("UPGRADE_SCORES") != "" {
		t.Error("the version before scores as this one does")
	}
	for client := range clients {
		if out, _ := d.Command("explain", client.String()); strings.Contains(out, "own evidence     none") {
			t.Fatalf("nothing is known of %s: %s", client, out)
		}
	}
	if out, _ := d.Command("overrides"); !strings.Contains(out, "203.0.113.0/24") || !strings.Contains(out, "kept") {
		t.Errorf("overrides: %s", out)
	}
	waitUntil(t, func() bool { return countedBy(d) == messages })
	// And it goes on learning.
	client, _ := sender(1)
	if _, err := mta.Message(client, true); err != nil {
		t.Error(err)
	}
}

// countedBy is how many messages a daemon's report counts.
func countedBy(d *mx.Daemon) int {
	var r struct {
		Messages map[string]struct{ TLS, Plain, Unknown int }
	}
	out, status := d.Command("report", "--since", "1h", "--json")
	if status != 0 || json.Unmarshal([]byte(out), &r) != nil {
		return -1
	}
	sum := 0
	for _, m := range r.Messages {
		sum += m.TLS + m.Plain + m.Unknown
	}
	return sum
}

// TestTwoVersionsShareARedis is a cluster in the middle of an upgrade: a node of the version before
// and one of this one learn of the same clients, take posts on each other's messages, and hold each
// other's overrides; then the first one is upgraded, too.
func TestTwoVersionsShareARedis(t *testing.T) {
	redis, err := redisd.New(tempDir(t))
	must(t, err)
	must(t, redis.Start())
	t.Cleanup(redis.Stop)
	var nodes []*mx.Daemon
	for i, program := range []string{os.Getenv(before), binary} {
		d, err := mx.NewDaemon(program, tempDir(t), "redis://"+redis.Addr(), "[log]\nnode = '"+[]string{"old", "new"}[i]+"'\n[verdict]\nlocal_feed = true\n")
		must(t, err)
		must(t, d.Start())
		t.Cleanup(func() { d.Stop() })
		nodes = append(nodes, d)
	}
	const messages, posts = 120, 20
	for n := range messages {
		client, spam := sender(n)
		if _, err := mx.NewMTA(nodes[n%2]).MessageCalled(called(n), client, spam); err != nil {
			t.Fatal(err)
		}
	}
	sumsEqualTheLogs(t, nodes[1], nodes[0])
	for i, d := range nodes {
		network := []string{"203.0.113.0/24", "198.51.100.0/24"}[i]
		if out, status := d.Command("deny", network); status != 0 {
			t.Fatalf("deny: %d: %s", status, out)
		}
		other := nodes[1-i]
		waitUntil(t, func() bool {
			l, err := other.Lookup(strings.Replace(network, ".0/24", ".7", 1))
			return err == nil && l.STARTTLS == "withhold"
		})
	}

	// A filter posts to each node what it found in the other one's messages. A version that does
	// not ask the others counts it as one more.
	post := func(n int, to *mx.Daemon) {
		client, spam := sender(n)
		class := map[bool]string{true: "spam", false: "ham"}[spam]
		r, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/feed/verdict", to.HTTP), "application/json", strings.NewReader(fmt.Sprintf(`{"ip":%q,"qid":%q,"class":%q}`, client, called(n), class)))
		must(t, err)
		if r.Body.Close(); r.StatusCode != http.StatusOK {
			t.Fatalf("a post: %s", r.Status)
		}
	}
	for n := range posts {
		post(n, nodes[1-n%2])
	}
	var scores []float64
	agree := func() bool {
		counted := countedBy(nodes[0])
		scores = nil
		for n := range 10 {
			client, _ := sender(n)
			was, err := nodes[0].Lookup(client.String())
			must(t, err)
			is, err := nodes[1].Lookup(client.String())
			if must(t, err); math.Abs(was.Score-is.Score) > 0.05 {
				return false
			}
			scores = append(scores, is.Score)
		}
		return counted >= messages && counted <= messages+2*posts && countedBy(nodes[1]) == counted
	}
	// What is about no message of a node's own is asked of the others, and counted after some
	// seconds.
	time.Sleep(6 * time.Second)
	waitUntil(t, agree)
	t.Logf("%d messages, %d posts on those of the other node: both count %d", messages, posts, countedBy(nodes[1]))

	was, counted := scores, countedBy(nodes[1])
	must(t, nodes[0].Stop())
	nodes[0].Binary = binary
	must(t, nodes[0].Start())
	// What it had not counted yet, it counted when it was stopped.
	waitUntil(t, func() bool { return agree() && countedBy(nodes[0]) >= counted })
	for i, score := range scores {
		if math.Abs(score-was[i]) > 0.05 {
			t.Errorf("a client's score is %.2f after the upgrade, was %.2f", score, was[i])
		}
	}
	// Now both ask each other, and nothing is counted twice.
	before := countedBy(nodes[0])
	for n := messages; n < messages+posts; n++ {
		client, spam := sender(n)
		if _, err := mx.NewMTA(nodes[n%2]).MessageCalled(called(n), client, spam); err != nil {
			t.Fatal(err)
		}
		post(n, nodes[1-n%2])
	}
	time.Sleep(6 * time.Second)
	waitUntil(t, func() bool { return agree() })
	if got := countedBy(nodes[0]); got != before+posts {
		t.Errorf("%d messages, each posted to the other node, count %d", posts, got-before)
	}
	if out, _ := nodes[0].Command("overrides"); !strings.Contains(out, "203.0.113.0/24") || !strings.Contains(out, "198.51.100.0/24") {
		t.Errorf("overrides: %s", out)
	}
}

// called is the queue id of a message.
func called(n int) string { return fmt.Sprintf("4XyZ%04d", n) }
