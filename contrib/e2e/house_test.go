package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestTheThreatModelHasItsTests: what contrib/SECURITY.md says of tests is so.
func TestTheThreatModelHasItsTests(t *testing.T) {
	text, err := os.ReadFile("../SECURITY.md")
	must(t, err)
	out, err := exec.Command("grep", "-rhoE", "--include=*_test.go", "^func (Test|Fuzz)[A-Za-z0-9]+", "../..").Output()
	must(t, err)
	named := regexp.MustCompile(`\b(Test|Fuzz)[A-Z][A-Za-z0-9]+`).FindAllString(string(text), -1)
	if len(named) < 30 {
		t.Errorf("%d tests are named", len(named))
	}
	for _, name := range named {
		if !strings.Contains(string(out)+"\n", "func "+name+"\n") {
			t.Errorf("there is no %s", name)
		}
	}
}

// TestImportsPointDown holds the floors of the house: what each package may import of ours.
func TestImportsPointDown(t *testing.T) {
	const module = "github.com/ehlogate/ehlogate/"
	allowed := map[string][]string{
		"policy/reputation": {},
		"policy":            {"policy/reputation"},
		"policy/behaviour":  {"policy", "policy/reputation"},
		"policy/correlate":  {"policy", "policy/reputation"},
		"policy/deadline":   {},
		"policy/fault":      {},
		"policy/regular":    {},
		"policy/eventlog":   {"policy", "policy/reputation", "policy/fault", "policy/regular"},
		"policy/asn":        {},
		// What was heard is counted, whatever the store is that evidence is in.
		"policy/ledger":       {"policy", "policy/regular", "policy/reputation", "policy/store/bolted"},
		"policy/table":        {"policy", "policy/deadline", "policy/reputation"},
		"policy/store/bolted": {"policy/regular"},
		"policy/store":        {"policy", "policy/reputation", "policy/fault", "policy/regular", "policy/store/bolted"},
		// One store knows nothing of the other.
		"policy/store/redis": {"policy", "policy/reputation", "policy/fault", "policy/regular", "policy/store/bolted"},
		// Who may connect is decided before anything is understood.
		"cmd/ehlogate/internal/guard": {},
		"milter/verdict":              {"policy", "policy/reputation"},
		// The log needs to know what a refusal means; reports need nothing of the rest.
		"milter/verdict/maillog": {"milter/verdict", "policy", "policy/reputation", "policy/regular"},
		"milter/verdict/report":  {"policy", "policy/reputation"},
		"milter":                 {"milter/verdict", "policy/behaviour", "policy", "policy/deadline", "policy/reputation"},
		// What is heard meets here, and knows neither sockets nor the MTA.
		"cmd/ehlogate/internal/account": {"policy/eventlog", "policy/fault", "policy/ledger", "policy/regular", "policy", "policy/reputation", "policy/store/bolted"},
		"cmd/ehlogate/internal/intake":  {"policy/behaviour", "policy/correlate", "policy/eventlog", "policy/fault", "policy/regular", "policy", "policy/reputation"},
	}
	for name, may := range allowed {
		out, err := exec.Command("go", "list", "-deps", module+name).Output()
		must(t, err)
		for line := range strings.Lines(string(out)) {
			dep, ours := strings.CutPrefix(strings.TrimSpace(line), module)
			ok := !ours || dep == name
			for _, m := range may {
				ok = ok || dep == m
			}
			if !ok {
				t.Errorf("%s imports %s; it may import %v", name, dep, may)
			}
		}
	}
	// The judgement has no I/O.
	out, err := exec.Command("go", "list", "-f", "{{join .Imports \"\\n\"}}", module+"policy", module+"policy/reputation", module+"policy/behaviour", module+"policy/correlate").Output()
	must(t, err)
	for line := range strings.Lines(string(out)) {
		switch pkg := strings.TrimSpace(line); pkg {
		case "os", "net", "net/http", "io", "log/slog":
			t.Errorf("the judgement imports %s", pkg)
		}
	}
}
