package verdict

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/policy"
)

// shape is a message's headers in the shape in which a filter writes them, and what is right.
type shape struct {
	Name, Want string
	Headers    []string
	// Config names headers that the operator lists beside ours.
	Config []string
}

// shapes reads a file of testdata, an object a line.
func shapes(t *testing.T, file string) (all []shape) {
	f, err := os.Open("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var s shape
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		all = append(all, s)
	}
	if err := lines.Err(); err != nil || len(all) == 0 {
		t.Fatal(len(all), err)
	}
	return all
}

// heard are the headers of a shape.
func (s shape) heard() (*Rules, *Headers) {
	r := &Rules{Headers: append(DefaultHeaders[:len(DefaultHeaders):len(DefaultHeaders)], s.Config...), Thresholds: DefaultThresholds, AuthservID: "mx.example", Silence: policy.None}
	h := new(Headers)
	for _, line := range s.Headers {
		name, value, _ := strings.Cut(line, ":")
		h.Hear(r, name, strings.TrimPrefix(value, " "))
	}
	return r, h
}

func TestTheHeadersOfOtherFilters(t *testing.T) {
	for _, s := range shapes(t, "headers.ndjson") {
		t.Run(s.Name, func(t *testing.T) {
			rules, h := s.heard()
			got := policy.None
			for _, a := range h.Assessments(rules) {
				got = a.Class
			}
			if string(got) != s.Want {
				t.Errorf("%s, want %s: %q", got, s.Want, s.Headers)
			}
		})
	}
}

func TestTheAuthenticationResultsOfOtherFilters(t *testing.T) {
	for _, s := range shapes(t, "authres.ndjson") {
		t.Run(s.Name, func(t *testing.T) {
			_, h := s.heard()
			result := func(of, domain string) string {
				if of == "" {
					return "()"
				}
				return of + "(" + domain + ")"
			}
			a := h.Auth()
			got := "spf=" + result(a.SPF, a.SPFDomain) + " dkim=" + result(a.DKIM, a.DKIMDomain) + " dmarc=" + result(a.DMARC, a.DMARCDomain)
			if got != s.Want {
				t.Errorf("%s, want %s: %q", got, s.Want, s.Headers)
			}
			// The victim's name is in no result that a sender wrote.
			if strings.HasPrefix(s.Name, "ATTACK") && strings.Contains(got, "pass(bank.example)") {
				t.Errorf("a forged pass: %s", got)
			}
		})
	}
}

func TestFiltersOfTheConfiguration(t *testing.T) {
	word := Filter{Header: "X-Foo", Read: "word", Spam: []string{"bad", "very bad"}, Ham: []string{"fine", "bad enough to keep"}}
	for _, c := range []struct {
		filter Filter
		value  string
		class  policy.Class
	}{
		{word, "Bad: x", policy.Spam},
		{word, "bad enough to keep", policy.Ham},
		{word, "fine", policy.Ham},
		{word, "who knows", policy.None},
		{word, "finest", policy.None},
		{word, "badly", policy.None},
		{Filter{Header: "X-Foo", Read: "number", Limit: 50}, "71 of 100", policy.Spam},
		{Filter{Header: "X-Foo", Read: "number", Limit: 50}, "12.5", policy.Ham},
		{Filter{Header: "X-Foo", Read: "stars", Limit: 4, Star: "x"}, "xxxxx", policy.Spam},
		{Filter{Header: "X-Foo", Read: "stars", Limit: 4, Star: "x"}, "", policy.Ham},
		{Filter{Header: "X-Foo", Read: "stars", Limit: 4, Star: "x"}, "+++++", policy.None},
		{Filter{Header: "X-Foo", Read: "stars", Limit: 4, Star: "x"}, "disabled", policy.None},
		{Filter{Header: "X-Foo", Read: "status"}, "No, score=1 required=5", policy.Ham},
	} {
		if err := c.filter.Check(policy.None); err != nil {
			t.Errorf("%+v: %v", c.filter, err)
		}
		r := Rules{Filters: []Filter{c.filter}, Thresholds: DefaultThresholds}
		if names := r.Names(); len(names) != 1 || names[0] != "X-Foo" {
			t.Errorf("names %q", names)
		}
		got := policy.None
		for _, a := range hear(&r, "X-Foo: "+c.value).Assessments(&r) {
			got = a.Class
		}
		if got != c.class {
			t.Errorf("%+v reads %q as %s, want %s", c.filter, c.value, got, c.class)
		}
	}
	for _, c := range []struct {
		filter Filter
		wrong  string
	}{
		{Filter{Read: "word", Spam: []string{"yes"}, Ham: []string{"no"}}, "no header"},
		{Filter{Header: "X-Foo", Read: "tea leaves"}, "want one of"},
		{Filter{Header: "subject", Read: "word", Spam: []string{"yes"}, Ham: []string{"no"}}, "by the sender"},
		{Filter{Header: "X-Foo", Read: "word", Spam: []string{"yes"}}, "none for ham"},
		{Filter{Header: "X-Foo", Read: "word", Ham: []string{"no"}}, "no words for spam"},
		{Filter{Header: "X-Foo", Read: "number"}, "limit is 0"},
		{Filter{Header: "X-Foo", Read: "number", Limit: -5}, "limit is -5"},
		{Filter{Header: "X-Foo", Read: "number", Limit: 5, Spam: []string{"yes"}}, "has words"},
		{Filter{Header: "X-Foo", Read: "word", Spam: []string{"Yes"}, Ham: []string{"yes"}}, "same word"},
		{Filter{Header: "X-Foo", Read: "word", Spam: []string{""}, Ham: []string{"yes"}}, "empty word"},
		{Filter{Header: "X-Foo", Read: "stars", Limit: 5}, "star"},
	} {
		if err := c.filter.Check(policy.None); err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%+v: %v, want an error with %q", c.filter, err, c.wrong)
		}
	}
	marks := Filter{Header: "X-Foo", Read: "word", Spam: []string{"yes"}}
	if err := marks.Check(policy.Ham); err != nil {
		t.Errorf("a filter that marks only spam, where silence is ham: %v", err)
	}
}
