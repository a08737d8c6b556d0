// Package asn finds the autonomous system of an address in a MaxMind-format database file, and
// notices when the file changes.
package asn

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
)

// Every is how often the file is looked at.
const Every = 30 * time.Second

// field is where databases of the kind "GeoLite2-ASN" have the number.
const field = "autonomous_system_number"

// Database is a database file. The zero value knows of no file and finds nothing.
type Database struct {
	reader atomic.Pointer[maxminddb.Reader]

	loading sync.Mutex
	path    string
	seen    os.FileInfo
}

// Use reads a file in place of the one before, unless it is the same and has not changed; an empty
// path is none. The whole file is kept in memory, so that it may be replaced or overwritten at any
// time. After an error, what was read of the same file before stays in force; Watch notices when
// the file is fixed.
func (d *Database) Use(path string) error {
	d.loading.Lock()
	defer d.loading.Unlock()
	if path != d.path {
		d.reader.Store(nil)
		d.path, d.seen = path, nil
	}
	return d.load()
}

// Lookup returns the number of an address's autonomous system, 0 when it is not known.
func (d *Database) Lookup(addr netip.Addr) uint32 {
	r := d.reader.Load()
	if r == nil {
		return 0
	}
	var n uint32
	if err := r.Lookup(addr).DecodePath(&n, field); err != nil {
		return 0
	}
	return n
}

// Watch reads the file again whenever it has changed, until the context ends. A broken one leaves
// the last good one in force.
func (d *Database) Watch(ctx context.Context, every time.Duration, log *slog.Logger) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var logged string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.loading.Lock()
		path, before := d.path, d.seen
		err := d.load()
		changed := d.seen != before
		d.loading.Unlock()
		switch {
		case err != nil && err.Error() != logged:
			logged = err.Error()
			log.Error("the database of autonomous systems cannot be read; what was read of it before stays in force", "error", err)
		case err == nil && changed:
			logged = ""
			log.Info("read the database of autonomous systems", "path", path)
		}
	}
}

// load reads the file if it is not the one that was read last.
func (d *Database) load() error {
	if d.path == "" {
		return nil
	}
	info, err := os.Stat(d.path)
	if err != nil {
		d.seen = nil
		return fmt.Errorf("asn: %w", err)
	}
	if d.seen != nil && os.SameFile(info, d.seen) && info.ModTime().Equal(d.seen.ModTime()) && info.Size() == d.seen.Size() {
		return nil
	}
	r, err := read(d.path)
	if err != nil {
		return err
	}
	d.reader.Store(r)
	d.seen = info
	return nil
}

// read reads a file and walks all of it, so that damage anywhere is found before anything depends
// on it.
func read(path string) (*maxminddb.Reader, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("asn: %w", err)
	}
	r, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, fmt.Errorf("asn: %s is no sound database in MaxMind's format: %w", path, err)
	}
	found := false
	for network := range r.Networks() {
		var n uint32
		if err := network.DecodePath(&n, field); err != nil {
			return nil, fmt.Errorf("asn: %s is no sound database in MaxMind's format: %w", path, err)
		}
		found = found || n != 0
	}
	if !found {
		return nil, fmt.Errorf("asn: %s has no autonomous systems, it is of type %q; expected one like GeoLite2-ASN", path, r.Metadata.DatabaseType)
	}
	return r, nil
}
