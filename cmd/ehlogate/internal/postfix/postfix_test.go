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
