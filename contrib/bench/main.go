// Command bench measures what ehlogate costs a Postfix: messages per second through a private one,
// sent by Postfix's own smtp-source, with no milter, with a milter that does nothing, and with
// ehlogate learning from every message, on the embedded store and on a Redis beside it.
//
//	go run ./contrib/bench [-messages 10000] [-sessions 20] [-rounds 3]
//
// The four take turns in every round; the table has the medians and their ratio to no milter.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	gomilter "github.com/d--j/go-milter"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
)

func main() {
	messages := flag.Int("messages", 10_000, "messages a run")
	sessions := flag.Int("sessions", 20, "sessions at once")
	rounds := flag.Int("rounds", 3, "rounds")
	flag.Parse()
	if err := run(*messages, *sessions, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(messages, sessions, rounds int) error {
	dir, err := mx.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, err := mx.Build(dir)
	if err != nil {
		return err
	}
	noop, err := serveNoop()
	if err != nil {
		return err
	}
	redis, err := redisd.New(filepath.Join(dir, "redis"), "--appendonly", "yes")
	if err != nil {
		return err
	}
	if err := redis.Start(); err != nil {
		return err
	}
	defer redis.Stop()
	var daemons []*mx.Daemon
	for _, store := range []string{"", "redis://" + redis.Addr()} {
		own := filepath.Join(dir, fmt.Sprint("daemon", len(daemons)))
		if err := os.Mkdir(own, 0o755); err != nil {
			return err
		}
		d, err := mx.NewDaemon(binary, own, store, "")
		if err != nil {
			return err
		}
		if err := d.Start(); err != nil {
			return err
		}
		defer d.Stop()
		daemons = append(daemons, d)
	}
	postfix, err := mx.NewPostfix(filepath.Join(dir, "postfix"))
	if err != nil {
		return err
	}
	if err := postfix.Start(); err != nil {
		return err
	}
	defer postfix.Stop()
	// Every message has a verdict, so that ehlogate learns from each and waits for its commit.
	mail := filepath.Join(dir, "message")
	if err := os.WriteFile(mail, []byte("From: <alice@sender.example>\nTo: <bob@mx.example>\nSubject: hello\nX-Spam-Flag: NO\n\nHello\n"), 0o644); err != nil {
		return err
	}
	with := func(d *mx.Daemon) (milters, table string) {
		return fmt.Sprintf("inet:127.0.0.1:%d", d.Milter), fmt.Sprintf("socketmap:inet:127.0.0.1:%d:starttls", d.Socketmap)
	}
	type contender struct{ name, milters, table string }
	cases := []contender{{"no milter", "", ""}, {"a milter that does nothing", noop, ""}}
	for i, name := range []string{"ehlogate, embedded store", "ehlogate, Redis"} {
		milters, table := with(daemons[i])
		cases = append(cases, contender{name, milters, table})
	}
	rates := make([][]float64, len(cases))
	for range rounds {
		for i, c := range cases {
			if err := postfix.Set("smtpd_milters = "+c.milters, "smtpd_discard_ehlo_keyword_address_maps = "+c.table); err != nil {
				return err
			}
			if err := postfix.Reload(); err != nil {
				return err
			}
			time.Sleep(2 * time.Second) // the smtpd processes of the run before end
			began := time.Now()
			out, err := exec.Command("smtp-source", "-s", strconv.Itoa(sessions), "-m", strconv.Itoa(messages), "-F", mail,
				"-f", "alice@sender.example", "-t", "bob@mx.example", fmt.Sprintf("inet:127.0.0.1:%d", postfix.Port)).CombinedOutput()
			if err != nil {
				return fmt.Errorf("smtp-source: %w: %s", err, out)
			}
			rates[i] = append(rates[i], float64(messages)/time.Since(began).Seconds())
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%d MESSAGES, %d AT ONCE\tMESSAGES/S (MEDIAN OF %d)\tALL\tRATIO\n", messages, sessions, rounds)
	for i, c := range cases {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.2f\n", c.name, median(rates[i]), rates[i], median(rates[i])/median(rates[0]))
	}
	w.Flush()
	for i, d := range daemons {
		events, err := d.Events()
		if err != nil {
			return err
		}
		learnt, _ := d.Metric("ehlogate_lessons_total")
		commits, _ := d.Metric("ehlogate_store_commits_total")
		trips, _ := d.Metric("ehlogate_store_round_trips_total")
		late, _ := d.Metric("ehlogate_observations_late_total")
		fmt.Printf("%s: events %d of %d, lessons %.0f in %.0f commits or round trips, late %.0f\n", cases[2+i].name, len(events), rounds*messages, learnt, commits+trips, late)
	}
	return nil
}

// serveNoop serves a milter that asks for nothing and does nothing.
func serveNoop() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter { return gomilter.NoOpMilter{} })).Serve(l)
	return "inet:" + l.Addr().String(), nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
