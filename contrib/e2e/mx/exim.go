package mx

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Exim is a private Exim: Debian's exim4-daemon-heavy, unpacked and not installed, under a
// directory of its own. Its clients come from loopback addresses.
type Exim struct {
	Dir string
	// Port takes clients on loopback, UserPort those of the host's own users.
	Port, UserPort int

	packages string
	cmd      *exec.Cmd
}

// eximUser is the user that Debian's Exim wants to find, and its number where it is not installed.
const eximUser, eximID = "Debian-exim", 799

// eximConfig is what every private Exim has; %[1]s is its directory, %[2]d and %[6]d its ports,
// %[3]s that of the packages, %[4]s further lines of its main section, %[5]s those of its ACL for a
// whole message.
const eximConfig = `exim_path = %[3]s/usr/sbin/exim4
spool_directory = %[1]s/spool
log_file_path = %[1]s/log/%%slog
pid_file_path = %[1]s/log/pid
keep_environment =
queue_only
daemon_smtp_ports = %[2]d : %[6]d
local_interfaces = 127.0.0.1
primary_hostname = mx.example
host_lookup =
tls_certificate = %[1]s/chain.pem
tls_privatekey = %[1]s/chain.pem
acl_smtp_rcpt = rcpt
acl_smtp_data = data
%[4]s
begin acl
rcpt:
  require message = relay not permitted
          domains = mx.example
  require verify = recipient
  accept
data:
%[5]s
  accept
begin routers
local:
  driver = accept
  domains = mx.example
  local_parts = root : bob
  transport = nowhere
begin transports
nowhere:
  driver = appendfile
  file = /dev/null
  user = Debian-exim
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if eq{$auth3}{secret}}
  server_set_id = $auth2
`

// withUser runs Exim in a mount namespace in which its user is there.
const withUser = `set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
exec "$2/usr/sbin/exim4" -C "$1/exim.conf" -bdf`

// NewExim prepares a private Exim in an empty directory.
func NewExim(dir string) (*Exim, error) {
	packages, port, err := unpacked("exim")
	if err != nil {
		return nil, err
	}
	ports, err := FreePorts(1)
	if err != nil {
		return nil, err
	}
	e := &Exim{Dir: dir, Port: port, UserPort: ports[0], packages: packages}
	chain, err := SelfSigned("mx.example")
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.WriteFile(e.in("chain.pem"), []byte(chain), 0o600), os.Mkdir(e.in("spool"), 0o750), os.Mkdir(e.in("log"), 0o755))
	for _, own := range []string{"chain.pem", "spool", "log"} {
		err = errors.Join(err, os.Chown(e.in(own), eximID, eximID))
	}
	return e, errors.Join(err, withUsers(dir, map[string]int{eximUser: eximID}), e.Configure("", ""))
}

// withUsers writes a passwd and a group with users that the host has not, and their numbers.
func withUsers(dir string, users map[string]int) (err error) {
	for file, line := range map[string]string{"passwd": "%s:x:%d:%[2]d::/nonexistent:/usr/sbin/nologin\n", "group": "%s:x:%d:\n"} {
		all, readErr := os.ReadFile("/etc/" + file)
		for user, id := range users {
			all = fmt.Appendf(all, line, user, id)
		}
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(dir, file), all, 0o644))
	}
	return err
}

func (e *Exim) in(name string) string { return filepath.Join(e.Dir, name) }

// Configure writes its configuration, with further lines of its main section and of its ACL for a
// whole message.
func (e *Exim) Configure(section, acl string) error {
	return os.WriteFile(e.in("exim.conf"), fmt.Appendf(nil, eximConfig, e.Dir, e.Port, e.packages, section, acl, e.UserPort), 0o644)
}

// LogFile is its mainlog.
func (e *Exim) LogFile() string { return e.in("log/mainlog") }

// Log is what it has logged so far.
func (e *Exim) Log() string {
	b, _ := os.ReadFile(e.LogFile())
	return string(b)
}

// Start starts it and waits until it takes connections.
func (e *Exim) Start() error {
	e.cmd = exec.Command("unshare", "--mount", "sh", "-c", withUser, "sh", e.Dir, e.packages)
	var problems strings.Builder
	e.cmd.Stdout, e.cmd.Stderr = &problems, &problems
	if err := e.cmd.Start(); err != nil {
		return err
	}
	if err := takesConnections(e.Port); err != nil {
		return fmt.Errorf("mx: exim: %w: %s\n%s", err, problems.String(), e.Log())
	}
	return nil
}

// Stop ends it.
func (e *Exim) Stop() error {
	return terminate(&e.cmd)
}

// DialFrom connects from a loopback address of this host.
func (e *Exim) DialFrom(local string) (*Session, error) { return dialFrom(local, e.Port) }

// DialUser connects to the port of the host's own users.
func (e *Exim) DialUser(local string) (*Session, error) { return dialFrom(local, e.UserPort) }

// Debians is a configuration of Debian's exim4-config, split or not, with further macros, as
// update-exim4.conf(8) makes it. The result is looked at by Exim itself, which prints some of its
// options.
func (e *Exim) Debians(split bool, macros string, options ...string) (string, error) {
	dir := e.in(fmt.Sprintf("exim4-%v", split))
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(e.packages, "etc/exim4"))); err != nil {
		return "", err
	}
	answers := fmt.Sprintf("dc_eximconfig_configtype='internet'\ndc_other_hostnames='mx.example'\ndc_local_interfaces='127.0.0.1'\ndc_use_split_config='%v'\n", split)
	err := errors.Join(os.WriteFile(filepath.Join(dir, "update-exim4.conf.conf"), []byte(answers), 0o644),
		os.WriteFile(filepath.Join(dir, map[bool]string{true: "conf.d/main/000_localmacros", false: "exim4.conf.localmacros"}[split]), []byte(macros), 0o644))
	if err != nil {
		return "", err
	}
	made := e.in(fmt.Sprintf("debians-%v.conf", split))
	update := exec.Command("unshare", "--mount", "sh", "-c", ofDebian, "sh", e.Dir, e.packages, dir, made, strings.Join(options, " "))
	out, err := update.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("mx: Debian's configuration: %w: %s", err, out)
	}
	return string(out), nil
}

// ofDebian has update-exim4.conf(8) make a configuration, and Exim look at it.
const ofDebian = `set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
# It looks for Exim, and for one of the files, where they would be installed.
: >"$1/mailname"
sed "s#^EXIM=.*#EXIM=$2/usr/sbin/exim4#; s#/etc/exim4/exim4.conf.localmacros#$3/exim4.conf.localmacros#; s#/etc/mailname#$1/mailname#" "$2/usr/sbin/update-exim4.conf" | sh -s -- --confdir "$3" --output "$4"
exec "$2/usr/sbin/exim4" -C "$4" -bP $5`
