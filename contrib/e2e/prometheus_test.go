package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// startPrometheus starts Debian's Prometheus on a daemon, with the rules of contrib/grafana.
func startPrometheus(t *testing.T, d *mx.Daemon) (query func(expr string) (samples int, failed string)) {
	dir := tempDir(t)
	rules, err := filepath.Abs("../grafana/rules.yml")
	must(t, err)
	config := filepath.Join(dir, "prometheus.yml")
	must(t, os.WriteFile(config, []byte(fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%s]\nscrape_configs:\n  - job_name: ehlogate\n    static_configs: [{targets: ['127.0.0.1:%d']}]\n", rules, d.HTTP)), 0o644))
	if out, err := exec.Command("promtool", "check", "config", config).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v: %s", err, out)
	}
	ports, err := mx.FreePorts(1)
	must(t, err)
	cmd := exec.Command("prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", fmt.Sprintf("127.0.0.1:%d", ports[0]))
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return func(expr string) (samples int, failed string) {
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/api/v1/query?query=%s", ports[0], url.QueryEscape(expr)))
		if err != nil {
			return 0, err.Error()
		}
		defer r.Body.Close()
		var answer struct {
			Status, Error string
			Data          struct{ Result []any }
		}
		if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || answer.Status != "success" {
			return 0, fmt.Sprint(err, answer.Error)
		}
		return len(answer.Data.Result), ""
	}
}

// TestPrometheusHasWhatIsNamed: every metric that the rules and the dashboard name exists and has
// data, every expression of the dashboard can be asked, and the conventions of Prometheus are kept.
func TestPrometheusHasWhatIsNamed(t *testing.T) {
	t.Parallel()
	x := start(t, "")
	x.send("198.51.100.7", "spam")
	x.send("198.51.100.8", "hello")
	query := startPrometheus(t, x.daemon)
	for range 30 {
		if n, _ := query(`ehlogate_heard_messages_total{class="spam"} > 0`); n > 0 {
			break
		}
		time.Sleep(time.Second)
	}
	dashboard, err := os.ReadFile("../grafana/dashboard.json")
	must(t, err)
	rules, err := os.ReadFile("../grafana/rules.yml")
	must(t, err)
	names := regexp.MustCompile(`\behlogate_[a-z_]+`).FindAllString(string(dashboard)+string(rules), -1)
	slices.Sort(names)
	if names = slices.Compact(names); len(names) < 15 {
		t.Errorf("only %v are named", names)
	}
	for _, name := range names {
		if n, failed := query(name); n == 0 {
			t.Errorf("%s has no data %s", name, failed)
		}
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	must(t, json.Unmarshal(dashboard, &board))
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$instance", ".*", "$__rate_interval", "1m").Replace(target.Expr)
			if _, failed := query(expr); failed != "" {
				t.Errorf("panel %q: %s: %s", p.Title, expr, failed)
			}
		}
	}
	t.Run("the conventions", func(t *testing.T) {
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", x.daemon.HTTP))
		must(t, err)
		defer r.Body.Close()
		lint := exec.Command("promtool", "check", "metrics")
		lint.Stdin = r.Body
		out, _ := lint.CombinedOutput()
		for line := range strings.Lines(string(out)) {
			// Its name was chosen before, and others' checks use it.
			if !strings.HasPrefix(line, "ehlogate_cpu_seconds ") {
				t.Errorf("promtool: %s", line)
			}
		}
	})
}
