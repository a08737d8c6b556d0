// Package mx runs a private mail exchanger for tests and the demo: a real Postfix, an ehlogate
// daemon, a small spam filter before it, and SMTP clients at chosen addresses. Everything lives in
// one directory and listens on loopback only.
package mx

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Postfix is a private Postfix under a directory of its own.
type Postfix struct {
	Dir string
	// Port takes clients at their own loopback address, ProxyPort those that say their address in a
	// PROXY line.
	Port, ProxyPort int
	// ScreenPort is behind postscreen, and takes PROXY lines.
	ScreenPort int
	// Resolver is a resolv.conf(5) of its own, empty for the host's.
	Resolver string
}

// Resolving is a command that runs with a resolv.conf(5) of its own, in a mount namespace.
func Resolving(resolvConf, name string, args ...string) (string, []string) {
	return "unshare", append([]string{"--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolvConf, name}, args...)
}

// mainCF is what every private Postfix has; %[1]s is its directory.
const mainCF = `compatibility_level = 3.6
config_directory = %[1]s/etc
queue_directory = %[1]s/spool
data_directory = %[1]s/lib
maillog_file = %[1]s/mail.log
maillog_file_prefixes = %[1]s
myhostname = mx.example
mydestination = mx.example
mynetworks = 127.0.0.1/32
inet_interfaces = loopback-only
inet_protocols = all
local_transport = discard:
local_recipient_maps = inline:{bob=1, carol=1}
alias_maps =
smtputf8_enable = no
smtpd_tls_security_level = may
smtpd_tls_chain_files = %[1]s/chain.pem
smtpd_tls_loglevel = 1
postscreen_greet_wait = 1s
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_peername_lookup = no
smtpd_client_port_logging = no
in_flow_delay = 0
`

// masterCF has both smtpd services and what they need; the arguments are the ports.
const masterCF = `127.0.0.1:%[1]d inet n - n - - smtpd
[::1]:%[1]d inet n - n - - smtpd
127.0.0.1:%[2]d inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy
127.0.0.1:%[3]d inet n - n - 1 postscreen -o postscreen_upstream_proxy_protocol=haproxy
smtpd pass - - n - - smtpd
`

// Services are those of master.cf that every Postfix needs beside its smtpd(8).
const Services = `pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
dnsblog unix - - n - 0 dnsblog
tlsproxy unix - - n - 0 tlsproxy
postlog unix-dgram n - n - 1 postlogd
`

// TempDir makes a directory that the users of Postfix can reach.
func TempDir() (string, error) {
	dir, err := os.MkdirTemp("", "ehlogate-mx-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// NewPostfix writes the configuration of a private Postfix into an empty directory. It is not
// started.
func NewPostfix(dir string) (*Postfix, error) {
	p := &Postfix{Dir: dir}
	ports, err := FreePorts(3)
	if err != nil {
		return nil, err
	}
	p.Port, p.ProxyPort, p.ScreenPort = ports[0], ports[1], ports[2]
	owner, err := user.Lookup("postfix")
	if err != nil {
		return nil, fmt.Errorf("mx: %w; install Debian's package postfix", err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	for _, d := range []string{"", "etc", "spool", "lib"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.Chown(filepath.Join(dir, "lib"), uid, -1); err != nil {
		return nil, err
	}
	chain, err := SelfSigned("mx.example")
	if err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"etc/main.cf": fmt.Sprintf(mainCF, dir), "etc/master.cf": fmt.Sprintf(masterCF, p.Port, p.ProxyPort, p.ScreenPort) + Services, "chain.pem": chain,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600|0o044); err != nil {
			return nil, err
		}
	}
	return p, errors.Join(p.settle(), os.Chmod(filepath.Join(dir, "chain.pem"), 0o600))
}

// ConfigDir is its config_directory.
func (p *Postfix) ConfigDir() string { return filepath.Join(p.Dir, "etc") }

// Set sets parameters of main.cf, each "name = value".
func (p *Postfix) Set(params ...string) error {
	if err := p.command("postconf", append([]string{"-e"}, params...)...); err != nil {
		return err
	}
	return p.settle()
}

// settle makes the configuration look old: Postfix waits for a second or two with a file that has
// just been written.
func (p *Postfix) settle() error {
	long := time.Now().Add(-time.Minute)
	return errors.Join(os.Chtimes(filepath.Join(p.ConfigDir(), "main.cf"), long, long), os.Chtimes(filepath.Join(p.ConfigDir(), "master.cf"), long, long))
}

// Service sets a parameter of the service that takes PROXY lines, as postconf -P does.
func (p *Postfix) Service(param string) error {
	if err := p.command("postconf", "-P", fmt.Sprintf("127.0.0.1:%d/inet/%s", p.ProxyPort, param)); err != nil {
		return err
	}
	return p.settle()
}

// RemoveService removes a service of master.cf, as postconf -MX does.
func (p *Postfix) RemoveService(service string) error {
	if err := p.command("postconf", "-MX", service); err != nil {
		return err
	}
	return p.settle()
}

// Start starts it; when it returns, it takes connections.
func (p *Postfix) Start() error { return p.command("postfix", "start") }

// Reload makes it read its configuration again.
func (p *Postfix) Reload() error { return p.command("postfix", "reload") }

// Stop stops it.
func (p *Postfix) Stop() error { return p.command("postfix", "stop") }

// Log is what it has logged so far.
func (p *Postfix) Log() string {
	b, _ := os.ReadFile(filepath.Join(p.Dir, "mail.log"))
	return string(b)
}

func (p *Postfix) command(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	program, all := name, append([]string{"-c", p.ConfigDir()}, args...)
	if p.Resolver != "" && name == "postfix" {
		program, all = Resolving(p.Resolver, name, all...)
	}
	out, err := exec.CommandContext(ctx, program, all...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mx: %s %s: %w: %s\n%s", name, strings.Join(args, " "), err, out, p.Log())
	}
	return nil
}

// Ports are given out below those that the kernel gives to clients (ip_local_port_range begins at
// 32768), so that none is taken before its server is started, and none twice.
const firstPort, lastPort = 12000, 32000

// lastGiven is the port that was given out last, counted from firstPort.
var lastGiven atomic.Int64

func init() { lastGiven.Store(mathrand.Int64N(lastPort - firstPort)) }

// FreePorts finds TCP ports of loopback that nobody listens on.
func FreePorts(n int) ([]int, error) {
	var ports []int
	for range lastPort - firstPort {
		port := firstPort + int(lastGiven.Add(1)%(lastPort-firstPort))
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("mx: no %d free ports from %d to %d", n, firstPort, lastPort)
}

// patience is how long something that was started may take to answer.
const patience = 20 * time.Second

// takesConnections waits until something listens on a port of loopback.
func takesConnections(port int) error {
	return waitFor(func() error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err
	})
}

func waitFor(ready func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ready()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// SelfSigned makes a key and a certificate, both in PEM.
func SelfSigned(name string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	return SelfSignedBy(name, key)
}

// SelfSignedBy is SelfSigned with a key that is there.
func SelfSignedBy(name string, key crypto.Signer) (string, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})), nil
}
