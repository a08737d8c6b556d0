package systems

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/filters"
	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// host is the mail system under test.
type host struct {
	t        *testing.T
	name     string
	dir      string
	services []service
	daemon   *mx.Daemon
}

// overlay is what every system has at the beginning of its main.cf: a place to deliver to, users
// who can log in, and no limits that a test would run into.
const overlay = `# This part is the test's own.
compatibility_level = 3.6
myhostname = mx.example
mydestination =
inet_protocols = ipv4
smtpd_peername_lookup = no
maillog_file = /var/log/mail/mail.log
maillog_file_prefixes = /var/log/mail
postscreen_greet_wait = 1s
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
in_flow_delay = 0
virtual_mailbox_domains = mx.example
virtual_mailbox_base = /var/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 1
virtual_transport = virtual
cyrus_sasl_config_path = /etc/postfix/sasl
smtpd_sasl_local_domain = mx.example
smtpd_sender_login_maps = inline:{alice@mx.example=alice@mx.example}
# This part is the system's.
`

// newHost lays the system out in this process's own namespaces.
func newHost(t *testing.T, name string) *host {
	dir, err := mx.TempDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{t: t, name: name, dir: dir}
	h.services, err = readServices(filepath.Join(name, "services"))
	must(t, err)
	h.mount("/etc/postfix", true)
	for _, at := range []string{"/var/spool/postfix", "/var/lib/postfix", "/var/mail", "/var/log", "/etc/ehlogate"} {
		h.mount(at, false)
	}
	must(t, os.Mkdir("/var/log/mail", 0o755))
	must(t, os.Chown("/var/mail", 65534, 65534))
	h.run("chown", "postfix", "/var/lib/postfix")
	h.configure()
	h.users()
	h.startFilters()
	return h
}

// mount puts a directory of our own in the place of one of the host's, with its files if asked for.
func (h *host) mount(at string, keep bool) {
	own := filepath.Join(h.dir, strings.ReplaceAll(at, "/", "_"))
	must(h.t, os.MkdirAll(own, 0o755))
	must(h.t, os.MkdirAll(at, 0o755))
	if keep {
		must(h.t, os.CopyFS(own, os.DirFS(at)))
	}
	must(h.t, syscall.Mount(own, at, "", syscall.MS_BIND, ""))
	h.t.Cleanup(func() { syscall.Unmount(at, syscall.MNT_DETACH) })
}

func (h *host) run(name string, args ...string) string {
	h.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, out, h.log())
	}
	return string(out)
}

func (h *host) log() string {
	b, _ := os.ReadFile("/var/log/mail/mail.log")
	return string(b)
}

// configure writes main.cf and master.cf: what is the test's own comes first, so that the system's
// ends as it does.
func (h *host) configure() {
	mainCF, master := h.text("main.cf"), h.text("master.cf")
	var own strings.Builder
	for line := range strings.Lines(mx.Services) {
		words := strings.Fields(line)
		if !defines(master, words[0], words[1]) {
			own.WriteString(line)
		}
	}
	// What the system sets itself is not set twice.
	var over strings.Builder
	for line := range strings.Lines(overlay) {
		name, _, ok := strings.Cut(line, " = ")
		if !ok || !regexp.MustCompile("(?m)^"+regexp.QuoteMeta(name)+" *=").MatchString(mainCF) {
			over.WriteString(line)
		}
	}
	must(h.t, os.WriteFile("/etc/postfix/main.cf", []byte(over.String()+mainCF), 0o644))
	must(h.t, os.WriteFile("/etc/postfix/master.cf", []byte(own.String()+master), 0o644))
	err := fs.WalkDir(os.DirFS(h.name), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || path == "main.cf" || path == "master.cf" || path == "services" || path == "expect" {
			return err
		}
		must(h.t, os.MkdirAll(filepath.Dir(filepath.Join("/etc/postfix", path)), 0o755))
		return os.WriteFile(filepath.Join("/etc/postfix", path), []byte(h.text(path)), 0o644)
	})
	must(h.t, err)
	long := time.Now().Add(-time.Hour)
	for _, name := range []string{"main.cf", "master.cf"} {
		must(h.t, os.Chtimes("/etc/postfix/"+name, long, long))
	}
	chain, err := mx.SelfSigned("mx.example")
	must(h.t, err)
	must(h.t, os.WriteFile("/etc/postfix/chain.pem", []byte(chain), 0o600))
}

func (h *host) text(name string) string {
	b, err := os.ReadFile(filepath.Join(h.name, name))
	must(h.t, err)
	return string(b)
}

func defines(master, name, kind string) bool {
	for line := range strings.Lines(master) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == name && f[1] == kind {
			return true
		}
	}
	return false
}

// users makes a user who can log in, with Cyrus SASL's own database, within a chroot and without.
func (h *host) users() {
	must(h.t, os.MkdirAll("/etc/postfix/sasl", 0o755))
	must(h.t, os.WriteFile("/etc/postfix/sasl/smtpd.conf", []byte("pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN\nsasldb_path: /etc/postfix/sasl/db\n"), 0o644))
	h.run("sh", "-c", "echo secret | saslpasswd2 -p -c -f /etc/postfix/sasl/db -u mx.example alice")
	h.run("chown", "postfix", "/etc/postfix/sasl/db")
	h.run("sh", "-c", "mkdir -p /var/spool/postfix/etc/postfix/sasl && cp -p /etc/postfix/sasl/db /var/spool/postfix/etc/postfix/sasl/")
}

// startFilters starts the filters that the system's files name: a milter, and amavisd-new between
// ports 10024 and 10025.
func (h *host) startFilters() {
	mainCF := h.text("main.cf") + h.text("master.cf")
	if strings.Contains(mainCF, ":11332") {
		f, err := mx.StartFilterAt("tcp", "127.0.0.1:11332")
		must(h.t, err)
		h.t.Cleanup(f.Stop)
	}
	if strings.Contains(mainCF, "unix:rspamd/milter.sock") {
		must(h.t, os.MkdirAll("/var/spool/postfix/rspamd", 0o755))
		f, err := mx.StartFilterAt("unix", "/var/spool/postfix/rspamd/milter.sock")
		must(h.t, err)
		must(h.t, os.Chmod("/var/spool/postfix/rspamd/milter.sock", 0o666))
		h.t.Cleanup(f.Stop)
	}
	if strings.Contains(mainCF, ":10024") {
		dir := filepath.Join(h.dir, "amavis")
		must(h.t, os.MkdirAll(dir, 0o755))
		a, err := filters.StartAmavisAt(dir, "D_PASS", 10024, 10025)
		must(h.t, err)
		h.t.Cleanup(a.Stop)
	}
}

// ehlogate runs a command of the program as an operator does.
func (h *host) ehlogate(args ...string) (out string, status int) {
	h.t.Helper()
	cmd := exec.Command(os.Getenv(binaryAt), args...)
	cmd.Env = append(os.Environ(), "STATE_DIRECTORY="+h.dir+"/data")
	b, _ := cmd.CombinedOutput()
	return string(b), cmd.ProcessState.ExitCode()
}

// startDaemon starts the daemon with its defaults.
func (h *host) startDaemon() {
	h.daemon = &mx.Daemon{Binary: os.Getenv(binaryAt), Dir: h.dir, HTTP: 8896}
	must(h.t, h.daemon.StartAs(exec.Command(h.daemon.Binary, "serve")))
}

// delivered waits for the message with a subject and returns it.
func (h *host) delivered(subject string) (string, error) {
	deadline := time.Now().Add(15 * time.Second)
	for {
		files, _ := filepath.Glob("/var/mail/box/new/*")
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.Contains(string(b), "Subject: "+subject+"\n") {
				return string(b), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no message with subject %q came in", subject)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
