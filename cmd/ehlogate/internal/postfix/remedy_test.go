package postfix

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// master is a mail exchanger with submission, a filter that puts mail back, and postscreen(8).
const master = `smtp      inet  n       -       n       -       -       smtpd
  -o syslog_name=postfix/mx
2525      inet  n       -       n       -       1       postscreen
smtpd     pass  -       -       n       -       -       smtpd
submission inet n - n - - smtpd
  -o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_auth_enable=yes
127.0.0.1:10025 inet n - n - - smtpd
  -o content_filter=
  -o smtpd_authorized_xforward_hosts=127.0.0.0/8
  -o { smtpd_milters = { inet:127.0.0.1:8897, default_action=accept, connect_timeout=1s, command_timeout=1s, content_timeout=1s } }
  -o receive_override_options=no_header_body_checks,no_address_mappings
scan      unix  -       -       n       -       2       smtp
cleanup   unix  n       -       n       -       0       cleanup
`

// connected makes a connected Postfix, in which a check finds nothing to fix.
func connected(t *testing.T) (dir string, cfg *config.Config) {
	t.Helper()
	dir = t.TempDir()
	// Postfix's user reads what is in it.
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "cert.pem"), certificate(t), 0o600))
	put(t, filepath.Join(dir, "main.cf"), `compatibility_level = 3.6
myhostname = mx.example
mynetworks = 127.0.0.0/8
smtpd_tls_security_level = may
smtpd_tls_chain_files = `+dir+`/cert.pem
smtpd_discard_ehlo_keywords = chunking
content_filter = scan:[127.0.0.1]:10024
header_checks = regexp:{{/^X-Own:/ IGNORE}}
`)
	put(t, filepath.Join(dir, "master.cf"), master)
	none := func(string) (string, bool) { return "", false }
	settings := map[string]string{"store.url": "embedded:" + t.TempDir(), "policy.mode": "protect", "verdict.log_file": "/var/log/mail.log"}
	cfg, err := config.Load(config.Source{Env: none, Flag: func(key string) (string, bool) { v, ok := settings[key]; return v, ok }})
	must(t, err)
	p := find(t, dir, cfg)
	plan, err := p.Plan(t.Context(), Options{})
	must(t, err)
	must(t, p.Apply(t.Context(), plan))
	if bad := wrong(t, dir, cfg); len(bad) > 0 {
		t.Fatalf("after setup: %+v", bad)
	}
	return dir, cfg
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, dir string, cfg *config.Config) *Postfix {
	t.Helper()
	p, err := Find(t.Context(), dir, cfg)
	must(t, err)
	return p
}

// wrong is what a check finds to fix.
func wrong(t *testing.T, dir string, cfg *config.Config) (all []Finding) {
	t.Helper()
	for _, f := range find(t, dir, cfg).Check(t.Context()) {
		if !f.OK {
			all = append(all, f)
		}
	}
	return all
}

func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"mx.example"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
}

// inMaster is a remedy in master.cf: a line to add, or one that takes another's place.
var inMaster = regexp.MustCompile(`^in (\S+), (?:below (\S+)|in the service (\S+), in the place of its option (\S+)): (-o .*)$`)

// carryOut does what a remedy says, to the letter.
func carryOut(t *testing.T, remedy string) {
	t.Helper()
	remedy, _, _ = strings.Cut(remedy, " (")
	remedy, _, _ = strings.Cut(remedy, ", with a certificate")
	if strings.HasPrefix(remedy, "postconf ") {
		if out, err := exec.Command("sh", "-c", remedy).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", remedy, err, out)
		}
		return
	}
	remedy, second, _ := strings.Cut(remedy, "; and -o ")
	m := inMaster.FindStringSubmatch(remedy)
	if m == nil {
		t.Fatalf("%q is no remedy that can be carried out", remedy)
	}
	putOption(t, m[1], m[2]+m[3], m[4], m[5])
	if second != "" {
		putOption(t, m[1], m[2]+m[3], receive, "-o "+second)
	}
}

// putOption puts a line of options into a service: in the place of an option, or at its end.
func putOption(t *testing.T, path, service, inPlaceOf, line string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	var out []string
	done, in := false, false
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	for i, l := range lines {
		if l != "" && !strings.ContainsAny(l[:1], " \t#") {
			w := strings.Fields(l)
			in = w[0]+"/"+w[1] == service
		}
		name, _, _ := strings.Cut(strings.Trim(strings.TrimPrefix(strings.TrimSpace(l), "-o"), " {"), "=")
		if in && inPlaceOf != "" && strings.TrimSpace(name) == inPlaceOf {
			out, done = append(out, "  "+line), true
			continue
		}
		out = append(out, l)
		ends := i+1 == len(lines) || !strings.HasPrefix(lines[i+1], " ")
		if in && inPlaceOf == "" && ends {
			out, done, in = append(out, "  "+line), true, false
		}
	}
	if !done {
		t.Fatalf("%s has no option %q of %s in\n%s", path, inPlaceOf, service, b)
	}
	put(t, path, strings.Join(out, "\n")+"\n")
}

// put writes a file that looks older than it is: Postfix waits with one that was just written.
func put(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
	must(t, settle(path))
}

// Each remedy for a service of master.cf, carried out to the letter, leaves nothing to fix.
func TestRemediesInMasterCF(t *testing.T) {
	table := "memcache:DIR/ehlogate-memcache.cf"
	dir, cfg := connected(t)
	kept := map[string]string{}
	for _, name := range []string{"main.cf", "master.cf"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		kept[name] = string(b)
	}
	roles := find(t, dir, cfg)
	for _, c := range []struct{ name, service, option, want string }{
		{"a milter alone", "smtp/inet", "-o smtpd_milters=inet:127.0.0.1:11332", "does not name our milter"},
		{"milters in braces", "smtp/inet", "-o { smtpd_milters = inet:127.0.0.1:1, { inet:127.0.0.1:2, default_action=accept } }", "does not name our milter"},
		{"no milter", "smtpd/pass", "-o smtpd_milters=", "does not name our milter"},
		{"ours without settings", "smtp/inet", "-o smtpd_milters=inet:localhost:8897", "mail is refused or held while our milter is away"},
		{"no_milters", "smtp/inet", "-o receive_override_options=no_milters,no_address_mappings", "has no_milters"},
		{"a table without ours", "smtp/inet", "-o smtpd_discard_ehlo_keyword_address_maps=inline:{192.0.2.1=etrn}", "does not name our table"},
		{"a table for everybody", "smtp/inet", "-o { smtpd_discard_ehlo_keyword_address_maps = static:etrn, " + table + " }", "so ours is never asked"},
		{"ours alone", "smtpd/pass", "-o smtpd_discard_ehlo_keyword_address_maps=" + table, "chunking is offered again to everybody"},
		{"a randmap", "smtp/inet", "-o { smtpd_discard_ehlo_keyword_address_maps = randmap:{" + table + ", static:etrn} }", "stands in a randmap"},
		{"a pipemap", "smtp/inet", "-o { smtpd_discard_ehlo_keyword_address_maps = pipemap:{" + table + ", static:etrn} }", "stands in a pipemap"},
		{"no TLS", "smtp/inet", "-o smtpd_tls_security_level=none", "STARTTLS is offered to nobody"},
		{"users' mail is held", "submission/inet", "-o smtpd_milters=inet:127.0.0.1:8897", "mail is refused or held while our milter is away"},
		{"a filter's mail is held", "127.0.0.1:10025/inet", "-o smtpd_milters=inet:127.0.0.1:8897", "mail is refused or held while our milter is away"},
		{"a service's own timeouts", "smtp/inet", "-o smtpd_milters=inet:127.0.0.1:8897\n  -o milter_default_action=accept\n  -o milter_command_timeout=300s", "a daemon that hangs holds up each session for"},
		{"hidden STARTTLS", "smtp/inet", "-o { smtpd_discard_ehlo_keywords = starttls, chunking }", "STARTTLS is offered to nobody"},
		{"no protocol", "smtp/inet", "-o smtpd_tls_protocols=TLS1", "which is not a protocol"},
		{"users ask it", "submission/inet", "-o smtpd_discard_ehlo_keyword_address_maps=" + table, "one of low reputation could send nothing"},
		{"postscreen asks it", "2525/inet", "-o postscreen_discard_ehlo_keyword_address_maps=" + table, "postscreen asks our table"},
		{"forged headers", "smtp/inet", "-o cleanup_service_name=cleanup", "a client can write"},
		{"no cleanup of ours", "smtp/inet", "-o cleanup_service_name=ehlogate-cleanup2", "no mail comes in"},
		{"no such cleanup", "smtp/inet", "-o cleanup_service_name=mine", "no mail comes in"},
		{"forged headers again", "ehlogate-cleanup/unix", "-o header_checks=regexp:{{/^X-Own:/ IGNORE}}", "a client can write"},
		{"attached mail", "ehlogate-cleanup/unix", "-o nested_header_checks=regexp:DIR/ehlogate-header-checks", "attached mail loses the headers"},
		{"a deaf filter", "127.0.0.1:10025/inet", "-o smtpd_milters=", "is not heard where it puts the mail back"},
		{"deaf by no_milters", "127.0.0.1:10025/inet", "-o receive_override_options=no_milters,no_header_body_checks", "is not heard where it puts the mail back"},
		{"a filter's headers", "127.0.0.1:10025/inet", "-o receive_override_options=no_address_mappings\n  -o cleanup_service_name=ehlogate-cleanup", "loses the headers that it wrote"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, text := range kept {
				put(t, filepath.Join(dir, name), text)
			}
			path := filepath.Join(dir, "master.cf")
			option := strings.ReplaceAll(c.option, "DIR", dir)
			name, _, _ := strings.Cut(strings.Trim(strings.TrimPrefix(option, "-o"), " {"), "=")
			inPlaceOf := ""
			if s := serviceOf(roles, c.service); s != nil {
				if _, ok := s.own(strings.TrimSpace(name)); ok {
					inPlaceOf = strings.TrimSpace(name)
				}
			}
			putOption(t, path, c.service, inPlaceOf, option)
			found := wrong(t, dir, cfg)
			if !strings.Contains(fmt.Sprint(found), c.want) {
				t.Fatalf("found %+v, without %q", found, c.want)
			}
			for _, f := range found {
				carryOut(t, f.Fix)
			}
			if left := wrong(t, dir, cfg); len(left) > 0 {
				b, _ := os.ReadFile(path)
				t.Errorf("after %+v: %+v\n%s", found, left, b)
			}
		})
	}
}

func serviceOf(p *Postfix, key string) *service {
	for _, s := range p.services {
		if s.key() == key {
			return s
		}
	}
	return nil
}

// A unix socket that smtpd(8) cannot reach is found, in a chroot and behind a directory that
// Postfix's user may not enter; one that it can is not complained of.
func TestSocketsOutOfReach(t *testing.T) {
	dir, cfg := connected(t)
	p := find(t, dir, cfg)
	queue := t.TempDir()
	must(t, os.Chmod(queue, 0o755))
	// The test's directories are open to everybody up to the root.
	for d := filepath.Dir(queue); d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o755))
	}
	p.values["queue_directory"] = queue
	shut := filepath.Join(t.TempDir(), "shut")
	must(t, os.MkdirAll(shut, 0o700))
	below := filepath.Join(queue, "ehlogate")
	must(t, os.Mkdir(below, 0o755))
	for _, c := range []struct {
		name, socket string
		chroot       bool
		want         string
	}{
		{"outside a chroot", filepath.Join(shut, "m.sock"), true, "it runs in a chroot"},
		{"in the queue directory", filepath.Join(below, "m.sock"), true, ""},
		{"in the queue directory, without chroot", filepath.Join(below, "m.sock"), false, ""},
		{"behind a directory of root's", filepath.Join(shut, "m.sock"), false, "cannot enter " + shut},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := &checker{Postfix: p, ctx: t.Context()}
			s := *serviceOf(p, "smtp/inet")
			s.chroot = c.chroot
			found.checkSocket(&s, "milter.listen", config.Address{Network: "unix", Address: c.socket})
			var said string
			for _, f := range found.found {
				said += f.What + ": " + f.Fix
			}
			if said == "" != (c.want == "") || !strings.Contains(said, c.want) {
				t.Errorf("found %q, want %q", said, c.want)
			}
		})
	}
	if os.Getuid() != 0 {
		return
	}
	// The remedy is right: Postfix's user can connect.
	l, err := net.Listen("unix", filepath.Join(shut, "m.sock"))
	must(t, err)
	defer l.Close()
	must(t, os.Chmod(filepath.Join(shut, "m.sock"), 0o666))
	connects := func() error {
		return exec.Command("setpriv", "--reuid", "postfix", "--regid", "postfix", "--clear-groups", "test", "-S", filepath.Join(shut, "m.sock")).Run()
	}
	if connects() == nil {
		t.Error("postfix could see the socket before")
	}
	must(t, os.Chmod(shut, 0o701))
	if err := connects(); err != nil {
		t.Errorf("after chmod o+x: %v", err)
	}
}
