package verdict

import (
	"encoding/json"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

var rules = Rules{Headers: DefaultHeaders, Thresholds: DefaultThresholds, AuthservID: "mx.example", Silence: policy.None}

// hear reads headers, each "Name: value".
func hear(r *Rules, headers ...string) *Headers {
	h := new(Headers)
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		h.Hear(r, name, value)
	}
	return h
}

// resolve is the verdict that counts of assessments, weighed by default.
func resolve(all []policy.Assessment) policy.Verdict {
	var verdicts policy.Verdicts
	for _, a := range all {
		verdicts = verdicts.With(policy.DefaultWeights().Weigh(a))
	}
	return verdicts.Resolve()
}

func near(got policy.Messages, want float64) bool { return math.Abs(float64(got)-want) < 1e-9 }

func TestHeaders(t *testing.T) {
	for _, c := range []struct {
		name     string
		headers  []string
		class    policy.Class
		score    float64
		messages float64
	}{
		{"nothing said", nil, policy.None, 0, 0},
		{"SpamAssassin's flag", []string{"X-Spam-Flag: YES"}, policy.Spam, 0, 1},
		{"SpamAssassin's status at one and a half times its limit", []string{"X-Spam-Status: Yes, score=7.5 required=5.0 tests=A,B"}, policy.Spam, 7.5, 0.75},
		{"just at its limit", []string{"X-Spam-Status: Yes, score=5.0 required=5.0"}, policy.Spam, 5, 0.5},
		{"GTUBE", []string{"X-Spam-Status: Yes, score=1000.0 required=5.0"}, policy.Spam, 1000, 1},
		{"a folded status", []string{"X-Spam-Status: No,\n\tscore=-1.3\n\trequired=5.0"}, policy.Ham, -1.3, 1},
		{"a middling status", []string{"X-Spam-Status: No, score=2.5 required=5.0"}, policy.Ham, 2.5, 0.5},
		{"a status so near the limit that it says nothing", []string{"X-Spam-Status: No, score=4.9 required=5.0"}, policy.None, 4.9, 0},
		{"flag and status give one verdict with a score", []string{"X-Spam-Flag: YES", "X-Spam-Status: Yes, score=7.5 required=5"}, policy.Spam, 7.5, 0.75},
		{"flag and level give one verdict with a score", []string{"X-Spam-Flag: YES", "X-Spam-Level: *******"}, policy.Spam, 7, 1},
		{"a level alone", []string{"X-Spam-Level: *******"}, policy.Spam, 7, 0.5 + 0.5/9},
		{"a level alone, of a message with little", []string{"X-Spam-Level: *"}, policy.Ham, 1, 5.0 / 6},
		{"rspamd's plain header", []string{"X-Spam: Yes"}, policy.Spam, 0, 1},
		{"rspamd's result below its reject score", []string{"X-Spamd-Result: default: False [9.00 / 15.00]; A(1)[x]"}, policy.Spam, 9, 2.0 / 3},
		{"rspamd's clean result", []string{"X-Spamd-Result: default: False [-0.50 / 15.00]; A(1)"}, policy.Ham, -0.5, 1},
		{"rspamd's reject", []string{"X-Spamd-Result: default: True [16.00 / 15.00]"}, policy.Spam, 16, 1},
		{"rspamd's action beside its result", []string{"X-Rspamd-Action: add header", "X-Spamd-Result: default: False [6.00 / 15.00]"}, policy.Spam, 6, 0.5},
		{"rspamd's status before its result", []string{"X-Spam-Status: Yes, score=9.00", "X-Spamd-Result: default: False [9.00 / 15.00]"}, policy.Spam, 9, 2.0 / 3},
		{"rspamd's status after its result", []string{"X-Spamd-Result: default: False [3.00 / 15.00]", "X-Spam-Status: No, score=3.00"}, policy.Ham, 3, 0.8},
		{"rspamd is in two minds, its action first", []string{"X-Rspamd-Action: no action", "X-Spamd-Result: default: False [6.90 / 15.00]"}, policy.Ham, 6.9, 1 - 6.9/15},
		{"rspamd is in two minds, its action last", []string{"X-Spamd-Result: default: False [6.90 / 15.00]", "X-Rspamd-Action: no action"}, policy.Ham, 6.9, 1 - 6.9/15},
		{"rspamd puts off", []string{"X-Rspamd-Action: greylist"}, policy.None, 0, 0},
		{"a forged No before the filter's Yes", []string{"X-Spam-Status: No, score=-9 required=5", "X-Spam-Flag: YES"}, policy.Spam, 0, 1},
		{"a forged No after the filter's Yes", []string{"X-Spam-Flag: YES", "X-Spam-Flag: NO"}, policy.Spam, 0, 1},
		{"a forged low score before the filter's", []string{"X-Spam-Status: No, score=-99 required=5.0", "X-Spam-Status: No, score=2.5 required=5.0"}, policy.Ham, 2.5, 0.5},
		{"a forged low score after the filter's", []string{"X-Spam-Status: No, score=2.5 required=5.0", "X-Spam-Status: No, score=-99 required=5.0"}, policy.Ham, 2.5, 0.5},
		{"a score that is none", []string{"X-Spam-Status: Yes, score=NaN required=5"}, policy.Spam, 0, 1},
		{"an infinite score", []string{"X-Spamd-Result: default: False [Inf / 15.00]"}, policy.None, 0, 0},
		{"rubbish", []string{"X-Spam-Status: maybe", "X-Spamd-Result: [", "X-Spam: "}, policy.None, 0, 0},
		{"a header that nobody owns", []string{"X-Other-Spam: YES"}, policy.None, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := resolve(hear(&rules, c.headers...).Assessments(&rules))
			if v.Class != c.class || v.Score != c.score || !near(v.Weight, c.messages) {
				t.Errorf("%+v, want %s with %v, weighing %v", v, c.class, c.score, c.messages)
			}
		})
	}
	if v := resolve(new(Headers).Assessments(&Rules{Silence: policy.Ham})); v.Class != policy.Ham || v.Source != policy.FromSilence {
		t.Errorf("silence that is ham: %+v", v)
	}
}

func TestAuthenticationResults(t *testing.T) {
	const good = "Authentication-Results: mx.example; spf=pass smtp.mailfrom=alice@sender.example; dkim=pass header.d=sender.example; dmarc=pass header.from=sender.example"
	pass := policy.Auth{SPF: "pass", SPFDomain: "sender.example", DKIM: "pass", DKIMDomain: "sender.example", DMARC: "pass", DMARCDomain: "sender.example"}
	for _, c := range []struct {
		name    string
		headers []string
		want    policy.Auth
	}{
		{"of the local filter", []string{good}, pass},
		{"in three headers, as opendkim, opendmarc and an SPF milter write them", []string{
			"Authentication-Results: mx.example; dmarc=pass header.from=sender.example", "Authentication-Results: mx.example; spf=pass smtp.mailfrom=sender.example",
			"Authentication-Results: MX.example; dkim=pass header.d=sender.example"}, pass},
		{"of another host", []string{strings.Replace(good, "mx.example", "mx.other.example", 1)}, policy.Auth{}},
		{"below a Received header, where the client's own are", []string{"Received: from a by b; date", good}, policy.Auth{}},
		{"a forged pass beside the filter's fail", []string{good, "Authentication-Results: mx.example; dmarc=fail header.from=bank.example; spf=softfail smtp.mailfrom=x@bank.example"},
			policy.Auth{SPF: "softfail", SPFDomain: "bank.example", DKIM: "pass", DKIMDomain: "sender.example", DMARC: "fail", DMARCDomain: "bank.example"}},
		{"of no result", []string{"Authentication-Results: mx.example; none"}, policy.Auth{}},
		{"rubbish", []string{"Authentication-Results: ;;;", "Authentication-Results: mx.example; spf", "Authentication-Results: "}, policy.Auth{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := hear(&rules, c.headers...)
			if got := h.Auth(); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			all := h.Assessments(&rules)
			if failed := c.want.DMARC == "fail"; failed != (len(all) == 1) {
				t.Errorf("assessments %+v", all)
			}
		})
	}
	if v := policy.DefaultWeights().Weigh(policy.Assessment{Class: policy.Spam, Confidence: policy.Certain, Source: policy.FromAuthentication, Reason: "dmarc=fail"}); v.Class != policy.None || v.Reason == "" {
		t.Errorf("DMARC by itself convicts: %+v", v)
	}
}

func TestRejections(t *testing.T) {
	unknown := Rejection{Status: "5.1.1", Text: "Recipient address rejected: User unknown in local recipient table"}
	for _, c := range []struct {
		name     string
		of       []Rejection
		class    policy.Class
		source   policy.Source
		messages float64
	}{
		{"none", nil, policy.None, "", 0},
		{"one unknown user is a typo", []Rejection{unknown}, policy.None, policy.FromUnknownUser, 0},
		{"four are suspicious", []Rejection{unknown, unknown, unknown, unknown}, policy.Spam, policy.FromUnknownUser, 1.0 / 3},
		{"ten are a harvest", slicesRepeat(unknown, 10), policy.Spam, policy.FromUnknownUser, 1},
		{"a DNSBL", []Rejection{{Status: "5.7.1", Text: "Client host rejected: Service unavailable; Client host [192.0.2.1] blocked using zen.example"}}, policy.Spam, policy.FromDNSBL, 1},
		{"greylisting is no verdict", []Rejection{{Status: "4.2.0", Text: "Client host rejected: Greylisted"}}, policy.None, policy.FromGreylist, 0},
		{"greylisting by policy is no verdict", []Rejection{{Status: "4.7.1", Text: "Recipient address rejected: Greylisted, see ..."}}, policy.None, policy.FromGreylist, 0},
		{"any other temporary refusal", []Rejection{{Status: "4.3.0", Text: "Server configuration error"}}, policy.None, policy.FromTempfail, 0},
		{"a mailbox that is full", []Rejection{{Status: "5.2.2", Text: "Mailbox full"}}, policy.None, policy.FromRecipient, 0},
		{"relaying", []Rejection{{Status: "5.7.1", Text: "Relay access denied"}}, policy.Spam, policy.FromRelay, 0.25},
		{"the operator's access table", []Rejection{{Status: "5.7.1", Text: "Client host rejected: Access denied"}}, policy.Spam, policy.FromRecipient, 1},
		{"a limit", []Rejection{{Status: "4.7.1", Text: "Error: too many recipients from 192.0.2.7"}}, policy.Spam, policy.FromLimit, 0.25},
		{"the worst of several", []Rejection{unknown, {Status: "5.7.1", Text: "Client host rejected: Access denied"}}, policy.Spam, policy.FromRecipient, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r Rejections
			for i, of := range c.of {
				// As behaviour.Clients counts them.
				r.Add(of, policy.Confidence(min(i, 1))/9)
			}
			if v := resolve(r.Assessments()); v.Class != c.class || v.Source != c.source || !near(v.Weight, c.messages) {
				t.Errorf("%+v, want %s from %q, weighing %v", v, c.class, c.source, c.messages)
			}
		})
	}
}

func slicesRepeat(r Rejection, n int) (all []Rejection) {
	for range n {
		all = append(all, r)
	}
	return all
}

func TestTraps(t *testing.T) {
	file := filepath.Join(t.TempDir(), "traps")
	if err := os.WriteFile(file, []byte("# old addresses\nOld@mx.example # since 2019\n\n@spam.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	traps, err := ParseTraps([]string{"bait@mx.example", "trap.example", file})
	if err != nil || traps.Len() != 4 {
		t.Fatalf("%d traps, %v", traps.Len(), err)
	}
	for rcpt, caught := range map[string]bool{
		"<BAIT@MX.example>": true, "bait+news@mx.example": true, "anyone@trap.example": true, "old@mx.example": true, "x@spam.example": true,
		"bob@mx.example": false, "x@sub.trap.example": false, "bait": false, "": false,
	} {
		v, ok := traps.Caught(rcpt)
		if ok != caught || ok && (v.Class != policy.Spam || strings.Contains(v.Reason, "bait")) {
			t.Errorf("%q: %v %+v", rcpt, ok, v)
		}
	}
	for _, bad := range []string{"nobody", "a@b@c.example", "@", "/does/not/exist"} {
		if _, err := ParseTraps([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if err := os.WriteFile(file, []byte("good@mx.example\nbad one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseTraps([]string{file}); err == nil || !strings.Contains(err.Error(), file+":2: ") {
		t.Errorf("a bad line: %v", err)
	}
}

func TestFeeds(t *testing.T) {
	now := time.Now()
	rspamd, feed := DefaultThresholds.Rspamd, Feed
	for _, c := range []struct {
		name, body string
		read       func([]byte, time.Time) (policy.Signal, error)
		class      policy.Class
		score      float64
		messages   float64
		wrong      string
	}{
		{"rspamd adds a header", `{"ip":"192.0.2.7","qid":"4XyZ","action":"add header","score":9.0,"from":"a@Sender.example","rcpt":["x"]}`, rspamd, policy.Spam, 9, 2.0 / 3, ""},
		{"rspamd rejects a virus, without a score", `{"ip":"192.0.2.7","qid":"4XyZ","action":"reject","score":0}`, rspamd, policy.Spam, 0, 1, ""},
		{"rspamd rejects", `{"ip":"192.0.2.7","qid":"4XyZ","action":"reject","score":16.2,"from":"unknown","rcpt":"unknown"}`, rspamd, policy.Spam, 16.2, 1, ""},
		{"rspamd finds nothing", `{"ip":"192.0.2.7","qid":"unknown","action":"no action","score":1.5}`, rspamd, policy.Ham, 1.5, 0.9, ""},
		{"rspamd refuses a logged-in user's", `{"ip":"192.0.2.7","qid":"4XyZ","action":"reject","score":16.2,"user":"bob"}`, rspamd, policy.None, 16.2, 0, ""},
		{"rspamd greylists", `{"ip":"::ffff:192.0.2.7","qid":"4XyZ","action":"soft reject","score":5}`, rspamd, policy.None, 5, 0, ""},
		{"rspamd knows no client and no queue id", `{"ip":"unknown","qid":"unknown","action":"reject","score":16}`, rspamd, "", 0, 0, "neither a queue id nor an address"},
		{"an action of another world", `{"ip":"192.0.2.7","action":"explode"}`, rspamd, "", 0, 0, "action"},
		{"another program", `{"ip":"192.0.2.7","qid":"4XyZ","class":"spam","score":"12.3","limit":10,"reason":"BAYES_99"}`, feed, policy.Spam, 12.3, 0.615, ""},
		{"Exim's rspamd", `{"ip":"192.0.2.7","action":"add header","score":"7.5","qid":"1abcDE-0001","tls":"TLS1.3"}`, feed, policy.Spam, 7.5, 1, ""},
		{"a virus scanner, without a score", `{"ip":"192.0.2.7","qid":"4XyZ","class":"spam","limit":10,"reason":"Eicar"}`, feed, policy.Spam, 0, 1, ""},
		{"a reject with a score and no limit", `{"ip":"192.0.2.7","qid":"4XyZ","action":"reject","score":6}`, feed, policy.Spam, 6, 1, ""},
		{"a reject just over its limit", `{"ip":"192.0.2.7","qid":"4XyZ","action":"reject","score":"6","limit":"5"}`, feed, policy.Spam, 6, 0.6, ""},
		{"a reject without a score", `{"ip":"192.0.2.7","qid":"4XyZ","action":"reject","limit":10}`, feed, policy.Spam, 0, 1, ""},
		{"no class", `{"ip":"192.0.2.7"}`, feed, "", 0, 0, "class"},
		{"a score that is none", `{"ip":"192.0.2.7","class":"spam","score":"1e999"}`, feed, "", 0, 0, "number"},
		{"an address that is none", `{"ip":"client.example","class":"spam"}`, feed, "", 0, 0, "not an IP address"},
		{"nested a thousand deep", strings.Repeat(`{"ip":`, 1000), feed, "", 0, 0, "JSON"},
		{"cut short", `{"ip":"192.0.2.7","cl`, feed, "", 0, 0, "JSON"},
		{"a number in place of an object", `7`, rspamd, "", 0, 0, "object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			signal, err := c.read([]byte(c.body), now)
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Fatalf("%+v, %v; want an error with %q", signal, err, c.wrong)
				}
				return
			}
			v := resolve([]policy.Assessment{signal.Assessment})
			if err != nil || v.Class != c.class || v.Score != c.score || !near(v.Weight, c.messages) || signal.Addr != netip.MustParseAddr("192.0.2.7") || !signal.Mail {
				t.Errorf("%+v, %v", signal, err)
			}
		})
	}
}

// TestAFeedTellsTheTransport: what a program says of TLS is known where no milter hears the
// session, and a key that means nothing is named.
func TestAFeedTellsTheTransport(t *testing.T) {
	for tls, want := range map[string]policy.Signal{
		"":                                  {},
		"none":                              {InClear: true},
		"TLSv1.3":                           {TLS: &policy.TLS{Version: "TLSv1.3"}},
		"TLS1.2":                            {TLS: &policy.TLS{Version: "TLSv1.2"}},
		"TLS1.3:TLS_AES_128_GCM_SHA256:128": {TLS: &policy.TLS{Version: "TLSv1.3", Cipher: "TLS_AES_128_GCM_SHA256", Bits: 128}},
	} {
		s, err := Feed([]byte(`{"ip":"192.0.2.7","class":"spam","tls":"`+tls+`"}`), time.Now())
		if err != nil || s.InClear != want.InClear || (s.TLS == nil) != (want.TLS == nil) || s.TLS != nil && *s.TLS != *want.TLS {
			t.Errorf("%q: %+v, %v", tls, s, err)
		}
	}
	for _, tls := range []string{"yes", "unknown", "-", "TLS\u009b31m", "TLSv9", "TLS1.2:A:-5", "TLS1.2:A"} {
		body, _ := json.Marshal(map[string]string{"ip": "192.0.2.7", "class": "spam", "tls": tls})
		s, err := Feed(body, time.Now())
		if got := FeedUnread(body); err != nil || s.TLS != nil || s.InClear || len(got) != 1 || !strings.HasPrefix(got[0], "tls ") {
			t.Errorf("%q: %+v, %v; unread %q", tls, s, err, got)
		}
	}
	if got := FeedUnread([]byte(`{"ip":"192.0.2.7","QID":"4XyZ","class":"spam","scroe":1,"tls":"none","client":"x","Limit":5,"action":"","reason":"","port":1,"time":null}`)); !slices.Equal(got, []string{`"client"`, `"scroe"`}) {
		t.Errorf("unread: %q", got)
	}
}

// sane fails unless an assessment can be weighed, kept and written.
func sane(t *testing.T, v policy.Assessment) {
	t.Helper()
	weighed := policy.DefaultWeights().Weigh(v)
	if math.IsNaN(v.Score) || math.Abs(v.Score) > mostScore || !(weighed.Weight >= 0 && weighed.Weight <= policy.MostWeight) || !(v.Confidence >= 0 && v.Confidence <= 1) || len(v.Reason) > 8*maxReason {
		t.Fatalf("%+v", v)
	}
	if _, err := json.Marshal(weighed); err != nil {
		t.Fatal(err)
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add("X-Spam-Status", "Yes, score=7.8 required=5.0")
	f.Add("X-Spam-Status", "No, score=7.8 required=1e-300")
	f.Add("X-Spamd-Result", "default: False [11.00 / 15.00]; A(1)[x]")
	f.Add("X-Spamd-Result", "[[//]]")
	f.Add("X-Spam-Level", strings.Repeat("*", 300))
	f.Add("X-Rspamd-Action", "add header")
	f.Add("Authentication-Results", "mx.example; spf=pass smtp.mailfrom=\"a\\\"\x00\"@b; dmarc=fail")
	f.Add("Authentication-Results", "mx.example 1; (((("+strings.Repeat("(", 1000))
	f.Fuzz(func(t *testing.T, name, value string) {
		h := hear(&rules)
		h.Hear(&rules, "X-Spam-Status", "Yes, score=7.5 required=5.0")
		h.Hear(&rules, name, value)
		for _, v := range h.Assessments(&Rules{Silence: policy.Ham}) {
			sane(t, v)
		}
		if v := resolve(h.Assessments(&Rules{Silence: policy.Ham})); v.Class != policy.Spam {
			t.Fatalf("a forged header hides the filter's: %+v", v)
		}
		if a := h.Auth(); len(a.DMARC) > 200 || len(a.SPFDomain) > 8*maxReason {
			t.Fatalf("%+v", a)
		}
	})
}

func FuzzFeeds(f *testing.F) {
	f.Add([]byte(`{"ip":"192.0.2.7","qid":"4XyZ","action":"add header","score":9.0,"from":"a@b"}`))
	f.Add([]byte(`{"ip":"192.0.2.7","class":"ham","score":"-1","limit":"5"}`))
	f.Add([]byte(strings.Repeat("[", 1000)))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, read := range []func([]byte, time.Time) (policy.Signal, error){DefaultThresholds.Rspamd, Feed} {
			if s, err := read(body, time.Now()); err == nil {
				sane(t, s.Assessment)
				if FeedUnread(body); s.TLS != nil && len(s.TLS.Cipher) > 8*maxReason {
					t.Fatalf("%+v", s.TLS)
				}
				if s.Addr.Is4In6() || !s.Addr.IsValid() && s.QueueID == "" {
					t.Fatalf("%+v", s)
				}
			}
		}
	})
}
