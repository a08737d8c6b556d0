package reputation

import (
	"encoding/hex"
	"os"
	"regexp"
	"testing"
	"time"
)

// TestTheDocumentedRecord reads the example of contrib/doc/formats.md.
func TestTheDocumentedRecord(t *testing.T) {
	text, err := os.ReadFile("../../contrib/doc/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`(?m)^    ([0-9a-f]{64})$`).FindSubmatch(text)
	if example == nil {
		t.Fatal("no example")
	}
	b, err := hex.DecodeString(string(example[1]))
	if err != nil {
		t.Fatal(err)
	}
	var e Evidence
	if err := e.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if want, _ := (Evidence{}).Add(time.Date(2026, 11, 24, 13, 21, 0, 0, time.UTC), 2, 0.5); e != want {
		t.Errorf("it is %+v, want %+v", e, want)
	}
}
