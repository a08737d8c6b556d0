package eventlog

import (
	"bytes"
	"strings"
	"testing"
)

const good = `{"id":7,"time":"2026-11-24T08:00:00Z","client":{"addr":"192.0.2.7"},"verdict":{"class":"spam"}}`

func TestRowsComeInTheirOrderWithTheirLines(t *testing.T) {
	const lines = 5000
	n := 0
	for r, err := range Rows(strings.NewReader(strings.Repeat(good+"\n", lines-1) + good)) {
		if n++; err != nil || r.Line != n || r.ID != 7 || !r.Named || !r.Mail {
			t.Fatalf("row %d: %+v, %v", n, r, err)
		}
	}
	if n != lines {
		t.Errorf("%d rows, want %d", n, lines)
	}
	for range Rows(strings.NewReader(strings.Repeat(good+"\n", lines))) {
		break // whoever stops early leaves nothing running that waits for him
	}
}

// FuzzRows reads anything as a trace: every line before the first error is a row, and the error
// names its line.
func FuzzRows(f *testing.F) {
	for _, s := range []string{good, "", "{}", "null", "[]", `{"time":null}`, good + "\n" + good[:40], strings.Replace(good, "192.0.2.7", "fe80::1%eth0", 1), strings.Replace(good, "192.0.2.7", "::ffff:192.0.2.7", 1), "\x00", strings.Repeat("[", 10000)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, trace []byte) {
		n := 0
		for r, err := range Rows(bytes.NewReader(trace)) {
			n++
			if err != nil {
				if !strings.HasPrefix(err.Error(), "line ") {
					t.Fatalf("%v", err)
				}
				continue
			}
			if r.Line != n || r.Addr.IsValid() && (r.Addr.Is4In6() || r.Addr.Zone() != "") {
				t.Fatalf("row %d: %+v", n, r)
			}
		}
	})
}
