package policy

import (
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestResolveDoesNotDependOnTheOrder holds the verdict that counts to be one, whoever spoke first.
func TestResolveDoesNotDependOnTheOrder(t *testing.T) {
	verdict := rapid.Custom(func(t *rapid.T) Verdict {
		var sources []Source
		for _, s := range Sources() {
			if !s.Source.People() {
				sources = append(sources, s.Source)
			}
		}
		return Verdict{
			Class:  rapid.SampledFrom([]Class{Spam, Ham, None}).Draw(t, "class"),
			Weight: Messages(rapid.IntRange(1, 24).Draw(t, "eighths")) / 8, Source: rapid.SampledFrom(sources).Draw(t, "source"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(verdict, 0, 8).Draw(t, "verdicts")
		resolve := func(all []Verdict) Verdict {
			var verdicts Verdicts
			for _, v := range all {
				verdicts = verdicts.With(v)
			}
			return verdicts.Resolve()
		}
		if a, b := resolve(all), resolve(rapid.Permutation(slices.Clone(all)).Draw(t, "order")); a != b {
			t.Fatalf("%+v in one order, %+v in another", a, b)
		}
	})
}

func TestResolve(t *testing.T) {
	v := func(class Class, weight Messages, source Source) Verdict {
		return Verdict{Class: class, Weight: weight, Source: source}
	}
	for _, c := range []struct {
		name     string
		verdicts Verdicts
		want     Verdict
	}{
		{"no verdict", nil, Verdict{Class: None}},
		{"a filter's ham and one unknown user", Verdicts{v(Ham, 1, FromHeader), v(Spam, 0.125, FromUnknownUser)}, v(Ham, 1, FromHeader)},
		{"a filter's ham and a harvest", Verdicts{v(Ham, 1, FromHeader), v(Spam, 1, FromUnknownUser)}, v(Spam, 1, FromUnknownUser)},
		{"two filters of two minds", Verdicts{v(Ham, 1, FromHeader), v(Spam, 0.5, FromRspamd)}, v(Spam, 0.5, FromRspamd)},
		{"silence and a doubtful refusal", Verdicts{v(Ham, 1, FromSilence), v(Spam, 0.25, FromRelay)}, v(Spam, 0.25, FromRelay)},
		{"a trap and a filter's ham", Verdicts{v(Spam, 3, FromTrap), v(Ham, 1, FromHeader)}, v(Spam, 3, FromTrap)},
		{"a person and a trap", Verdicts{v(Spam, 3, FromTrap), v(Ham, 1, FromPerson)}, v(Ham, 1, FromPerson)},
		{"greylisting and a filter's ham", Verdicts{v(None, 0, FromGreylist), v(Ham, 1, FromHeader)}, v(Ham, 1, FromHeader)},
		{"greylisting alone", Verdicts{v(None, 0, FromGreylist), v(None, 0, "")}, v(None, 0, FromGreylist)},
	} {
		if got := c.verdicts.Resolve(); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestAVerdictWithoutAWeightCountsOneMessage(t *testing.T) {
	for line, want := range map[string]Verdict{
		`{"class":"spam","score":12.3,"source":"header"}`: {Class: Spam, Score: 12.3, Weight: 1, Source: FromHeader},
		`{"class":"ham","weight":0.25}`:                   {Class: Ham, Weight: 0.25},
		`{"class":"ham","weight":0}`:                      {Class: Ham},
		`{"class":"none","weight":2}`:                     {Class: None},
		`{"class":"none","score":0}`:                      {Class: None},
	} {
		var v Verdict
		if err := json.Unmarshal([]byte(line), &v); err != nil || v != want {
			t.Errorf("%s is read as %+v, %v; want %+v", line, v, err, want)
		}
	}
}

func TestAnAssessmentIsWeighedOnce(t *testing.T) {
	w := Weights{FromHeader: 2, FromTLS: 0}
	for _, c := range []struct {
		name string
		of   Assessment
		want Verdict
	}{
		{"with confidence", Assessment{Class: Spam, Confidence: 0.75, Score: 9, Source: FromHeader, Reason: "r"}, Verdict{Class: Spam, Weight: 1.5, Score: 9, Source: FromHeader, Reason: "r"}},
		{"of a source that counts nothing", Assessment{Class: Spam, Confidence: Certain, Source: FromTLS}, Verdict{Class: None, Source: FromTLS}},
		{"of an unknown source", Assessment{Class: Ham, Confidence: Certain, Source: "new"}, Verdict{Class: None, Source: "new"}},
		{"that says nothing", Assessment{Class: None, Confidence: Certain, Source: FromHeader}, Verdict{Class: None, Source: FromHeader}},
		{"without confidence", Assessment{Class: Ham, Source: FromHeader}, Verdict{Class: None, Source: FromHeader}},
	} {
		if got := w.Weigh(c.of); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestParseAddr(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", " [192.0.2.7] ": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "IPv6:2001:DB8:0::7": "2001:db8::7",
		"ipv6:0:0:0:0:0:0:0:1": "::1", "[IPv6:2001:db8::7]": "2001:db8::7", "fe80::1%eth0": "fe80::1",
		"192.0.2": "", "": "", "IPv6:": "", "client.example": "", "192.0.2.7:25": "",
	} {
		got, err := ParseAddr(in)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("%q is read as %v, %v; want %q", in, got, err, want)
		}
	}
}
