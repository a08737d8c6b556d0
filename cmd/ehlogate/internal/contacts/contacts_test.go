package contacts

import (
	"errors"
	"strings"
	"testing"
)

const whoisText = `% This is a whois server.
% Abuse contact for '198.51.100.0 - 198.51.100.255' is 'abuse@hoster.example'

inetnum:        198.51.100.0 - 198.51.100.255
netname:        HOSTER
e-mail:         sales@hoster.example

% Abuse contact for 'AS64500' is 'noc@carrier.example'

NetRange:       203.0.113.0 - 203.0.113.127
CIDR:           203.0.113.0/25
OrgAbuseEmail:  abuse@isp.example
OrgAbuseEmail:  second@isp.example

inet6num:       2001:db8:1::/48
abuse-mailbox:  six@isp.example

Domain Name: OFFERS.EXAMPLE
Registrar Abuse Contact Email: abuse@registrar.example
abuse-mailbox: not a mailbox
`

const rdapText = `{"objectClassName":"ip network","startAddress":"192.0.2.0","endAddress":"192.0.2.255","entities":[{"roles":["registrant"],"entities":[{"roles":["technical","abuse"],"vcardArray":["vcard",[["version",{},"text","4.0"],["email",{},"text","abuse@net.example"]]]}]}]}
{"objectClassName":"autnum","startAutnum":64501,"entities":[{"roles":["abuse"],"vcardArray":["vcard",[["email",{},"text","as@net.example"]]]}]}
{"objectClassName":"domain","ldhName":"Prizes.example","entities":[{"roles":["abuse"],"vcardArray":["vcard",[["email",{},"text","abuse@prizes.example"]]]}]}
{"objectClassName":"domain","ldhName":"nobody.example"}`

func TestWhomToWriteTo(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       map[string]string
	}{
		{"of whois", whoisText, map[string]string{
			"198.51.100.7": "abuse@hoster.example", "198.51.100.0/24": "abuse@hoster.example", "198.51.101.7": "", "AS64500": "noc@carrier.example", "AS64501": "",
			"203.0.113.5": "second@isp.example", "203.0.113.200": "", "2001:db8:1:2::3": "six@isp.example", "offers.example": "abuse@registrar.example", "mx.offers.example": "abuse@registrar.example", "": "",
		}},
		{"of both", rdapText + "\n" + whoisText, map[string]string{"192.0.2.9": "abuse@net.example", "198.51.100.7": "abuse@hoster.example"}},
		{"of RDAP", rdapText, map[string]string{"192.0.2.9": "abuse@net.example", "AS64501": "as@net.example", "prizes.example": "abuse@prizes.example", "nobody.example": ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := Read(strings.NewReader(c.text))
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range c.want {
				if got := b.Of(name); got != want {
					t.Errorf("about %q to %q; want %q", name, got, want)
				}
			}
		})
	}
}

func TestAFileWithoutContactsIsAFault(t *testing.T) {
	for _, text := range []string{"", "this is no answer\n", `{"a":1}`} {
		if _, err := Read(strings.NewReader(text)); !errors.Is(err, ErrNone) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Read(strings.NewReader(`{"entities": 5}`)); err == nil || !strings.Contains(err.Error(), "line 1: no RDAP object") {
		t.Errorf("%v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(whoisText)
	f.Add(rdapText)
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := Read(strings.NewReader(text)); err == nil {
			b.Of("192.0.2.1")
			b.Of(text)
		}
	})
}
