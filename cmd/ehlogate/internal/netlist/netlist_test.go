package netlist

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

func TestListsOfOthers(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"DROP", "192.0.2.0/24 ; SBL256894", "192.0.2.0/24  SBL256894"},
		{"DROP as JSON", `{"cidr":"2001:db8::/32","sblid":"SBL1","rir":"ripencc"}`, "2001:db8::/32  SBL1"},
		{"the end of DROP as JSON", `{"type":"metadata","timestamp":1764200000,"records":1}`, ""},
		{"DNSWL as rbldnsd has it", "192.0.2.7:127.0.10.1:mail.example http://dnswl.example/7", "192.0.2.7/32  127.0.10.1:mail.example http://dnswl.example/7"},
		{"the default of rbldnsd", ":127.0.10.1:", ""},
		{"a directive of rbldnsd", "$TTL 3600", ""},
		{"cidr_table(5)", "192.0.2.0/24\tpermit_auth_destination # our own", "192.0.2.0/24  permit_auth_destination our own"},
		{"our own", "192.0.2.0/24 deny until 2026-12-01T00:00:00Z # ticket 7", "192.0.2.0/24 deny ticket 7 until 2026-12-01"},
		{"cidr_table(5) that says to refuse", "192.0.2.9 REJECT spam", "192.0.2.9/32 deny spam"},
		{"IPv6 that begins with a colon", "::1:2 allow", "::1:2/128 allow "},
		{"IPv4 within IPv6", "::ffff:198.51.100.7 allow", "198.51.100.7/32 allow "},
		{"IPv6", "2001:db8::7 allow", "2001:db8::7/128 allow "},
		{"a reply that refuses", "192.0.2.0/24 550 5.7.1 spammer", "192.0.2.0/24 deny 5.7.1 spammer"}, {"what is left to others", "192.0.2.0/24 DUNNO", ""},
		{"a comment", "# 192.0.2.0/24", ""}, {"nothing", "   ", ""}, {"another comment", "; Last-Modified: today", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			all, err := Read(strings.NewReader(c.line + "\r\n"))
			got := ""
			for _, e := range all {
				got = fmt.Sprintf("%s %s %s", e.Network, e.Verb, e.Note)
				if !e.Until.IsZero() {
					got += " until " + e.Until.Format(time.DateOnly)
				}
			}
			if err != nil || got != c.want {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
	for _, line := range []string{"192.0.2.1/24 deny", "mail.example deny", "deny 192.0.2.0/24", "192.0.2.0/24 DEFER", "192.0.2.0/24 450 4.7.1 later", "192.0.2.0/24 HOLD", "192.0.2.0/24 allow deny", "192.0.2.0/24 deny 198.51.100.0/24 deny", "192.0.2.0/24 deny\r198.51.100.0/24 deny", "192.0.2.0/24 deny until tomorrow", `{"cidr":"192.0.2.0/24"`, strings.Repeat("x", maxLine+1)} {
		if all, err := Read(strings.NewReader("192.0.2.0/24\n" + line)); err == nil || !strings.HasPrefix(err.Error(), "line 2: ") || all != nil {
			t.Errorf("%.40s: %v, %v", line, all, err)
		}
	}
}

func TestAListInUTF16IsNamed(t *testing.T) {
	if _, err := Read(strings.NewReader("\xff\xfe1\x009\x002\x00")); err == nil || !strings.Contains(err.Error(), "UTF-16") {
		t.Error(err)
	}
}

// FuzzRead: whatever is read can be an override.
func FuzzRead(f *testing.F) {
	f.Add([]byte("192.0.2.0/24 deny until 2026-12-01T00:00:00Z # ticket 7\n"))
	f.Add([]byte("{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"x\"}\n192.0.2.7:127.0.10.1:\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := Read(strings.NewReader(string(b)))
		if err != nil && all != nil {
			t.Errorf("%v with %v", all, err)
		}
		for _, e := range all {
			if !e.Network.IsValid() || e.Network != e.Network.Masked() || len(e.Note) > policy.MostNote || e.Note != policy.Printable(e.Note) {
				t.Errorf("%+v", e)
			}
		}
	})
}
