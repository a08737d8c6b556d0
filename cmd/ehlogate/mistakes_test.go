package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain builds the program for the scripts. It is not built with the race detector, with which
// each start of it would take a second; contrib/e2e has such a one.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ehlogate-scripts-")
	if err == nil {
		var out []byte
		if out, err = exec.Command("go", "build", "-o", dir, ".").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	status := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
	} else {
		os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		status = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(status)
}

// TestMistakes runs the scripts under testdata/mistakes: each is a mistake that a user makes, and
// the answer expected.
func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/mistakes/*.txt")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v, want 40 or more", len(files), err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/mistakes",
		Setup: func(env *testscript.Env) error {
			env.Setenv("STATE_DIRECTORY", env.WorkDir+"/state")
			port, err := freePort()
			env.Setenv("PORT", port)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails": fails, "serving": serving, "website": website, "postfix": private, "waits": waits,
		},
	})
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// fails STATUS PROGRAM ARG... runs a command that must end with this exit status, and say what went
// wrong without showing a stack.
func fails(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		ts.Fatalf("ended with %v, want exit status %d", err, want)
	}
}

// serving SOCKET waits until a daemon answers on a unix socket.
func serving(ts *testscript.TestScript, _ bool, args []string) {
	client := through(ts.MkAbs(args[0]))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		r, err := client.Get("http://ehlogate/healthz")
		if err == nil {
			r.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no daemon: %v", err)
		}
	}
}

// through is a client of the API on a unix socket.
func through(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
}

// waits ADDRESS waits until something listens there.
func waits(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", args[0])
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("nothing listens: %v", err)
		}
	}
}

// website serves a page of another program on $PORT.
func website(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := net.Listen("tcp", "127.0.0.1:"+ts.Getenv("PORT"))
	ts.Check(err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "<html>It works!</html>") })}
	go s.Serve(l)
	ts.Defer(func() { s.Close() })
}

// private DIR writes a small configuration of Postfix.
func private(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(os.WriteFile(filepath.Join(dir, "main.cf"), []byte("compatibility_level = 3.6\nmyhostname = mx.example\nsmtpd_tls_security_level = may\nmynetworks = 127.0.0.0/8\n"), 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "master.cf"), []byte("smtp inet n - n - - smtpd\ncleanup unix n - n - 0 cleanup\n"), 0o644))
}
