package postfix

import (
	"testing"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// What setup wrote is found by its meaning, however the file was changed since.
func TestUnset(t *testing.T) {
	cfg := &config.Config{}
	cfg.Milter.Listen = config.Address{Network: "tcp", Address: "127.0.0.1:8897"}
	p := &Postfix{cfg: cfg, values: map[string]string{}}
	const ours = "{ inet:127.0.0.1:8897, default_action=accept, connect_timeout=1s }"
	const table = "memcache:/etc/postfix/ehlogate-memcache.cf"
	joined := "unionmap:{" + siteKeywords + ", " + table + "}"
	clean := setting{Service: "smtp/inet", Name: cleanup, Value: "ehlogate-cleanup"}
	entry := setting{Service: "ehlogate-cleanup/unix", Entry: true}
	milter := setting{Name: milters, Value: ours}
	const smtp, unix = "smtp inet n - y - - smtpd\n", "ehlogate-cleanup unix n - y - 0 cleanup\n  -o header_checks=regexp:/x\n  -o mime_header_checks=\n"
	for name, c := range map[string]struct {
		text string
		set  []setting
		want string
		left int
	}{
		"as it was written":                   {smtp + "  -o cleanup_service_name=ehlogate-cleanup\n" + unix, []setting{clean, entry}, smtp, 0},
		"indented by postconf -P":             {smtp + "    -o cleanup_service_name=ehlogate-cleanup\n    -o x=y\n" + unix, []setting{clean, entry}, smtp + "    -o x=y\n", 0},
		"in braces":                           {smtp + "  -o { cleanup_service_name = ehlogate-cleanup }\n" + unix, []setting{clean, entry}, smtp, 0},
		"all on one line":                     {"smtp inet n - y - - smtpd -o a=b -o cleanup_service_name=ehlogate-cleanup -o c=d\n" + unix, []setting{clean, entry}, "smtp inet n - y - - smtpd -o a=b -o c=d\n", 0},
		"beside another option":               {smtp + "  -o cleanup_service_name=ehlogate-cleanup -o c=d\n" + unix, []setting{clean, entry}, smtp + "  -o c=d\n", 0},
		"taken out already":                   {smtp + unix, []setting{clean, entry}, smtp, 0},
		"all taken out already":               {smtp, []setting{clean, entry}, smtp, 0},
		"set to something else":               {smtp + "  -o cleanup_service_name=mine\n" + unix, []setting{clean, entry}, smtp + "  -o cleanup_service_name=mine\n", 0},
		"with a comment in the service":       {smtp + "ehlogate-cleanup unix n - y - 0 cleanup\n# mine\n  -o header_checks=x\n", []setting{entry}, smtp + "# mine\n", 0},
		"used by another service":             {smtp + "26 inet n - n - - smtpd\n  -o cleanup_service_name=ehlogate-cleanup\n" + unix, []setting{clean, entry}, smtp + "26 inet n - n - - smtpd\n  -o cleanup_service_name=ehlogate-cleanup\n" + unix, 1},
		"a milter on a line of its own":       {"smtpd_milters = inet:a:1\n    " + ours + "\n", []setting{milter}, "smtpd_milters = inet:a:1\n", 0},
		"a milter with other timeouts":        {"smtpd_milters = inet:a:1, { inet:127.0.0.1:8897, connect_timeout=5s }, inet:b:2\n", []setting{milter}, "smtpd_milters = inet:a:1, inet:b:2\n", 0},
		"a milter first in the list":          {"smtpd_milters = " + ours + ", inet:b:2\n", []setting{milter}, "smtpd_milters = inet:b:2\n", 0},
		"a milter alone":                      {"x = 1\nsmtpd_milters =\n    " + ours + "\ny = 2\n", []setting{milter}, "x = 1\ny = 2\n", 0},
		"a milter over two lines":             {"smtpd_milters = inet:a:1, { inet:127.0.0.1:8897,\n  default_action=accept }\n", []setting{milter}, "smtpd_milters = inet:a:1\n", 0},
		"a table":                             {discard + " = cidr:/x\n    " + joined + "\n", []setting{{Name: discard, Value: table}}, discard + " = cidr:/x\n", 0},
		"a table joined with one of theirs":   {discard + " = unionmap:{cidr:/x, " + table + "}\n", []setting{{Name: discard, Value: table}}, discard + " = cidr:/x\n", 0},
		"a table alone":                       {discard + " = " + joined + "\n", []setting{{Name: discard, Value: table}}, "", 0},
		"a list that was empty":               {"x = 1\nsmtpd_milters =\n    " + ours + "\ny = 2\n", []setting{{Name: milters, Value: ours, Set: ours, Was: []string{"smtpd_milters =\n"}}}, "x = 1\nsmtpd_milters =\ny = 2\n", 0},
		"a list that was replaced":            {discard + " = inline:{a=b}, unionmap:{cidr:/x, " + table + "}\ny = 2\n", []setting{{Name: discard, Value: table, Set: "inline:{a=b}, unionmap:{cidr:/x, " + table + "}", Was: []string{discard + " = inline:{a=b},\n", "# mine\n", "  $my"}}}, discard + " = inline:{a=b},\n# mine\n  $my\ny = 2\n", 0},
		"a milter in a line that is shadowed": {"smtpd_milters = inet:a:1\n    " + ours + "\nsmtpd_milters = inet:b:1\n", []setting{milter}, "smtpd_milters = inet:a:1\nsmtpd_milters = inet:b:1\n", 0},
		"a milter in a parameter of theirs":   {"smtpd_milters = $mine\nmine = inet:a:1, " + ours + "\n", []setting{milter}, "smtpd_milters = $mine\nmine = inet:a:1, " + ours + "\n", 1},
		"a milter that was there before":      {"smtpd_milters = inet:127.0.0.1:8897\nx = y\n", []setting{{Name: milters, Value: ours, Set: ours, Was: []string{"smtpd_milters = inet:127.0.0.1:8897\n"}}}, "x = y\n", 0},
		"postscreen's tables":                 {postscreen + " = cidr:/x, cidr:/y\nz = 1\n", []setting{{Name: postscreen, Set: "cidr:/x, cidr:/y", Was: []string{postscreen + " = $" + discard + ", cidr:/y\n"}}}, postscreen + " = $" + discard + ", cidr:/y\nz = 1\n", 0},
		"a whole parameter":                   {"x = 1\n" + postscreen + " =\n", []setting{{Name: postscreen}}, "x = 1\n", 0},
		"a whole parameter, changed since":    {postscreen + " = cidr:/x\n", []setting{{Name: postscreen}}, postscreen + " = cidr:/x\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDocument("file", c.text)
			left := p.unset(d, c.set)
			if got := d.edited(); got != c.want || len(left) != c.left {
				t.Errorf("left %q, of\n%s\nwant\n%s", left, got, c.want)
			}
		})
	}
}
