package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// reported is what somebody reports, in the shape in which mail servers, mail programs and providers
// write it, and what is right: "192.0.2.66", with "id ..." or not, "ham 192.0.2.66", "refused", a
// number of messages, one of several after "or", and "never 203.0.113.99".
type reported struct {
	Name, Want, Raw string
	Base64          []byte
}

var (
	anyAddress = regexp.MustCompile(`[0-9a-fA-F:.]*[:.][0-9a-fA-F:.]*[0-9a-fA-F]`)
	ownOf      = regexp.MustCompile(`OWN=(\S+)`)
	neverOf    = regexp.MustCompile(`never ([0-9a-fA-F:.]+[0-9a-fA-F])`)
	countOf    = regexp.MustCompile(`^[0-9]{1,2}(?:$|[ ,;]|: )`)
)

func TestTheReportsOfTheWorld(t *testing.T) {
	f, err := os.Open("testdata/reports.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 8<<20)
	n := 0
	for lines.Scan() {
		var r reported
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		n++
		t.Run(r.Name, r.check)
	}
	if err := lines.Err(); err != nil || n == 0 {
		t.Fatal(n, err)
	}
}

func (r reported) check(t *testing.T) {
	raw := []byte(r.Raw)
	if len(r.Base64) > 0 {
		raw = r.Base64
	}
	var own []netip.Prefix
	if m := ownOf.FindStringSubmatch(r.Want); m != nil {
		for _, s := range strings.Split(strings.Trim(m[1], ";,)"), ",") {
			own = append(own, netip.MustParsePrefix(s))
		}
	}
	var got []Message
	var refused []error
	err := Each(bytes.NewReader(raw), func(raw []byte) error {
		switch m, err := Read(raw, own); err {
		case nil:
			if m.Claimed {
				// No such message is known.
				refused = append(refused, errors.New("claimed"))
				break
			}
			got = append(got, m)
		case ErrFolder:
		default:
			refused = append(refused, err)
		}
		return nil
	})
	if err != nil {
		refused = append(refused, err)
	}
	for _, never := range neverOf.FindAllStringSubmatch(r.Want, -1) {
		for _, m := range got {
			if m.Addr == netip.MustParseAddr(never[1]) {
				t.Errorf("accuses %s: want %s", m.Addr, r.Want)
			}
		}
	}
	want, _, _ := strings.Cut(r.Want, "; never")
	want, _, _ = strings.Cut(want, "never")
	if !slices.ContainsFunc(strings.Split(strings.TrimSpace(want), " or "), func(want string) bool { return fits(want, got, refused) }) {
		t.Errorf("%+v, refused %v; want %s", got, refused, r.Want)
	}
}

// fits reports whether what was read is what is wanted.
func fits(want string, got []Message, refused []error) bool {
	switch {
	case strings.Contains(want, "refused"), strings.HasPrefix(want, "none"), strings.HasPrefix(want, "not spam"), strings.HasPrefix(want, "own user"):
		return len(got) == 0 && len(refused) > 0
	case countOf.MatchString(want):
		var n int
		fmt.Sscan(want, &n)
		return len(got) == n
	}
	if len(got) != 1 {
		return false
	}
	m := got[0]
	if id, ok := strings.CutPrefix(want[max(0, strings.Index(want, " id ")):], " id "); ok {
		id, _, _ = strings.Cut(id, " ")
		if !strings.HasPrefix(m.QueueID, strings.TrimRight(id, ".;,")) {
			return false
		}
	}
	return slices.ContainsFunc(anyAddress.FindAllString(want, 1), func(s string) bool {
		addr, err := netip.ParseAddr(s)
		return err == nil && addr == m.Addr && (!strings.HasPrefix(want, "ham ") || m.Class() == "ham")
	})
}
