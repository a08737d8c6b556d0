package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/milter/verdict"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/correlate"
)

// maxFeed bounds what another program posts of a message: rspamd's exporter sends all symbols and
// some headers.
const maxFeed = 1 << 20

// taken answers a post.
type taken struct {
	// Ignored are keys that mean nothing to the daemon.
	Ignored []string `json:"ignored,omitempty"`
	// Note says what the verdict still needs to teach anything.
	Note string `json:"note,omitempty"`
}

// feed takes a post. It is answered before it is worked on: rspamd holds the message meanwhile.
// Unread names keys that are not read.
func (s *Server) feed(read func([]byte, time.Time) (policy.Signal, error), unread func([]byte) []string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.Malformed()
			refuse(w, http.StatusBadRequest, fmt.Errorf("body: %w", err))
			return
		}
		var ignored []string
		if unread != nil {
			ignored = unread(body)
		}
		signal, err := read(body, s.Now())
		if err != nil {
			s.Malformed()
			if len(ignored) > 0 {
				err = fmt.Errorf("%w; keys that mean nothing: %s", err, strings.Join(ignored, ", "))
			}
			refuse(w, http.StatusBadRequest, err)
			return
		}
		if unread != nil {
			s.Unread(ignored)
		}
		answer := taken{Ignored: ignored}
		if !signal.Addr.IsValid() && !s.KnowsClientOf(signal.QueueID) {
			answer.Note = fmt.Sprintf("no message of queue id %q is known at this node yet: the verdict counts only if the milter or the MTA's log tells of it within %s; name the client, too (\"ip\")", verdict.Clip(signal.QueueID), correlate.Wait)
		}
		s.Feed(signal)
		reply(w, http.StatusOK, answer)
	}
}

// maxFingerprint bounds a fingerprint in bytes: it stands for a queue id.
const maxFingerprint = 64

// mostReports is how many reports a request may have.
const mostReports = 500

// learn takes reports of people.
func (s *Server) learn(w http.ResponseWriter, r *http.Request) {
	var reports []Report
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&reports)
	if err == nil {
		err = checkReports(reports)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("body: %w", err))
		return
	}
	learnt, err := s.Learn(reports)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	reply(w, http.StatusOK, learnt)
}

func checkReports(reports []Report) error {
	if len(reports) > mostReports {
		return fmt.Errorf("%d reports; %d is the most of one request", len(reports), mostReports)
	}
	for i, r := range reports {
		switch {
		case r.Class != policy.Spam && r.Class != policy.Ham:
			return fmt.Errorf("report %d: class %q; want spam or ham", i+1, r.Class)
		case !r.Source.People():
			return fmt.Errorf("report %d: source %q; want person or report", i+1, r.Source)
		case len(r.Fingerprint) > maxFingerprint:
			return fmt.Errorf("report %d: fingerprint: %d characters, more than %d", i+1, len(r.Fingerprint), maxFingerprint)
		case !r.Trust.Known():
			return fmt.Errorf("report %d: trust %q; want foreign or claimed, or leave it out", i+1, r.Trust)
		case r.QueueID == "" && !r.Addr.IsValid():
			return fmt.Errorf("report %d: %w", i+1, errors.New("neither a queue_id nor an addr"))
		}
		reports[i].Addr = policy.PlainAddr(r.Addr)
	}
	return nil
}
