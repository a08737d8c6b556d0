package postfix

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

func TestSplit(t *testing.T) {
	for list, want := range map[string][]string{
		"":                                nil,
		" inet:a:1 , unix:b":              {"inet:a:1", "unix:b"},
		"{ inet:a:1, x=y }, inet:b:2":     {"{ inet:a:1, x=y }", "inet:b:2"},
		"inet:a:1,{inet:b:2,x={1, 2}} c:": {"inet:a:1", "{inet:b:2,x={1, 2}}", "c:"},
		"{ unclosed, a":                   {"{ unclosed, a"},
	} {
		if got := split(list); !slices.Equal(got, want) {
			t.Errorf("%q split into %q, want %q", list, got, want)
		}
	}
}

func TestOursAndItsSettings(t *testing.T) {
	cfg := &config.Config{}
	cfg.Milter.Listen = config.Address{Network: "tcp", Address: "127.0.0.1:8897"}
	p := &Postfix{cfg: cfg, asked: map[[2]string]answer{}}
	for item, want := range map[string]struct {
		ours   bool
		action string
	}{
		"inet:127.0.0.1:8897":                             {true, ""},
		"inet:localhost:8897":                             {true, ""},
		"{ inet:127.0.0.1:8897, default_action=accept }":  {true, "accept"},
		"{inet:127.0.0.1:8897,default_action = tempfail}": {true, "tempfail"},
		"{ inet:127.0.0.1:8898, default_action=accept }":  {false, "accept"},
		"{ default_action= }":                             {false, ""},
		"inet:127.0.0.1:88970":                            {false, ""},
		"{}":                                              {false, ""},
	} {
		action, _ := itemSetting(item, "default_action")
		if p.ours(item) != want.ours || action != want.action {
			t.Errorf("%q: ours %v, default action %q, want %v and %q", item, p.ours(item), action, want.ours, want.action)
		}
	}
}

// Services of the operator's own users are known by what master.cf says of them.
func TestUserServices(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"main.cf": "compatibility_level = 3.6\nmyhostname = mx.example\n",
		"master.cf": `smtp inet n - n - - smtpd
    -o syslog_name=postfix/mx
submission inet n - n - - smtpd
    -o syslog_name=postfix/$service_name
10587 inet n - n - - smtpd
    -o syslog_name=postfix/haproxy
    -o smtpd_sasl_auth_enable=yes
wrapped inet n - n - - smtpd
    -o syslog_name=postfix/wrapped
    -o smtpd_tls_wrappermode=yes
strict inet n - n - - smtpd
    -o syslog_name=postfix/strict
    -o smtpd_tls_security_level=encrypt
nameless inet n - n - - smtpd
    -o smtpd_sasl_auth_enable=yes
10025 inet n - n - - smtpd
    -o syslog_name=postfix/reinject
    -o smtpd_sasl_auth_enable=no
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Find(t.Context(), dir, &config.Config{})
	if err != nil {
		t.Fatal(err)
	}
	got := p.Users()
	if want := []string{"postfix/submission", "postfix/haproxy", "postfix/wrapped", "postfix/strict"}; !slices.Equal(got.SyslogNames, want) {
		t.Errorf("%q, want %q", got.SyslogNames, want)
	}
}

// What a service is for is seen through restriction classes, and options behind other flags.
func TestRoles(t *testing.T) {
	const classes = "smtpd_restriction_classes = need_tls, mua, both\nneed_tls = reject_plaintext_session\nmua = permit_sasl_authenticated, reject\nboth = permit_mynetworks, mua\n"
	for _, c := range []struct {
		name, service string
		want          role
	}{
		{"an exchanger", "smtp inet n - n - - smtpd", exchanger},
		{"one that demands TLS in a class", "smtp inet n - n - - smtpd -o { smtpd_recipient_restrictions = permit_mynetworks, need_tls, reject_unauth_destination }", strict},
		{"users in a class", "198.51.100.7:25 inet n - n - - smtpd -o smtpd_client_restrictions=mua", users},
		{"users in a class in a class", "2526 inet n - n - - smtpd -o smtpd_client_restrictions=both", users},
		{"a class that is not one", "smtp inet n - n - - smtpd -o smtpd_client_restrictions=other", exchanger},
		{"options behind a flag", "2526 inet n - n - - smtpd -vo smtpd_sasl_auth_enable=yes", users},
		{"options in one word with others", "2526 inet n - n - - smtpd -n x -vosmtpd_sasl_auth_enable=yes -m 5", users},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "main.cf"), []byte("compatibility_level = 3.6\n"+classes), 0o644))
			// Another exchanger keeps a service from being the only one that could be it.
			must(t, os.WriteFile(filepath.Join(dir, "master.cf"), []byte("smtpd pass - - n - - smtpd\npost inet n - n - 1 postscreen\n"+c.service+"\n"), 0o644))
			p := find(t, dir, &config.Config{})
			s := p.services[len(p.services)-1]
			if s.role() != c.want || len(s.malformed) > 0 {
				t.Errorf("role %d, malformed %q, want %d", s.role(), s.malformed, c.want)
			}
		})
	}
}

func TestAddressesOfListeners(t *testing.T) {
	p := &Postfix{values: map[string]string{"queue_directory": "/var/spool/postfix"}}
	for _, c := range []struct {
		item, listen string
		want         bool
	}{
		{"inet:127.0.0.1:8897", "127.0.0.1:8897", true},
		{"inet:localhost:8897", "127.0.0.1:8897", true},
		{"inet:localhost:8897", "[::1]:8897", true},
		{"inet:127.0.0.2:8897", "127.0.0.1:8897", false},
		{"inet:127.0.0.2:8897", "0.0.0.0:8897", true},
		{"inet:127.0.0.1:8897", "[::1]:8897", false},
		{"inet:[::1]:8897", "127.0.0.1:8897", false},
		{"inet:192.0.2.1:8897", "0.0.0.0:8897", true},
		{"inet:192.0.2.1:8897", "127.0.0.1:8897", false},
	} {
		if got := p.same(c.item, config.Address{Network: "tcp", Address: c.listen}); got != c.want {
			t.Errorf("%s is %s: %v", c.item, c.listen, got)
		}
	}
}

func TestTablesThatDemandTLS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.cf")
	must(t, os.WriteFile(file, []byte("query = SELECT 'reject_plaintext_session' FROM alias WHERE address = '%s'\n"), 0o644))
	s := &service{values: map[string]string{"smtpd_recipient_restrictions": "permit_mynetworks, check_recipient_access proxy:mysql:" + file + ", check_sender_access inline:{a=reject}, reject_unauth_destination"}}
	if got := s.demanding(); !slices.Equal(got, []string{"proxy:mysql:" + file}) {
		t.Errorf("%q", got)
	}
}
