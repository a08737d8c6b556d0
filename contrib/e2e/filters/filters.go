// Package filters runs real spam filters for tests, each private to a directory and on loopback
// only: rspamd with its milter proxy, and SpamAssassin's spamd behind spamass-milter.
//
// A word in the Subject gives a message a score, so that a test can have a message of any strength:
// "score9" is one of 9.
package filters

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// Scores are the scores that a word in the Subject can give.
var Scores = []int{2, 3, 5, 9, 20}

// GTUBE is the generic test of unsolicited bulk email, which every filter takes for spam.
const GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

// patience is how long a filter may take to listen: rspamd takes ten seconds.
const patience = time.Minute

// process is a program under test, with what it printed.
type process struct {
	cmd  *exec.Cmd
	out  *os.File
	done chan error
}

func start(dir string, name string, args ...string) (*process, error) {
	out, err := os.Create(filepath.Join(dir, filepath.Base(name)+".out"))
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(name, args...), out: out, done: make(chan error, 1)}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("filters: %w; contrib/test installs what the tests need", err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}

// listens waits until a port is listened on.
func (p *process) listens(port int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return nil
		}
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("filters: %s ended: %v\n%s", p.cmd.Path, err, p.output())
		case <-ctx.Done():
			p.stop()
			return fmt.Errorf("filters: %s does not listen: %w\n%s", p.cmd.Path, err, p.output())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Pid is its process id.
func (p *process) Pid() int { return p.cmd.Process.Pid }

func (p *process) output() string {
	b, _ := os.ReadFile(p.out.Name())
	return string(b)
}

func (p *process) stop() {
	p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
	p.out.Close()
}

func write(dir string, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// own gives a directory and all in it to a user.
func own(dir, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("filters: %w; contrib/test installs what the tests need", err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, uid, gid)
	})
}

// Rspamd is a private rspamd.
type Rspamd struct {
	Port int
	dir  string
	*process
}

// silent are rspamd's modules that ask the network, or say something of every mail of a test.
var silent = []string{"rbl", "fuzzy_check", "dmarc", "asn", "phishing", "mx_check", "url_redirector", "antivirus", "neural", "ratelimit", "replies", "arc", "hfilter", "mid",
	"history_redis", "clickhouse", "elastic", "dkim_signing", "spamassassin", "surbl", "once_received", "bayes_expiry"}

// StartRspamd starts one in an empty directory, with a Redis for greylisting; more are further
// files of its configuration.
func StartRspamd(dir string, redis int, more map[string]string) (*Rspamd, error) {
	ports, err := mx.FreePorts(1)
	if err != nil {
		return nil, err
	}
	r := &Rspamd{Port: ports[0], dir: dir}
	files := map[string]string{
		"conf/local.d/options.inc":           "dns { nameserver = [\"127.0.0.1:1\"]; timeout = 0.1s; retransmits = 1; }\npidfile = false;\nlocal_addrs = [127.0.0.0/8];\n",
		"conf/local.d/logging.inc":           "type = \"console\"; level = \"warning\";\n",
		"conf/local.d/worker-normal.inc":     "enabled = false;\n",
		"conf/local.d/worker-controller.inc": "enabled = false;\n",
		"conf/local.d/worker-fuzzy.inc":      "enabled = false;\n",
		"conf/local.d/worker-proxy.inc":      fmt.Sprintf("bind_socket = \"127.0.0.1:%d\"; count = 1; milter = yes; timeout = 10s;\nupstream \"local\" { default = yes; self_scan = yes; }\n", r.Port),
		"conf/local.d/greylist.conf":         fmt.Sprintf("servers = \"127.0.0.1:%d\"; timeout = 1min; whitelist_symbols = [\"TEST_SCORE9\"];\n", redis),
	}
	for _, m := range silent {
		files["conf/local.d/"+m+".conf"] = "enabled = false;\n"
	}
	var rules strings.Builder
	for _, n := range Scores {
		fmt.Fprintf(&rules, "config.regexp[\"TEST_SCORE%d\"] = { re = [[Subject=/\\bscore%d\\b/H]], score = %d.0 }\n", n, n, n)
	}
	files["conf/rspamd.local.lua"] = rules.String()
	for name, text := range more {
		files["conf/"+name] = text
	}
	for _, d := range []string{"db", "run", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := write(dir, files); err != nil {
		return nil, err
	}
	if err := own(dir, "_rspamd"); err != nil {
		return nil, err
	}
	args := []string{"-f", "-u", "_rspamd", "-g", "_rspamd", "--var=LOCAL_CONFDIR=" + dir + "/conf", "--var=DBDIR=" + dir + "/db", "--var=RUNDIR=" + dir + "/run", "--var=LOGDIR=" + dir + "/log"}
	if r.process, err = start(dir, "rspamd", args...); err != nil {
		return nil, err
	}
	return r, r.listens(r.Port)
}

// Milter is its milter as smtpd_milters wants it.
func (r *Rspamd) Milter() string { return fmt.Sprintf("inet:127.0.0.1:%d", r.Port) }

// Stop stops it.
func (r *Rspamd) Stop() { r.stop() }

// SpamAssassin is a private spamd behind a private spamass-milter.
type SpamAssassin struct {
	// Spamd is the port of spamd.
	Spamd         int
	port          int
	spamd, milter *process
}

// StartSpamAssassin starts them in an empty directory; a message of the score reject or more is
// rejected.
func StartSpamAssassin(dir string, reject int) (*SpamAssassin, error) {
	ports, err := mx.FreePorts(2)
	if err != nil {
		return nil, err
	}
	// Nothing but the words: what the shipped rules think of a test's message is not the test's.
	rules := []string{"--cf=required_score 5", "--cf=use_bayes 0"}
	for _, name := range []string{"NO_RELAYS", "NO_RECEIVED", "ALL_TRUSTED", "RDNS_NONE"} {
		rules = append(rules, "--cf=score "+name+" 0")
	}
	for _, n := range Scores {
		rules = append(rules, fmt.Sprintf("--cf=header TEST_SCORE%d Subject =~ /\\bscore%d\\b/", n, n), fmt.Sprintf("--cf=score TEST_SCORE%d %d", n, n))
	}
	s := &SpamAssassin{Spamd: ports[0], port: ports[1]}
	if s.spamd, err = start(dir, "/usr/sbin/spamd", append(rules, "--local", "--nouser-config", "--listen=127.0.0.1", "--port="+strconv.Itoa(ports[0]), "--max-children=2", "--username=nobody",
		"--syslog=stderr", "--helper-home-dir="+dir)...); err != nil {
		return nil, err
	}
	if err := s.spamd.listens(ports[0]); err != nil {
		return nil, err
	}
	if s.milter, err = start(dir, "/usr/sbin/spamass-milter", "-p", fmt.Sprintf("inet:%d@127.0.0.1", s.port), "-r", strconv.Itoa(reject), "--", "-d", "127.0.0.1", "-p", strconv.Itoa(ports[0])); err != nil {
		s.spamd.stop()
		return nil, err
	}
	return s, s.milter.listens(s.port)
}

// Milter is its milter as smtpd_milters wants it.
func (s *SpamAssassin) Milter() string { return fmt.Sprintf("inet:127.0.0.1:%d", s.port) }

// Stop stops both.
func (s *SpamAssassin) Stop() {
	s.milter.stop()
	s.spamd.stop()
}
