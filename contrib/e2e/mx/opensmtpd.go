package mx

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// OpenSMTPD is a private OpenSMTPD: Debian's package, unpacked and not installed, under a directory
// of its own. Its clients come from loopback addresses, and offered STARTTLS they go on in the
// clear: version 6.8, Debian 12's, fails each handshake with OpenSSL 3 (OpenSMTPD, issue 1171).
type OpenSMTPD struct {
	Dir string
	// Port takes clients on loopback.
	Port int

	packages string
	cmd      *exec.Cmd
}

// openSMTPDConfig is what every private OpenSMTPD has; %[1]s is its directory, %[2]d its port,
// %[3]s are further lines, and %[4]s options of its listener.
const openSMTPDConfig = `pki mx.example cert "%[1]s/chain.pem"
pki mx.example key "%[1]s/chain.pem"
%[3]s
listen on 127.0.0.1 port %[2]d tls pki mx.example %[4]s
action "keep" relay host "smtp://127.0.0.1:9"
match from any for domain "mx.example" action "keep"
`

// ownUsers are the users that Debian's OpenSMTPD wants to find, with their numbers where it is not
// installed.
var ownUsers = map[string]int{"opensmtpd": 797, "opensmtpq": 798}

// ownDirectories runs OpenSMTPD in a mount namespace in which its users and directories are there.
const ownDirectories = `set -e
for dir in /var/spool /run /var/lib /usr/libexec; do
	mkdir -p "$dir"
	mount -t tmpfs none "$dir"
done
mkdir -p /var/lib/opensmtpd/empty /usr/libexec/opensmtpd
mkdir -m 711 /var/spool/smtpd
cp "$2"/usr/libexec/opensmtpd/mail.* /usr/libexec/opensmtpd/
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
exec "$2/usr/sbin/smtpd" -d -f "$1/smtpd.conf"`

// NewOpenSMTPD prepares a private OpenSMTPD in an empty directory.
func NewOpenSMTPD(dir string) (*OpenSMTPD, error) {
	packages, port, err := unpacked("opensmtpd")
	if err != nil {
		return nil, err
	}
	o := &OpenSMTPD{Dir: dir, Port: port, packages: packages}
	chain, err := SelfSigned("mx.example")
	return o, errors.Join(err, os.WriteFile(o.in("chain.pem"), []byte(chain), 0o600), withUsers(dir, ownUsers), o.Configure("", ""))
}

func (o *OpenSMTPD) in(name string) string { return filepath.Join(o.Dir, name) }

// Configure writes its configuration, with further lines and options of its listener.
func (o *OpenSMTPD) Configure(lines, listener string) error {
	return os.WriteFile(o.in("smtpd.conf"), fmt.Appendf(nil, openSMTPDConfig, o.Dir, o.Port, lines, listener), 0o644)
}

// Log is what it has logged so far.
func (o *OpenSMTPD) Log() string {
	b, _ := os.ReadFile(o.in("log"))
	return string(b)
}

// Start starts it and waits until it takes connections.
func (o *OpenSMTPD) Start() error {
	log, err := os.Create(o.in("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	o.cmd = exec.Command("unshare", "--mount", "sh", "-c", ownDirectories, "sh", o.Dir, o.packages)
	o.cmd.Stdout, o.cmd.Stderr = log, log
	if err := o.cmd.Start(); err != nil {
		return err
	}
	if err := takesConnections(o.Port); err != nil {
		return fmt.Errorf("mx: opensmtpd: %w: %s", err, o.Log())
	}
	return nil
}

// UpdateTable has it read a table again. smtpctl(8) wants to run as the group of the queue, to
// which it is installed setgid.
func (o *OpenSMTPD) UpdateTable(name string) error {
	out, err := exec.Command("nsenter", "--mount", "--root", "--target", fmt.Sprint(o.cmd.Process.Pid), "setpriv", fmt.Sprintf("--regid=%d", ownUsers["opensmtpq"]), "--clear-groups",
		filepath.Join(o.packages, "usr/sbin/smtpctl"), "update", "table", name).CombinedOutput()
	if err == nil && !strings.Contains(string(out), "command succeeded") {
		err = errors.New("no success")
	}
	if err != nil {
		return fmt.Errorf("mx: smtpctl update table %s: %w: %s", name, err, out)
	}
	return nil
}

// Stop ends it.
func (o *OpenSMTPD) Stop() error {
	return terminate(&o.cmd)
}

// DialFrom connects from a loopback address of this host.
func (o *OpenSMTPD) DialFrom(local string) (*Session, error) { return dialFrom(local, o.Port) }
