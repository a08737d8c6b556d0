package main

import (
	"bytes"
	"testing"
)

// FuzzDumpFile reads anything as a dump.
func FuzzDumpFile(f *testing.F) {
	f.Add([]byte(`{"head":{"format":"ehlogate dump 1","id":"x","layout":"y"}}` + "\n" + `{"end":{"records":0,"overrides":0}}` + "\n"))
	f.Add([]byte(`{"head":{"format":"ehlogate dump 1"}}` + "\n" + `{"network":"192.0.2.0/24","evidence":"IgAA"}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, end, err := verify("dump", bytes.NewReader(b))
		if err == nil && end.Records+end.Overrides+end.Exceptions > bytes.Count(b, []byte("\n"))+1 {
			t.Errorf("%+v in %q", end, b)
		}
	})
}
