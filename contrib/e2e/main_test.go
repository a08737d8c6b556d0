// Package e2e tests ehlogate as an operator runs it: the real program beside a real Postfix, with
// real TLS and real kills.
//
//	client (any address, by PROXY line) --SMTP--> Postfix --milter--> spam filter, then ehlogate
//	                                                 \--memcache--> ehlogate's table
package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// ownBinary is the environment variable that names the program under test where there is no Go to
// build it with.
const ownBinary = "E2E_BINARY"

// binary is the program under test, built with the race detector; plain is the same without it, for
// tests of memory: the detector's own grows with every goroutine there has been.
var binary, plain string

func TestMain(m *testing.M) {
	if os.Getenv(attackVariable) != "" {
		// This process is an attacker, and needs no program to test.
		os.Exit(m.Run())
	}
	if plain = os.Getenv(ownBinary); plain != "" {
		// The program has been built already.
		binary = plain
		os.Exit(m.Run())
	}
	os.Exit(func() int {
		dir, err := mx.TempDir()
		defer os.RemoveAll(dir)
		if err == nil {
			binary, err = mx.Build(filepath.Join(dir, "race"), "-race")
		}
		if err == nil {
			plain, err = mx.Build(filepath.Join(dir, "plain"))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
		return m.Run()
	}())
}

// exchanger is a mail exchanger with all its parts running.
type exchanger struct {
	*mx.Postfix
	daemon *mx.Daemon
	filter *mx.Filter
	t      testing.TB
}

// tempDir is a directory that the users of Postfix can reach.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := mx.TempDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start starts Postfix, the filter and the daemon with further configuration in TOML, connected by
// "setup postfix --apply" with further flags.
func start(t testing.TB, toml string, setup ...string) *exchanger {
	t.Helper()
	x := prepare(t, toml)
	x.apply(setup...)
	x.run()
	return x
}

// run starts the daemon and Postfix.
func (x *exchanger) run() {
	x.t.Helper()
	must(x.t, x.daemon.Start())
	must(x.t, x.Postfix.Start())
	x.t.Cleanup(func() { must(x.t, x.Postfix.Stop()) })
}

// prepare makes all parts and starts the filter only.
func prepare(t testing.TB, toml string) *exchanger { return prepareOn(t, "", toml) }

// prepareOn is prepare with the URL of a store.
func prepareOn(t testing.TB, url, toml string) *exchanger {
	t.Helper()
	x := &exchanger{t: t}
	var err error
	x.Postfix, err = mx.NewPostfix(filepath.Join(tempDir(t), "postfix"))
	must(t, err)
	x.filter, err = mx.StartFilter()
	must(t, err)
	t.Cleanup(x.filter.Stop)
	x.daemon, err = mx.NewDaemon(binary, tempDir(t), url, toml)
	must(t, err)
	must(t, x.Set("smtpd_milters = "+x.filter.Addr()))
	t.Cleanup(func() {
		if err := x.daemon.Stop(); err != nil {
			t.Errorf("the daemon did not end well: %v\n%s", err, x.daemon.Log())
		}
		if t.Failed() {
			t.Logf("daemon:\n%s", x.daemon.Log())
		}
	})
	return x
}

func (x *exchanger) apply(flags ...string) {
	x.t.Helper()
	args := append([]string{"setup", "postfix", "--apply", "--mode", "protect", "--postfix-config", x.ConfigDir()}, flags...)
	if out, status := x.daemon.Command(args...); status != 0 {
		x.t.Fatalf("setup: %d: %s", status, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// send runs a session that uses TLS if it is offered and delivers one message; it returns whether
// TLS was offered.
func (x *exchanger) send(client, subject string) (offered bool) {
	x.t.Helper()
	offered, err := x.trySend(client, subject)
	must(x.t, err)
	return offered
}

func (x *exchanger) trySend(client, subject string) (offered bool, err error) {
	s, err := x.Dial(client)
	if err != nil {
		return false, err
	}
	defer s.Close()
	if err := s.UseTLS(); err != nil {
		return s.Offered, fmt.Errorf("TLS: %w", err)
	}
	if err := s.Deliver(message(subject)); err != nil {
		return s.Offered, err
	}
	return s.Offered, s.Quit()
}

func message(subject string) mx.Message {
	return mx.Message{From: "alice@sender.example", To: []string{"bob@mx.example"}, Subject: subject}
}

// offered connects and leaves, and says whether STARTTLS was offered.
func (x *exchanger) offered(client string) bool {
	x.t.Helper()
	s, err := x.Dial(client)
	must(x.t, err)
	defer s.Close()
	must(x.t, s.Quit())
	return s.Offered
}

// sendUntilWithheld sends spam until STARTTLS is no longer offered, and returns how many messages
// got TLS.
func (x *exchanger) sendUntilWithheld(client string) int {
	x.t.Helper()
	for n := range 10 {
		if !x.send(client, "spam") {
			return n
		}
	}
	x.t.Fatalf("%s sent 10 spam messages and is still offered STARTTLS", client)
	return 0
}

// command runs a command of the daemon that must succeed.
func (x *exchanger) command(args ...string) string {
	x.t.Helper()
	out, status := x.daemon.Command(args...)
	if status != 0 {
		x.t.Fatalf("ehlogate %v: %d: %s", args, status, out)
	}
	return out
}
