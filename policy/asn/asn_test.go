package asn

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// write makes a database in which a network has a number under a name.
func write(t testing.TB, path, network, name string, number uint32) {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-ASN", RecordSize: 24, IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	_, n, err := net.ParseCIDR(network)
	if err == nil {
		err = tree.Insert(n, mmdbtype.Map{mmdbtype.String(name): mmdbtype.Uint32(number)})
	}
	var b bytes.Buffer
	if err == nil {
		_, err = tree.WriteTo(&b)
	}
	if err == nil {
		err = os.WriteFile(path+".new", b.Bytes(), 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type safeBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}
func (b *safeBuffer) String() string { b.Lock(); defer b.Unlock(); return b.Buffer.String() }

func TestLookup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "asn.mmdb")
	write(t, path, "198.51.100.0/24", field, 64500)
	var d Database
	if d.Lookup(netip.MustParseAddr("198.51.100.7")) != 0 {
		t.Error("found without a file")
	}
	if err := d.Use(path); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]uint32{"198.51.100.7": 64500, "198.51.101.7": 0, "2001:db8::7": 0} {
		if got := d.Lookup(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is of AS%d, want AS%d", addr, got, want)
		}
	}
	if err := d.Use(""); err != nil || d.Lookup(netip.MustParseAddr("198.51.100.7")) != 0 {
		t.Errorf("found after the file was given up, %v", err)
	}
}

func TestAChangedFileIsReadAndABrokenOneIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "asn.mmdb")
	write(t, path, "198.51.100.0/24", field, 64500)
	var d Database
	if err := d.Use(path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var log safeBuffer
	var watching sync.WaitGroup
	watching.Go(func() { d.Watch(ctx, 5*time.Millisecond, slog.New(slog.NewTextHandler(&log, nil))) })
	defer watching.Wait()
	defer cancel()
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: AS%d, log %s", what, d.Lookup(netip.MustParseAddr("198.51.100.7")), log.String())
			}
		}
	}
	is := func(n uint32) func() bool {
		return func() bool { return d.Lookup(netip.MustParseAddr("198.51.100.7")) == n }
	}
	write(t, path, "198.51.100.0/24", field, 64501)
	until("a new file", is(64501))
	b, _ := os.ReadFile(path)
	os.WriteFile(path, b[:len(b)/2], 0o600)
	until("a file cut short is complained of", func() bool { return strings.Contains(log.String(), "no sound database") })
	if !is(64501)() {
		t.Error("a broken file took the place of a good one")
	}
	os.Remove(path)
	until("a missing file is complained of", func() bool { return strings.Contains(log.String(), "no such file") })
	write(t, path, "198.51.100.0/24", field, 64502)
	until("a repaired file", is(64502))
}

func TestWhatIsNoDatabaseOfSystemsIsRefused(t *testing.T) {
	dir := t.TempDir()
	country := filepath.Join(dir, "country.mmdb")
	write(t, country, "198.51.100.0/24", "country", 1)
	text := filepath.Join(dir, "text")
	os.WriteFile(text, bytes.Repeat([]byte("no database\n"), 1000), 0o600)
	for path, want := range map[string]string{country: "has no autonomous systems", text: "no sound database", filepath.Join(dir, "missing"): "no such file"} {
		if err := new(Database).Use(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q and the path", path, err, want)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	path := filepath.Join(b.TempDir(), "asn.mmdb")
	write(b, path, "198.51.100.0/24", field, 64500)
	var d Database
	if err := d.Use(path); err != nil {
		b.Fatal(err)
	}
	addr := netip.MustParseAddr("198.51.100.7")
	b.ReportAllocs()
	for b.Loop() {
		if d.Lookup(addr) != 64500 {
			b.Fatal("not found")
		}
	}
}
