package policy

import "testing"

// TestTheDomainOfASender: what has no domain is a local part, which nobody may see.
func TestTheDomainOfASender(t *testing.T) {
	for address, want := range map[string]string{"": "", "a@Mx.Example": "mx.example", "secret": "", "a@b@c.example": "c.example", "secret@": ""} {
		if got := Domain(address); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}
