package api

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// fuzzServer is a server that takes all.
func fuzzServer(f *testing.F) *Server {
	s := newServer(f)
	s.Feed, s.Malformed = func(policy.Signal) {}, func() {}
	s.Learn = func(reports []Report) ([]Learnt, error) {
		learnt := make([]Learnt, len(reports))
		for i := range learnt {
			learnt[i].Status = intake.New
		}
		return learnt, nil
	}
	s.Reload = func() (Reloaded, error) { return Reloaded{}, nil }
	return s
}

// FuzzBodies posts anything to everything that takes a body: it is done or refused, and never a
// fault of ours.
func FuzzBodies(f *testing.F) {
	paths := []string{"/api/v1/change", "/api/v1/learn", "/feed/rspamd", "/feed/verdict"}
	for i, body := range []string{
		`{"verb":"deny","network":"192.0.2.0/24","note":"x","for":"7d"}`, `[{"class":"spam","source":"person","queue_id":"4XyZ","addr":"192.0.2.7","time":"2026-11-24T12:00:00Z"}]`, spam,
		`{"ip":"192.0.2.7","class":"ham","score":-1e309,"limit":0}`, `{"verb":"forget","network":"::/0"}`, `[{"addr":"::ffff:1.2.3.4%eth0","class":"ham","source":"report"}]`, `[null]`, `{"symbols":[{"name":null}]}`,
	} {
		f.Add(uint8(i), body)
	}
	h := fuzzServer(f).Handler()
	f.Fuzz(func(t *testing.T, path uint8, body string) {
		w := request{http.MethodPost, paths[int(path)%len(paths)], here, body, bearer(token)}.to(h)
		if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
	})
}

// FuzzLoad posts anything as a chunk of a dump.
func FuzzLoad(f *testing.F) {
	e, _ := reputation.Evidence{}.AddCount(490_000, reputation.Count{Spam: 8})
	record, _ := e.AppendBinary(nil)
	line, _ := json.Marshal(DumpLine{Network: netip.MustParsePrefix("192.0.2.7/32"), Evidence: record})
	for _, seed := range []string{
		string(line), `{"asn":64500,"evidence":"AAAA"}`, `{"override":{"network":"192.0.2.0/24","allow":true}}`, `{"override":{}}`, `{"exception":{"network":"192.0.2.7/32","cause":"x","until":"9999-01-01T00:00:00Z"}}`,
		`{"exception":{}}`, `{"network":"::ffff:1.2.3.4/128"}`, `{"head":{}}`,
	} {
		f.Add(seed)
	}
	s := fuzzServer(f)
	h := s.Handler()
	chunk := 0
	f.Fuzz(func(t *testing.T, body string) {
		chunk++
		path := fmt.Sprintf("/api/v1/load?dump=%d&chunk=1&layout=%s", chunk, strings.ReplaceAll(strings.ReplaceAll(s.Judge.Policy().Layout.Text(), " ", "%20"), ";", "%3B"))
		w := request{http.MethodPost, path, here, body, bearer(token)}.to(h)
		if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
		// What was loaded can be dumped, and looked at.
		for _, path := range []string{"/api/v1/dump", "/api/v1/export?format=cidr", "/api/v1/top?n=10", "/api/v1/overrides", "/api/v1/marks"} {
			if w := (request{http.MethodGet, path, here, "", bearer(token)}).to(h); w.Code != http.StatusOK {
				t.Errorf("%s: %d: %s", path, w.Code, w.Body)
			}
		}
	})
}

// FuzzExportReadBack makes overrides of anything, and reads the exported table as cidr_table(5)
// does, the first match first: it says of each address what a lookup says.
func FuzzExportReadBack(f *testing.F) {
	f.Add([]byte{1, 24, 192, 0, 2, 0, 0, 32, 192, 0, 2, 0, 1, 16, 192, 0, 2, 7})
	f.Add([]byte{3, 48, 1, 2, 3, 4, 2, 64, 1, 2, 3, 4, 3, 128, 1, 2, 3, 4, 2, 70, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newServer(t)
		var asked []netip.Addr
		for n := 0; len(b) >= 6 && n < 16; n++ {
			allow, bits := b[0]&1 == 0, int(b[1])
			addr := netip.AddrFrom4([4]byte(b[2:6]))
			if b[0]&2 != 0 {
				var a [16]byte
				copy(a[:], []byte{0x20, 0x01, 0x0d, 0xb8})
				binary.BigEndian.PutUint32(a[4:], binary.BigEndian.Uint32(b[2:6]))
				addr = netip.AddrFrom16(a)
			}
			n := netip.PrefixFrom(addr, bits%(addr.BitLen()+1)).Masked()
			asked = append(asked, addr, n.Addr(), addr.Next(), addr.Prev())
			if n.Bits() > 0 {
				if err := s.Store.SetOverride(policy.Override{Network: n, Allow: allow, Set: s.Now()}); err != nil {
					t.Fatal(err)
				}
			}
			b = b[6:]
		}
		w := request{http.MethodGet, "/api/v1/export?format=cidr", here, "", bearer(token)}.to(s.Handler())
		type line struct {
			network  netip.Prefix
			keywords string
		}
		var table []line
		for text := range strings.Lines(w.Body.String()) {
			pattern, result, ok := strings.Cut(strings.TrimSuffix(text, "\n"), "\t")
			n, err := netip.ParsePrefix(pattern)
			if !ok || err != nil || n != n.Masked() {
				t.Fatalf("line %q", text)
			}
			table = append(table, line{n, result})
		}
		for _, addr := range asked {
			if !addr.IsValid() {
				continue
			}
			got := ""
			for _, l := range table {
				if l.network.Contains(addr) {
					got = strings.TrimPrefix(l.keywords, "silent-discard")
					break
				}
			}
			if want := s.Judge.Decide(addr).Keywords(); got != want {
				t.Fatalf("%s: the table says %q, a lookup %q; the table:\n%s", addr, got, want, w.Body)
			}
		}
	})
}
