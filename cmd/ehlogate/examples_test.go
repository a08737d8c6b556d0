package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"
)

// TestExamples runs the scripts whose lines --help quotes, each beside a Postfix and a daemon of
// its own.
func TestExamples(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "examples",
		Setup: func(env *testscript.Env) error {
			env.Setenv("STATE_DIRECTORY", env.WorkDir)
			env.Setenv("MAIL_CONFIG", filepath.Join(env.WorkDir, "etc"))
			for _, key := range []string{"MILTER_LISTEN", "TABLE_SOCKETMAP", "TABLE_MEMCACHE"} {
				port, err := freePort()
				if err != nil {
					return err
				}
				env.Setenv("EHLOGATE_"+key, "inet:127.0.0.1:"+port)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serving": serving, "postfix": private, "daemon": ownDaemon, "hears": hears, "someMail": traced,
		},
	})
}

// ownDaemon runs a daemon in mode protect until the script ends, which the commands then find.
func ownDaemon(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Setenv("EHLOGATE_HTTP_LISTEN", "unix:"+ts.MkAbs("api.sock"))
	ts.Setenv("EHLOGATE_VERDICT_LOCAL_FEED", "true")
	cmd := exec.Command("/bin/sh", "-c", "exec ehlogate serve --policy.mode protect --log.node mx1 --config ehlogate.toml")
	cmd.Dir = ts.Getenv("WORK")
	ts.Check(os.WriteFile(filepath.Join(cmd.Dir, "ehlogate.toml"), nil, 0o644))
	for _, name := range []string{"PATH", "STATE_DIRECTORY", "EHLOGATE_MILTER_LISTEN", "EHLOGATE_TABLE_SOCKETMAP", "EHLOGATE_TABLE_MEMCACHE", "EHLOGATE_HTTP_LISTEN", "EHLOGATE_VERDICT_LOCAL_FEED"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		ts.Logf("daemon: %s", &log)
	})
	serving(ts, false, []string{"api.sock"})
}

// hears COUNT CLASS ADDR [QUEUE-ID] has the daemon hear of messages of a client, ten a second where
// there are many.
func hears(ts *testscript.TestScript, _ bool, args []string) {
	count, err := strconv.Atoi(args[0])
	ts.Check(err)
	action := map[string]string{"spam": "reject", "ham": "no action"}[args[1]]
	client := through(ts.MkAbs("api.sock"))
	for n := range count {
		qid := fmt.Sprintf("%X", time.Now().UnixNano())
		if len(args) > 3 {
			qid = args[3]
		}
		r, err := client.Post("http://ehlogate/feed/verdict", "application/json", strings.NewReader(fmt.Sprintf(`{"ip":%q,"qid":%q,"action":%q}`, args[2], qid, action)))
		ts.Check(err)
		r.Body.Close()
		if r.StatusCode >= 300 {
			ts.Fatalf("message %d: %s", n, r.Status)
		}
		if count > 10 {
			time.Sleep(100 * time.Millisecond)
		}
	}
	// It waits three seconds for a session that it might belong to.
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		events, _ := os.ReadFile(ts.MkAbs("events.ndjson"))
		if bytes.Count(events, fmt.Appendf(nil, `"addr":%q`, args[2])) >= count {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the daemon does not learn; event log:\n%s", events)
		}
	}
}

// traced writes an event log of the mail of ten days.
func traced(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(someMail(3000)), 0o644))
}

// TestEachCommandHasAnExample and no script is of a command that is not there.
func TestEachCommandHasAnExample(t *testing.T) {
	var names []string
	var walk func(above string, all []*cli.Command)
	walk = func(above string, all []*cli.Command) {
		for _, c := range all {
			if name := above + c.Name; len(c.Subcommands) > 0 {
				walk(name+"-", c.Subcommands)
			} else if names = append(names, name); len(examplesOf(name)) == 0 {
				t.Errorf("%s: no example", name)
			}
		}
	}
	walk("", newApp(nil, nil).Commands)
	files, err := examples.ReadDir("examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(names, strings.TrimSuffix(f.Name(), ".txt")) {
			t.Errorf("examples/%s: no such command", f.Name())
		}
	}
}
