package mx

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Daemon is an ehlogate process with a directory of its own.
type Daemon struct {
	// Binary is the program, Dir its directory.
	Binary, Dir string
	// Store is where it keeps evidence, the embedded store in its directory if empty. It is for
	// Configure.
	Store string
	// Milter, Socketmap, Memcache and HTTP are its ports on 127.0.0.1.
	Milter, Socketmap, Memcache, HTTP int

	cmd  *exec.Cmd
	done chan error
	log  lockedBuffer
}

// Build builds the program from this module into a directory, with further flags of go build.
func Build(dir string, flags ...string) (binary string, err error) {
	binary = filepath.Join(dir, "ehlogate")
	args := append(append([]string{"build", "-o", binary}, flags...), "github.com/ehlogate/ehlogate/cmd/ehlogate")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("mx: build: %w\n%s", err, out)
	}
	return binary, nil
}

// NewDaemon writes a configuration with free ports into an empty directory; store is the URL of a
// Redis, or empty, and more is TOML put after it.
func NewDaemon(binary, dir, store, more string) (*Daemon, error) {
	ports, err := FreePorts(4)
	if err != nil {
		return nil, err
	}
	d := &Daemon{Binary: binary, Dir: dir, Store: store, Milter: ports[0], Socketmap: ports[1], Memcache: ports[2], HTTP: ports[3]}
	return d, d.Configure(more)
}

// Configure writes the configuration anew.
func (d *Daemon) Configure(more string) error {
	text := fmt.Sprintf("[milter]\nlisten = 'inet:127.0.0.1:%d'\n[table]\nsocketmap = 'inet:127.0.0.1:%d'\nmemcache = 'inet:127.0.0.1:%d'\n[http]\nlisten = 'inet:127.0.0.1:%d'\n[store]\nurl = '%s'\n%s",
		d.Milter, d.Socketmap, d.Memcache, d.HTTP, cmp.Or(d.Store, "embedded:"+d.data()), more)
	return os.WriteFile(d.Config(), []byte(text), 0o644)
}

// data is the directory of its state.
func (d *Daemon) data() string { return filepath.Join(d.Dir, "data") }

// FeedToken is the token with which filters post verdicts. Before the first start it is made, as an
// operator may do.
func (d *Daemon) FeedToken() (string, error) {
	path := filepath.Join(d.data(), "feed-token")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		b = []byte("a token of these tests")
		err = errors.Join(os.MkdirAll(d.data(), 0o750), os.WriteFile(path, b, 0o600))
	}
	return strings.TrimSpace(string(b)), err
}

// Config is the configuration file.
func (d *Daemon) Config() string { return filepath.Join(d.Dir, "ehlogate.toml") }

// noSleep keeps the race detector, where the program was built with it, from sleeping for a second
// at each end.
const noSleep = "GORACE=atexit_sleep_ms=0"

// Start starts it and waits until it answers.
func (d *Daemon) Start() error {
	return d.StartAs(exec.Command(d.Binary, "serve", "--config", d.Config()))
}

// StartAs starts it as another command line and waits until it answers.
func (d *Daemon) StartAs(cmd *exec.Cmd) error {
	if err := os.MkdirAll(d.data(), 0o750); err != nil {
		return err
	}
	cmd.Env = append(cmd.Environ(), "STATE_DIRECTORY="+d.data(), noSleep)
	cmd.Stdout, cmd.Stderr = &d.log, &d.log
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	d.cmd, d.done = cmd, done
	go func() { done <- cmd.Wait() }()
	return waitFor(func() error {
		select {
		case err := <-done:
			done <- err
			return fmt.Errorf("mx: the daemon ended: %v\n%s", err, d.Log())
		default:
		}
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", d.HTTP))
		if err == nil {
			r.Body.Close()
		}
		return err
	})
}

// Signal sends it a signal.
func (d *Daemon) Signal(s syscall.Signal) error { return d.cmd.Process.Signal(s) }

// Pid is its process id.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// State is the state of its process as ps(1) has it, T when it is stopped.
func (d *Daemon) State() byte {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.Pid()))
	_, after, ok := bytes.Cut(b, []byte(") "))
	if !ok || len(after) == 0 {
		return 0
	}
	return after[0]
}

// Kill kills it with SIGKILL.
func (d *Daemon) Kill() {
	d.cmd.Process.Kill()
	<-d.done
	d.cmd = nil
}

// Stop stops it with SIGTERM and returns its exit error.
func (d *Daemon) Stop() error {
	if d.cmd == nil {
		return nil
	}
	d.Signal(syscall.SIGTERM)
	select {
	case err := <-d.done:
		d.cmd = nil
		return err
	case <-time.After(patience):
		d.Kill()
		return fmt.Errorf("mx: the daemon did not stop\n%s", d.Log())
	}
}

// Log is what it has logged so far.
func (d *Daemon) Log() string { return d.log.String() }

// Command runs one of its commands against it and returns what that printed and its exit status.
func (d *Daemon) Command(args ...string) (out string, status int) {
	cmd := exec.Command(d.Binary, append(args, "--config", d.Config())...)
	cmd.Env = append(cmd.Environ(), "STATE_DIRECTORY="+d.data(), noSleep)
	b, _ := cmd.CombinedOutput()
	return string(b), cmd.ProcessState.ExitCode()
}

// Lookup is a line of "lookup --json".
type Lookup struct {
	Addr, Tier, STARTTLS, Why string
	Score                     float64
}

// Lookup asks it about an address.
func (d *Daemon) Lookup(addr string) (l Lookup, err error) {
	out, status := d.Command("lookup", "--json", addr)
	if status != 0 {
		return l, fmt.Errorf("mx: lookup %s: status %d: %s", addr, status, out)
	}
	return l, json.Unmarshal([]byte(out), &l)
}

// Event is a line of the event log.
type Event struct {
	Time, Node, Event, Session string
	QueueID                    string `json:"queue_id"`
	Client                     struct {
		Addr, Name string
		Port       int
		ASN        uint32
	}
	HELO, STARTTLS string
	InClear        bool `json:"in_clear"`
	TLS            *struct {
		Version, Cipher string
		Bits            int
		CertSubject     string `json:"cert_subject"`
	}
	FromDomain    string `json:"from_domain"`
	Rcpts         int
	RcptsRejected int     `json:"rcpts_rejected"`
	HamShare      float64 `json:"ham_share"`
	Verdict       Verdict
	// Said is what each source said, where there were several; Was what a correction's verdict was
	// before.
	Said []Verdict
	Was  *Verdict
	Of   string
	Auth struct {
		SPF, DKIM, DMARC string
	}
	TLSTrouble string `json:"tls_trouble"`
	Reputation struct {
		Score       float64
		Tier, Would string
	}
	Outcome string
}

// Verdict is a verdict in the event log.
type Verdict struct {
	Class, Source, Reason string
	Score, Weight         float64
}

// Events are the lines of the event log so far. Every line must be an object of the known shape.
func (d *Daemon) Events() ([]Event, error) {
	b, err := os.ReadFile(filepath.Join(d.data(), "events.ndjson"))
	if err != nil {
		return nil, err
	}
	var events []Event
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		var e Event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("mx: event %q: %w", sc.Text(), err)
		}
		events = append(events, e)
	}
	return events, sc.Err()
}

// WaitEvents waits until the event log has n lines and returns them; more than n is an error.
func (d *Daemon) WaitEvents(n int) (events []Event, err error) {
	err = waitFor(func() error {
		if events, err = d.Events(); err == nil && len(events) < n {
			err = fmt.Errorf("mx: %d events, want %d", len(events), n)
		}
		return err
	})
	if err == nil && len(events) > n {
		err = fmt.Errorf("mx: %d events, want %d", len(events), n)
	}
	return events, err
}

// Metric is the sum of a metric's samples at /metrics.
func (d *Daemon) Metric(name string) (sum float64, err error) {
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", d.HTTP))
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	for line := range strings.Lines(string(b)) {
		if labels, ok := strings.CutPrefix(line, name); ok && (labels[0] == '{' || labels[0] == ' ') {
			var v float64
			if _, err := fmt.Sscan(labels[strings.LastIndexByte(labels, ' ')+1:], &v); err == nil {
				sum += v
			}
		}
	}
	return sum, err
}

// lockedBuffer keeps a process's output while others read it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
