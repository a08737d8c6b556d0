// Command demo shows ehlogate at work beside a private Postfix; contrib/demo/run starts it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// client is one of the demo's SMTP clients, at a loopback address of its own.
type client struct {
	addr, what string
	tls        bool
	subjects   []string
}

func repeat(subject string, n int) []string { return strings.Fields(strings.Repeat(subject+" ", n)) }

var clients = []client{
	{"127.20.0.2", "honest, uses TLS", true, repeat("hello", 6)},
	{"127.30.0.2", "honest, without TLS", false, repeat("hello", 4)},
	{"127.50.0.2", "a provider with some spam", true, append(repeat("hello", 9), "spam", "hello")},
	{"127.10.0.2", "spams over TLS", true, repeat("spam", 7)},
	{"127.10.0.3", "its fresh neighbour, spams", true, repeat("spam", 3)},
	{"127.40.0.2", "spams without TLS", false, repeat("spam", 5)},
	{"127.60.0.2", "comes for the first time", true, nil},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := mx.TempDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Println("Building ehlogate and starting it beside a private Postfix on loopback ...")
	binary, err := mx.Build(dir)
	if err != nil {
		return err
	}
	filter, err := mx.StartFilter()
	if err != nil {
		return err
	}
	defer filter.Stop()
	// The clients come from loopback, which is exempt by default.
	daemon, err := mx.NewDaemon(binary, dir, "", "[policy]\nexempt = []\n")
	if err != nil {
		return err
	}
	postfix, err := mx.NewPostfix(filepath.Join(dir, "postfix"))
	if err != nil {
		return err
	}
	if err := postfix.Set("smtpd_milters = " + filter.Addr()); err != nil {
		return err
	}
	if out, status := daemon.Command("setup", "postfix", "--apply", "--mode", "protect", "--postfix-config", postfix.ConfigDir()); status != 0 {
		return fmt.Errorf("setup: %s", out)
	}
	if err := daemon.Start(); err != nil {
		return err
	}
	defer daemon.Stop()
	if err := postfix.Start(); err != nil {
		return err
	}
	defer postfix.Stop()
	return show(ctx, postfix, daemon)
}

// show lets the clients send and prints what became of each.
func show(ctx context.Context, postfix *mx.Postfix, daemon *mx.Daemon) error {
	for _, c := range clients {
		fmt.Printf("%s (%s) sends %d messages\n", c.addr, c.what, len(c.subjects))
		for _, subject := range c.subjects {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := c.send(postfix, subject); err != nil {
				return fmt.Errorf("%s: %w\n%s", c.addr, err, postfix.Log())
			}
		}
	}
	events, err := daemon.Events()
	if err != nil {
		return err
	}
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CLIENT\tWHAT IT DOES\tMESSAGES\tOVER TLS\tSPAM\tHAM\tSCORE\tTIER\tNEXT EHLO")
	for _, c := range clients {
		var messages, overTLS, spam, ham int
		for _, e := range events {
			if e.Client.Addr != c.addr || e.Event != "message" {
				continue
			}
			messages++
			spam += count(e.Verdict.Class == "spam")
			ham += count(e.Verdict.Class == "ham")
			overTLS += count(e.TLS != nil)
		}
		l, err := daemon.Lookup(c.addr)
		if err != nil {
			return err
		}
		s, err := postfix.DialFrom(c.addr)
		if err != nil {
			return err
		}
		s.Quit()
		next := "no STARTTLS"
		if s.Offered {
			next = "STARTTLS"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%.2f\t%s\t%s\n", c.addr, c.what, messages, overTLS, spam, ham, l.Score, l.Tier, next)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	const why = "127.10.0.3"
	out, status := daemon.Command("explain", why)
	if status != 0 {
		return fmt.Errorf("explain: status %d: %s", status, out)
	}
	fmt.Printf("\n$ ehlogate explain %s\n%s", why, out)
	// What is heard is counted once a second.
	time.Sleep(2 * time.Second)
	if out, status = daemon.Command("report", "--since", "1h", "--by", "starttls"); status != 0 {
		return fmt.Errorf("report: status %d: %s", status, out)
	}
	fmt.Printf("\n$ ehlogate report --since 1h --by starttls\n%s", out)
	return nil
}

func (c client) send(postfix *mx.Postfix, subject string) error {
	s, err := postfix.DialFrom(c.addr)
	if err != nil {
		return err
	}
	defer s.Close()
	if c.tls {
		if err := s.UseTLS(); err != nil {
			return err
		}
	}
	if err := s.Deliver(mx.Message{From: "alice@sender.example", To: []string{"bob@mx.example"}, Subject: subject}); err != nil {
		return err
	}
	return s.Quit()
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}
