package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// TestTheEventLogReplaysAsItHappened takes the log of real sessions: under the same policy nothing
// changes, under another one it says what.
func TestTheEventLogReplaysAsItHappened(t *testing.T) {
	x := start(t, "")
	for range 3 {
		x.send("198.51.100.7", "hello")
	}
	n := x.sendUntilWithheld("192.0.2.7")
	x.send("192.0.2.7", "spam")
	_, err := x.daemon.WaitEvents(3 + n + 2)
	must(t, err)
	against := func(more ...string) (s struct {
		Connections int
		Verdicts    map[string]struct {
			NewlyWithheld int `json:"newly_withheld"`
			NewlyOffered  int `json:"newly_offered"`
			WithheldThen  int `json:"withheld_then"`
		}
	}) {
		args := append([]string{"replay", "--trace", filepath.Join(x.daemon.Dir, "data", "events.ndjson"), "--against", "--json"}, more...)
		must(t, json.Unmarshal([]byte(x.command(args...)), &s))
		return s
	}
	same := against()
	if v := same.Verdicts["spam"]; same.Connections != 3+n+2 || v.WithheldThen == 0 || v.NewlyWithheld != 0 || v.NewlyOffered != 0 {
		t.Errorf("under the same policy: %+v", same)
	}
	if v := against("--policy.mode", "observe").Verdicts["spam"]; v.NewlyOffered != v.WithheldThen {
		t.Errorf("under observe: %+v", v)
	}
	if v := against("--policy.mode", "earn").Verdicts["ham"]; v.NewlyWithheld == 0 {
		t.Errorf("under earn: %+v", v)
	}
}

// TestAMillionRowsAreReplayedInTenSeconds pipes them in and reads one decision of each.
func TestAMillionRowsAreReplayedInTenSeconds(t *testing.T) {
	const rows, clients = 1_000_000, 50_000
	var trace bytes.Buffer
	must(t, mx.WriteTrace(&trace, rows, clients))
	text := slices.Clone(trace.Bytes())
	cmd := exec.Command(plain, "replay", "--trace", "-", "--decisions", "-")
	var out lineCounter
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &trace, &out, &stderr
	began := time.Now()
	must(t, cmd.Run())
	took := time.Since(began)
	t.Logf("%d rows in %.1f s, %s", rows, took.Seconds(), strings.TrimSpace(strings.SplitN(stderr.String(), "\n", 2)[0]))
	if out != rows {
		t.Errorf("%d decisions", out)
	}
	// Ten seconds, or what the machine needs to read as much JSON four times on one core.
	if most := max(10*time.Second, 4*decoding(text)); took > most {
		t.Errorf("%d rows took %v, want %v at most", rows, took, most)
	}
}

// decoding is how long it takes to decode lines of JSON.
func decoding(text []byte) time.Duration {
	began := time.Now()
	for lines := json.NewDecoder(bytes.NewReader(text)); lines.More(); {
		var v any
		lines.Decode(&v)
	}
	return time.Since(began)
}

// TestProgressIsShownOnATerminal runs a replay under script(1), which gives it a terminal, and
// without.
func TestProgressIsShownOnATerminal(t *testing.T) {
	trace := filepath.Join(tempDir(t), "trace")
	row := `{"time":"2026-11-24T08:00:00Z","client":{"addr":"192.0.2.7"},"verdict":{"class":"ham"}}` + "\n"
	must(t, os.WriteFile(trace, []byte(strings.Repeat(row, 200_000)), 0o600))
	command := plain + " replay --trace " + trace
	out, err := exec.Command("script", "-qec", command, "/dev/null").CombinedOutput()
	must(t, err)
	if !bytes.Contains(out, []byte("replay ")) || !bytes.Contains(out, []byte("MB/s")) || !bytes.Contains(out, []byte("replayed 200000 connections")) {
		t.Errorf("on a terminal:\n%q", out)
	}
	out, err = exec.Command("sh", "-c", command).CombinedOutput()
	must(t, err)
	if bytes.Contains(out, []byte("MB/s")) {
		t.Errorf("into a pipe:\n%q", out)
	}
}

type lineCounter int

func (c *lineCounter) Write(b []byte) (int, error) {
	*c += lineCounter(bytes.Count(b, []byte("\n")))
	return len(b), nil
}

// TestAutonomousSystemsAreJudgedAndLogged runs the daemon over a database of systems made here.
func TestAutonomousSystemsAreJudgedAndLogged(t *testing.T) {
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-ASN", RecordSize: 24, IncludeReservedNetworks: true})
	must(t, err)
	_, network, err := net.ParseCIDR("192.0.2.0/24")
	must(t, err)
	must(t, tree.Insert(network, mmdbtype.Map{"autonomous_system_number": mmdbtype.Uint32(64500)}))
	path := filepath.Join(tempDir(t), "asn.mmdb")
	f, err := os.Create(path)
	must(t, err)
	_, err = tree.WriteTo(f)
	must(t, err)
	must(t, f.Close())
	x := start(t, fmt.Sprintf("[reputation]\nasn_database = '%s'\n", path))
	x.send("192.0.2.7", "spam")
	x.send("198.51.100.7", "hello")
	events, err := x.daemon.WaitEvents(2)
	must(t, err)
	if events[0].Client.ASN != 64500 || events[1].Client.ASN != 0 {
		t.Errorf("logged as AS%d and AS%d", events[0].Client.ASN, events[1].Client.ASN)
	}
	if out := x.command("explain", "192.0.2.99"); !strings.Contains(out, "AS64500, weighing") {
		t.Errorf("explained as\n%s", out)
	}
	if out, _ := x.daemon.Command("check", "--postfix-config", x.ConfigDir()); !strings.Contains(out, "the database of autonomous systems is sound") {
		t.Errorf("checked as\n%s", out)
	}
}
