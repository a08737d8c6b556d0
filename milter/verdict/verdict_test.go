package verdict

import (
	"math"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/policy"
)

func TestHeaders(t *testing.T) {
	for _, c := range []struct {
		name    string
		headers []string // "name: value"
		class   policy.Class
		score   float64
	}{
		{"nothing said", nil, policy.None, 0},
		{"SpamAssassin's flag", []string{"X-Spam-Flag: YES"}, policy.Spam, 0},
		{"SpamAssassin's status", []string{"X-Spam-Status: Yes, score=7.8 required=5.0 tests=A,B"}, policy.Spam, 7.8},
		{"a folded status", []string{"X-Spam-Status: No,\n\tscore=-1.3\n\trequired=5.0"}, policy.Ham, -1.3},
		{"flag and status give one verdict with a score", []string{"X-Spam-Flag: YES", "X-Spam-Status: Yes, score=7.8"}, policy.Spam, 7.8},
		{"rspamd's plain header", []string{"X-Spam: Yes"}, policy.Spam, 0},
		{"rspamd's result below its reject score", []string{"X-Spamd-Result: default: False [11.00 / 15.00]; A(1)[x]"}, policy.Spam, 11},
		{"rspamd's clean result", []string{"X-Spamd-Result: default: False [-0.50 / 15.00]; A(1)"}, policy.Ham, -0.5},
		{"rspamd's reject", []string{"X-Spamd-Result: default: True [16.00 / 15.00]"}, policy.Spam, 16},
		{"a forged No before the filter's Yes", []string{"X-Spam-Status: No, score=-9", "X-Spam-Flag: YES"}, policy.Spam, 0},
		{"a forged No after the filter's Yes", []string{"X-Spam-Flag: YES", "X-Spam-Flag: NO"}, policy.Spam, 0},
		{"a score that is none", []string{"X-Spam-Status: Yes, score=NaN required=5"}, policy.Spam, 0},
		{"an infinite score", []string{"X-Spamd-Result: default: False [Inf / 15.00]"}, policy.None, 0},
		{"rubbish", []string{"X-Spam-Status: maybe", "X-Spamd-Result: [", "X-Spam: "}, policy.None, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h Headers
			for _, line := range c.headers {
				name, value, _ := strings.Cut(line, ": ")
				h.Add(name, value)
			}
			if v := h.Verdict(policy.None); v.Class != c.class || v.Score != c.score {
				t.Errorf("%+v, want %s with %v", v, c.class, c.score)
			}
		})
	}
	if v := new(Headers).Verdict(policy.Ham); v.Class != policy.Ham || v.Source != "silence" {
		t.Errorf("silence that is ham: %+v", v)
	}
}

func TestRejections(t *testing.T) {
	unknown := Rejection{"5.1.1", "Recipient address rejected: User unknown in local recipient table"}
	for _, c := range []struct {
		name   string
		of     []Rejection
		class  policy.Class
		source string
	}{
		{"none", nil, policy.None, ""},
		{"one unknown user is a typo", []Rejection{unknown}, policy.None, "unknown-user"},
		{"three are a harvest", []Rejection{unknown, unknown, unknown}, policy.Spam, "unknown-user"},
		{"a DNSBL", []Rejection{{"5.7.1", "Client host rejected: Service unavailable; Client host [192.0.2.1] blocked using zen.example"}}, policy.Spam, "dnsbl"},
		{"greylisting is no verdict", []Rejection{{"4.2.0", "Client host rejected: Greylisted"}}, policy.None, "greylist"},
		{"greylisting by policy is no verdict", []Rejection{{"4.7.1", "Recipient address rejected: Greylisted, see ..."}}, policy.None, "greylist"},
		{"any other temporary refusal", []Rejection{{"4.3.0", "Server configuration error"}}, policy.None, "tempfail"},
		{"relaying", []Rejection{{"5.7.1", "Relay access denied"}}, policy.None, "relay"},
		{"the operator's access table", []Rejection{{"5.7.1", "Client host rejected: Access denied"}}, policy.Spam, "rcpt"},
		{"the worst of several", []Rejection{unknown, {"5.7.1", "Client host rejected: Access denied"}}, policy.Spam, "rcpt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if v := Rejections(c.of); v.Class != c.class || v.Source != c.source {
				t.Errorf("%+v, want %s from %q", v, c.class, c.source)
			}
		})
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add("X-Spam-Status", "Yes, score=7.8 required=5.0")
	f.Add("X-Spamd-Result", "default: False [11.00 / 15.00]; A(1)[x]")
	f.Add("X-Spamd-Result", "[[//]]")
	f.Fuzz(func(t *testing.T, name, value string) {
		var h Headers
		h.Add(name, value)
		v := h.Verdict(policy.None)
		if math.IsNaN(v.Score) || math.IsInf(v.Score, 0) || len(v.Reason) > 4*maxReason {
			t.Fatalf("%+v", v)
		}
	})
}
