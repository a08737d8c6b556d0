//go:build upgrade

package e2e

import (
	"encoding/json"
	"math"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
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
	var r struct {
		Messages map[string]struct{ TLS, Plain int }
	}
	waitUntil(t, func() bool {
		out, status := d.Command("report", "--since", "1h", "--json")
		if status != 0 || json.Unmarshal([]byte(out), &r) != nil {
			return false
		}
		return r.Messages["spam"].Plain+r.Messages["ham"].Plain == messages
	})
	// And it goes on learning.
	client, _ := sender(1)
	if _, err := mta.Message(client, true); err != nil {
		t.Error(err)
	}
}
