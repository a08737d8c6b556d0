package redis

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// shelves are a single Redis with the rights of contrib/redis/users.acl alone, and a cluster.
func shelves(t *testing.T) map[string][2]*Store {
	t.Helper()
	server := startRedis(t)
	_, rights := aclOf(t)
	do(t, server, append([]any{"ACL", "SETUSER", "ehlogate"}, rights...)...)
	single := "redis://ehlogate:change-me@" + server.Addr()
	_, cluster := newCluster(t)
	all := map[string][2]*Store{}
	for name, url := range map[string]string{"a single Redis": single, "a cluster": cluster} {
		log := &logBuffer{}
		pair := [2]*Store{openStore(t, url, t.TempDir(), log), openStore(t, url, t.TempDir(), log)}
		for _, s := range pair {
			t.Cleanup(func() { s.Close() })
			for end := time.Now().Add(10 * time.Second); !s.Up(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s: not up: %v\n%s", name, s.Why(), log)
				}
			}
		}
		all[name] = pair
	}
	return all
}

// aclOf is the line of users.acl, as ACL SETUSER wants it.
func aclOf(t *testing.T) (name string, rights []any) {
	t.Helper()
	text, err := os.ReadFile("../../../contrib/redis/users.acl")
	must(t, err)
	words := strings.Fields(string(text))
	for _, w := range words[2:] {
		rights = append(rights, w)
	}
	return words[1], rights
}

// TestWhatNodesPublishIsThere: what one node publishes the other reads, and a field that is
// published again is replaced.
func TestWhatNodesPublishIsThere(t *testing.T) {
	for name, pair := range shelves(t) {
		t.Run(name, func(t *testing.T) {
			expire := time.Now().Add(time.Hour)
			var all []Publication
			var pages []string
			for i := range 200 {
				page := fmt.Sprint("page/", i%100)
				all = append(all, Publication{Page: page, Field: fmt.Sprint(i), Value: []byte{0, byte(i), '\n', 0xff}, Expire: expire})
				pages = append(pages, page)
			}
			must(t, pair[0].Publish(t.Context(), all))
			all[7].Value = []byte("again")
			must(t, pair[0].Publish(t.Context(), all[7:8]))
			got, err := pair[1].Pages(t.Context(), append(pages[:100:100], "page/none"))
			must(t, err)
			for _, p := range all {
				if string(got[p.Page][p.Field]) != string(p.Value) {
					t.Errorf("%s %s is %q; want %q", p.Page, p.Field, got[p.Page][p.Field], p.Value)
				}
			}
			if len(got["page/none"]) != 0 {
				t.Errorf("a page that is not there has %v", got["page/none"])
			}
		})
	}
}

// TestLinesAreSentToWhoWatches, and nothing while nobody does.
func TestLinesAreSentToWhoWatches(t *testing.T) {
	for name, pair := range shelves(t) {
		t.Run(name, func(t *testing.T) {
			if wanted, err := pair[1].Wanted(t.Context()); err != nil || wanted {
				t.Errorf("wanted before: %v, %v", wanted, err)
			}
			must(t, pair[0].Want(t.Context()))
			if wanted, err := pair[1].Wanted(t.Context()); err != nil || !wanted {
				t.Errorf("not wanted: %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			heard := make(chan string, 10)
			go pair[0].Receive(ctx, func(node string, line []byte) { heard <- node + " " + string(line) })
			for {
				must(t, pair[1].Send(ctx, "mx2", [][]byte{[]byte("one"), []byte("two")}))
				select {
				case first := <-heard:
					if second := <-heard; first != "mx2 one" || second != "mx2 two" {
						t.Errorf("heard %q and %q", first, second)
					}
					return
				case <-time.After(200 * time.Millisecond):
					// It has not subscribed yet.
				case <-ctx.Done():
					t.Fatal("nothing is heard")
				}
			}
		})
	}
}
