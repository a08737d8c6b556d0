package mx

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Sendmail is a private Sendmail: Debian's packages, unpacked and not installed, under a directory
// of its own. It has no PROXY protocol, so that its clients come from loopback addresses.
type Sendmail struct {
	Dir string
	// Port takes clients on loopback, Port6 those of ::1, UserPort those of the host's own users.
	Port, Port6, UserPort int

	packages string
	cmd      *exec.Cmd
	syslog   *net.UnixConn
}

// unpacked is a directory of programs that contrib/test has unpacked, with a port for them.
func unpacked(name string) (dir string, port int, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", 0, err
	}
	dir = filepath.Join(cache, "ehlogate", name)
	if _, err := os.Stat(filepath.Join(dir, "unpacked")); err != nil {
		return "", 0, fmt.Errorf("mx: %w; contrib/test unpacks it", err)
	}
	ports, err := FreePorts(1)
	if err != nil {
		return "", 0, err
	}
	return dir, ports[0], nil
}

// sendmailMC is what every private Sendmail has; %[1]s is its directory, %[2]d, %[4]d and %[5]d its
// ports, %[3]s that of the packages.
const sendmailMC = "divert(0)dnl\n" +
	"include(`%[3]s/usr/share/sendmail/cf/m4/cf.m4')dnl\n" +
	"OSTYPE(`linux')dnl\n" +
	"define(`QUEUE_DIR', `%[1]s/queue')dnl\n" +
	"define(`confPID_FILE', `%[1]s/pid')dnl\n" +
	"define(`ALIAS_FILE', `')dnl\n" +
	"define(`STATUS_FILE', `%[1]s/statistics')dnl\n" +
	"define(`HELP_FILE', `')dnl\n" +
	"define(`confSERVER_CERT', `%[1]s/chain.pem')dnl\n" +
	"define(`confSERVER_KEY', `%[1]s/chain.pem')dnl\n" +
	"define(`confCACERT', `%[1]s/chain.pem')dnl\n" +
	"define(`confCACERT_PATH', `%[1]s')dnl\n" +
	"define(`LOCAL_MAILER_PATH', `/bin/dd')dnl\n" +
	"define(`LOCAL_MAILER_ARGS', `dd of=/dev/null')dnl\n" +
	"FEATURE(`no_default_msa')dnl\n" +
	"FEATURE(`accept_unresolvable_domains')dnl\n" +
	"FEATURE(`greet_pause', `200')dnl\n" +
	"LOCAL_DOMAIN(`mx.example')dnl\n" +
	"DAEMON_OPTIONS(`Name=MTA, Family=inet, Addr=127.0.0.1, Port=%[2]d')dnl\n" +
	"DAEMON_OPTIONS(`Name=MSA, Family=inet, Addr=127.0.0.1, Port=%[4]d')dnl\n" +
	"DAEMON_OPTIONS(`Name=MTA6, Family=inet6, Addr=::1, Port=%[5]d')dnl\n"

// inOwnNamespace runs Sendmail with a host name and a /dev/log of its own: it logs nowhere else,
// and sleeps for minutes where the host's name has no dot.
const inOwnNamespace = `set -e
mkdir -p "$1/dev"
mount -t tmpfs none "$1/dev"
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty "$1/dev/"
ln -s /proc/self/fd "$1/dev/fd"
touch "$1/dev/log"
mount --bind "$1/log.socket" "$1/dev/log"
mount --rbind "$1/dev" /dev
hostname mx.example
exec "$2/usr/libexec/sendmail/sendmail" -C "$1/sendmail.cf" -bD`

// NewSendmail prepares a private Sendmail in an empty directory, with further lines of its .mc
// file. It refuses certificates below directories that everybody can write to, such as /tmp.
func NewSendmail(dir, more string) (*Sendmail, error) {
	packages, port, err := unpacked("sendmail")
	if err != nil {
		return nil, err
	}
	ports, err := FreePorts(2)
	if err != nil {
		return nil, err
	}
	s := &Sendmail{Dir: dir, Port: port, Port6: ports[1], UserPort: ports[0], packages: packages}
	chain, err := SelfSigned("mx.example")
	return s, errors.Join(err, os.Mkdir(filepath.Join(dir, "queue"), 0o700),
		os.WriteFile(filepath.Join(dir, "chain.pem"), []byte(chain), 0o600), s.Configure(more))
}

// Configure makes sendmail.cf, with further lines of the .mc file.
func (s *Sendmail) Configure(more string) error {
	mailers := "MAILER(`local')dnl\nMAILER(`smtp')dnl\n"
	before, after, _ := strings.Cut(more, "LOCAL_CONFIG")
	if after != "" {
		after = "LOCAL_CONFIG" + after
	}
	m4 := exec.Command("m4", "-D_CF_DIR_="+s.packages+"/usr/share/sendmail/cf/", "-")
	m4.Stdin = strings.NewReader(fmt.Sprintf(sendmailMC, s.Dir, s.Port, s.packages, s.UserPort, s.Port6) + before + mailers + after)
	cf, err := m4.Output()
	if err != nil {
		return fmt.Errorf("mx: m4: %w", err)
	}
	return os.WriteFile(filepath.Join(s.Dir, "sendmail.cf"), cf, 0o600)
}

// Chain is the file of its certificate, which it trusts as a client's as well.
func (s *Sendmail) Chain() string { return filepath.Join(s.Dir, "chain.pem") }

// LogFile is where its log lines go, as rsyslogd(8) writes them.
func (s *Sendmail) LogFile() string { return filepath.Join(s.Dir, "mail.log") }

// Log is what it has logged so far.
func (s *Sendmail) Log() string {
	b, _ := os.ReadFile(s.LogFile())
	return string(b)
}

// Start starts it and waits until it takes connections.
func (s *Sendmail) Start() (err error) {
	path := filepath.Join(s.Dir, "log.socket")
	os.Remove(path)
	if s.syslog, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		return err
	}
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	go func() {
		defer log.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := s.syslog.Read(b)
			if err != nil {
				return
			}
			fmt.Fprintln(log, written(string(b[:n])))
		}
	}()
	s.cmd = exec.Command("unshare", "--uts", "--mount", "sh", "-c", inOwnNamespace, "sh", s.Dir, s.packages)
	s.cmd.Stdout, s.cmd.Stderr = os.Stderr, os.Stderr
	if err := s.cmd.Start(); err != nil {
		return err
	}
	return takesConnections(s.Port)
}

// written is a datagram of syslog(3), "<22>Nov 27 22:51:29 sendmail[16787]: TEXT", as a line of a
// log: without the priority, with the host's name.
func written(datagram string) string {
	_, rest, _ := strings.Cut(datagram, ">")
	const stamp = len("Nov 27 22:51:29 ")
	if len(rest) < stamp {
		return rest
	}
	return rest[:stamp] + "mx " + strings.TrimRight(rest[stamp:], "\n\x00")
}

// Stop ends it.
func (s *Sendmail) Stop() error {
	if s.cmd == nil {
		return nil
	}
	return errors.Join(terminate(&s.cmd), s.syslog.Close())
}

// terminate ends a process that was started, and waits for its end.
func terminate(cmd **exec.Cmd) error {
	if *cmd == nil || (*cmd).Process == nil {
		return nil
	}
	err := (*cmd).Process.Signal(syscall.SIGTERM)
	(*cmd).Wait()
	*cmd = nil
	return err
}

// DialFrom connects from a loopback address of this host.
func (s *Sendmail) DialFrom(local string) (*Session, error) {
	if strings.Contains(local, ":") {
		return dialFrom(local, s.Port6)
	}
	return dialFrom(local, s.Port)
}

// DialUser connects to the port of the host's own users.
func (s *Sendmail) DialUser(local string) (*Session, error) { return dialFrom(local, s.UserPort) }

// Rules runs a ruleset of its configuration on a text in test mode (-bt), and returns what comes of
// it.
func (s *Sendmail) Rules(ruleset, text string, macros ...string) (string, error) {
	test := exec.Command("unshare", "--uts", "sh", "-c", "hostname mx.example && exec \"$0\" -C \"$1\" -bt", filepath.Join(s.packages, "usr/libexec/sendmail/sendmail"), filepath.Join(s.Dir, "sendmail.cf"))
	test.Stdin = strings.NewReader(strings.Join(append(macros, ruleset+" "+text), "\n") + "\n")
	out, err := test.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mx: sendmail -bt: %w: %s", err, out)
	}
	var result string
	for line := range strings.Lines(string(out)) {
		if after, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimLeft(line, "> ")), ruleset); ok && strings.Contains(line, "returns:") {
			_, result, _ = strings.Cut(after, "returns: ")
		}
	}
	return strings.TrimSpace(result), nil
}
