package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/ehlogate/ehlogate/policy"
)

// DumpFormat is the first line's word for a dump's format.
const DumpFormat = "ehlogate dump 1"

// DumpLine is one line of a dump, which is JSON: the head first, then records and overrides in any
// order, and the end, without which it is cut short.
type DumpLine struct {
	Head     *DumpHead        `json:"head,omitempty"`
	Network  netip.Prefix     `json:"network,omitzero"`
	ASN      uint32           `json:"asn,omitempty"`
	Evidence []byte           `json:"evidence,omitempty"`
	Override *policy.Override `json:"override,omitempty"`
	// Exception is what was noticed of a host and STARTTLS.
	Exception *policy.Exception `json:"exception,omitempty"`
	End       *DumpEnd          `json:"end,omitempty"`
}

// DumpHead says what a dump is.
type DumpHead struct {
	Format string `json:"format"`
	// ID names the dump, so that none of it is loaded twice.
	ID string `json:"id"`
	// Layout is how addresses are cut into hosts and networks, which must be the same where it is
	// loaded.
	Layout string `json:"layout"`
	// Store names the store that it is of: loaded into that one, its records would count twice, and
	// only bring back what is gone.
	Store string `json:"store,omitempty"`
}

// DumpEnd counts the lines between head and end.
type DumpEnd struct {
	Records    int `json:"records"`
	Overrides  int `json:"overrides"`
	Exceptions int `json:"exceptions,omitempty"`
}

// Loaded is the answer to a chunk: whether it was new.
type Loaded struct {
	Fresh bool `json:"fresh"`
	// Own says that the dump is of this very store, and only what was not known any more was added.
	Own bool `json:"own,omitempty"`
}

// dump writes all evidence, overrides and exceptions.
func (s *Server) dump(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	answer := newStream(w)
	out := bufio.NewWriterSize(answer, 64<<10)
	lines := json.NewEncoder(out)
	var end DumpEnd
	write := func() error {
		if err := lines.Encode(DumpLine{Head: &DumpHead{Format: DumpFormat, ID: rand.Text(), Layout: s.Judge.Policy().Layout.Text(), Store: s.Store.ID()}}); err != nil {
			return err
		}
		err := s.Store.Each(func(r policy.Record) error {
			record, err := r.Evidence.AppendBinary(nil)
			if err != nil {
				return err
			}
			end.Records++
			return lines.Encode(DumpLine{Network: r.Network, ASN: r.ASN, Evidence: record})
		})
		if err != nil {
			return err
		}
		for _, o := range s.Store.Overrides() {
			end.Overrides++
			if err := lines.Encode(DumpLine{Override: &o}); err != nil {
				return err
			}
		}
		for _, x := range s.exceptions() {
			end.Exceptions++
			if err := lines.Encode(DumpLine{Exception: &x}); err != nil {
				return err
			}
		}
		if err := lines.Encode(DumpLine{End: &end}); err != nil {
			return err
		}
		return out.Flush()
	}
	switch err := write(); {
	case err == nil:
	case answer.begun:
		// A dump without its end is refused by whoever loads it.
		panic(http.ErrAbortHandler)
	default:
		refuse(w, http.StatusServiceUnavailable, err)
	}
}

// streamWait is how long a peer may take for a piece of a dump or an export.
const streamWait = 20 * time.Second

// stream is an answer of any length, as long as its peer goes on reading.
type stream struct {
	io.Writer
	controller *http.ResponseController
	// begun says that something of it was sent.
	begun bool
}

func newStream(w http.ResponseWriter) *stream {
	return &stream{Writer: w, controller: http.NewResponseController(w)}
}

func (s *stream) Write(p []byte) (int, error) {
	s.begun = true
	s.controller.SetWriteDeadline(time.Now().Add(streamWait))
	return s.Writer.Write(p)
}

// oneAtATime refuses a dump or an export while another one is under way.
func (s *Server) oneAtATime(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.streaming.TryLock() {
			w.Header().Set("Retry-After", "10")
			refuse(w, http.StatusServiceUnavailable, errors.New("another dump or export is under way; try again when it has ended"))
			return
		}
		defer s.streaming.Unlock()
		next(w, r)
	}
}

// load adds a chunk of a dump, lines without head and end, to the store.
func (s *Server) load(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	chunk, err := strconv.ParseUint(q.Get("chunk"), 10, 63)
	if err != nil || chunk == 0 || q.Get("dump") == "" {
		refuse(w, http.StatusBadRequest, errors.New("want ?dump=ID&chunk=N, from 1"))
		return
	}
	p := s.Judge.Policy()
	if l := q.Get("layout"); l != p.Layout.Text() {
		refuse(w, http.StatusConflict, fmt.Errorf("the dump is of another layout (%s) than this node's (%s); set reputation.ipv4_network, ipv6_host and ipv6_network alike", l, p.Layout.Text()))
		return
	}
	var records []policy.Record
	var overrides []policy.Override
	var exceptions []policy.Exception
	decoder := json.NewDecoder(r.Body)
	for decoder.More() {
		var line DumpLine
		if err := decoder.Decode(&line); err != nil {
			refuse(w, http.StatusBadRequest, fmt.Errorf("chunk %d: %w", chunk, err))
			return
		}
		if err := line.check(p); err != nil {
			refuse(w, http.StatusBadRequest, fmt.Errorf("chunk %d: %w", chunk, err))
			return
		}
		if line.Override != nil {
			overrides = append(overrides, *line.Override)
			continue
		}
		if line.Exception != nil {
			exceptions = append(exceptions, *line.Exception)
			continue
		}
		record, err := line.Record()
		if err != nil {
			refuse(w, http.StatusBadRequest, fmt.Errorf("chunk %d: %w", chunk, err))
			return
		}
		records = append(records, record)
	}
	networkOf := func(n netip.Prefix) netip.Prefix {
		if k := p.Keys(n.Addr()); k.Host == n {
			return k.Network
		}
		return n
	}
	var fresh bool
	own := q.Get("store") != "" && q.Get("store") == s.Store.ID()
	if own {
		err = s.Store.Restore(records, networkOf)
	} else {
		fresh, err = s.Store.Load(q.Get("dump"), chunk, records, networkOf)
	}
	overrides = slices.DeleteFunc(overrides, func(o policy.Override) bool { return o.Ended(s.Now()) })
	if err == nil && len(overrides) > 0 {
		err = s.Store.ChangeOverrides(overrides, nil)
	}
	for _, x := range exceptions {
		if err == nil && !x.Ended(s.Now()) {
			err = s.Store.SetException(x)
		}
	}
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	reply(w, http.StatusOK, Loaded{fresh || len(records) == 0, own})
}

// check returns what is wrong with a line's override or exception.
func (l *DumpLine) check(p *policy.Policy) error {
	if o := l.Override; o != nil && (!o.Network.IsValid() || o.Network != o.Network.Masked() || o.Network.Addr().Is4In6()) {
		return fmt.Errorf("override of %q: not a network", o.Network)
	}
	if x := l.Exception; x != nil && (!x.Network.IsValid() || x.Network != p.Keys(x.Network.Addr()).Host || !x.Cause.Known()) {
		return fmt.Errorf("exception of %q, %q: not one of a host", x.Network, x.Cause)
	}
	return nil
}

// Record is the record of a line.
func (l *DumpLine) Record() (policy.Record, error) {
	r := policy.Record{Network: l.Network, ASN: l.ASN}
	if l.Network.IsValid() == (l.ASN != 0) {
		return r, errors.New("a line that is of no network and no autonomous system")
	}
	return r, r.Evidence.UnmarshalBinary(l.Evidence)
}

// Dump copies all evidence and overrides to w.
func (c *Client) Dump(ctx context.Context, w io.Writer) error {
	return c.patient().do(ctx, http.MethodGet, "/api/v1/dump", nil, func(r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// Load sends a chunk of a dump.
func (c *Client) Load(ctx context.Context, head DumpHead, chunk int, lines [][]byte) (done Loaded, err error) {
	path := fmt.Sprintf("/api/v1/load?dump=%s&chunk=%d&layout=%s&store=%s", url.QueryEscape(head.ID), chunk, url.QueryEscape(head.Layout), url.QueryEscape(head.Store))
	return done, c.do(ctx, http.MethodPost, path, bytes.Join(lines, nil), decodeInto(&done))
}

// patient is the client without a time limit.
func (c *Client) patient() *Client {
	p := *c
	p.http.Timeout = 0
	return &p
}
