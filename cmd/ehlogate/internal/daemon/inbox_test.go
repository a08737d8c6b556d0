package daemon

import (
	"strings"
	"testing"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
)

// TestNotesOnPosts: who posts what teaches nothing finds that in status, and a few of many are no
// matter.
func TestNotesOnPosts(t *testing.T) {
	for _, c := range []struct {
		posts, orphans uint64
		unread         []string
		want           []string
	}{
		{0, 0, nil, nil},
		{1, 1, nil, []string{"1 of 1 verdicts"}},
		{1000, 3, nil, nil},
		{1000, 300, []string{"scroe", "client"}, []string{"300 of 1000 verdicts", "mean nothing there: scroe, client"}},
	} {
		b := newInbox(&intake.Intake{}, nil)
		b.Posts.Store(c.posts)
		b.Stats.OrphanedPosts.Store(c.orphans)
		if c.unread != nil {
			b.unread.Store(&c.unread)
		}
		notes := b.notes()
		if len(notes) != len(c.want) {
			t.Fatalf("%+v: %q", c, notes)
		}
		for i, want := range c.want {
			if !strings.Contains(notes[i], want) {
				t.Errorf("%+v: %q", c, notes[i])
			}
		}
	}
}
