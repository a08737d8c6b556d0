package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/policy"
)

// TestAPostSaysWhatIsNotRead: who misspells a key is told at once, and the verdict is taken.
func TestAPostSaysWhatIsNotRead(t *testing.T) {
	s := newServer(t)
	var heard []policy.Signal
	var unread []string
	s.Malformed = func() {}
	s.Feed, s.Unread = func(g policy.Signal) { heard = append(heard, g) }, func(keys []string) { unread = append(unread, keys...) }
	s.KnowsClientOf = func(queueID string) bool { return queueID == "known" }
	for body, want := range map[string]string{
		`{"qid":"known","class":"spam"}`:               `{}`,
		`{"qid":"new","class":"spam"}`:                 `{"note":"no message of queue id \"new\" is known at this node yet: the verdict counts only if the milter or the MTA's log tells of it within 3s; name the client, too (\"ip\")"}`,
		`{"ip":"192.0.2.7","class":"spam","scroe":12}`: `{"ignored":["\"scroe\""]}`,
		`{"ip":"192.0.2.7","class":"spam","score":12}`: `{}`,
	} {
		w := request{http.MethodPost, "/feed/verdict", "192.0.2.1:1025", body, bearer(feedToken)}.to(s.Handler())
		if got := strings.TrimSpace(w.Body.String()); w.Code != http.StatusOK || got != want {
			t.Errorf("%s: %d %s", body, w.Code, got)
		}
	}
	w := request{http.MethodPost, "/feed/verdict", "192.0.2.1:1025", `{"ip":"192.0.2.7","clas":"spam"}`, bearer(feedToken)}.to(s.Handler())
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "keys that mean nothing: \\\"clas\\\"") {
		t.Errorf("a misspelt class: %d %s", w.Code, w.Body)
	}
	if len(heard) != 4 || !slices.Equal(unread, []string{`"scroe"`}) {
		t.Errorf("heard %d, unread %q", len(heard), unread)
	}
}

func TestReportsAreChecked(t *testing.T) {
	s := newServer(t)
	var heard []Report
	s.Learn = func(r []Report) (done []Learnt, err error) {
		heard = append(heard, r...)
		return []Learnt{{Status: intake.New, Addr: r[0].Addr}}, nil
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	good := Report{Class: policy.Spam, Source: policy.FromPerson, Addr: netip.MustParseAddr("::ffff:192.0.2.7")}
	if _, err := client(t, server.URL, "").Learn(t.Context(), []Report{good}); err == nil {
		t.Error("learnt without the token")
	}
	c := client(t, server.URL, token)
	if done, err := c.Learn(t.Context(), []Report{good}); err != nil || len(done) != 1 || done[0].Addr.String() != "192.0.2.7" {
		t.Errorf("%+v, %v", done, err)
	}
	for name, change := range map[string]func(*Report){
		"of no class":       func(r *Report) { r.Class = policy.None },
		"of a filter":       func(r *Report) { r.Source = policy.FromHeader },
		"about nobody":      func(r *Report) { r.Addr = netip.Addr{} },
		"of another source": func(r *Report) { r.Source = "gossip" },
	} {
		r := good
		change(&r)
		if _, err := c.Learn(t.Context(), []Report{r}); err == nil || !strings.Contains(err.Error(), "report 1: ") {
			t.Errorf("a report %s: %v", name, err)
		}
	}
	if _, err := c.Learn(t.Context(), make([]Report, mostReports+1)); err == nil {
		t.Error("too many reports at once")
	}
	if len(heard) != 1 {
		t.Errorf("heard %+v", heard)
	}
	var report Report
	if b, err := json.Marshal(good); err != nil || json.Unmarshal(b, &report) != nil || report != good {
		t.Errorf("%+v", report)
	}
}
