package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/store"
)

// TestAStartThatFailsSaysWhy has all that a configuration does not show.
func TestAStartThatFailsSaysWhy(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	layout := policy.Default().Layout
	layout.IPv6Host = 56
	for _, c := range []struct {
		name    string
		prepare func(dir string)
		config  string
		want    string
	}{
		{"an address that is in use", nil, "[milter]\nlisten = 'inet:" + taken.Addr().String() + "'\n", "milter.listen: listen tcp"},
		{"a store that is another program's", func(dir string) {
			db, err := bolt.Open(filepath.Join(dir, store.FileName), 0o600, nil)
			if err == nil {
				err = errors.Join(db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err }), db.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}, "", "is a database of another program"},
		{"evidence of another layout", func(dir string) {
			s, err := store.Open(dir, store.Options{Layout: layout})
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
		}, "", "of another layout (IPv4 /32 in /24; IPv6 /56 in /48)"},
		{"an event log in a directory that is missing", nil, "[log]\nevents = '/nonexistent/events.ndjson'\n", "/nonexistent/events.ndjson: no such file"},
		{"a token that is too short", func(dir string) { os.WriteFile(filepath.Join(dir, "api-token"), []byte("x"), 0o600) }, "", "http.token_file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.prepare != nil {
				c.prepare(dir)
			}
			file := filepath.Join(dir, "ehlogate.toml")
			text := "[store]\nurl = 'embedded:" + dir + "'\n[table]\nsocketmap = 'none'\nmemcache = 'none'\n[http]\nlisten = 'inet:127.0.0.1:0'\n"
			if !strings.Contains(c.config, "[milter]") {
				text += "[milter]\nlisten = 'inet:127.0.0.1:0'\n"
			}
			if err := os.WriteFile(file, []byte(text+c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			status := run(context.Background(), []string{"--config", file, "serve"}, &stdout, &stderr)
			if status == 0 || !strings.Contains(stderr.String(), c.want) || strings.Contains(stderr.String(), "goroutine") {
				t.Errorf("status %d, with\n%s\nwant %q", status, &stderr, c.want)
			}
		})
	}
}
