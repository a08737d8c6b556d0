package api

import (
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// protect keeps web pages away, which a browser on this host, or one that reaches the listener,
// might have open: those of other origins cannot change anything, and those whose name was made to
// point here (DNS rebinding) cannot read anything. No name points to a unix socket, but a reverse
// proxy may.
func (s *Server) protect(next http.Handler) http.Handler {
	// It goes by Sec-Fetch-Site and Origin, which programs do not send.
	origin := http.NewCrossOriginProtection()
	own := ownNames()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := origin.Check(r); err != nil {
			refuse(w, http.StatusForbidden, fmt.Errorf("a page of another origin may not do this: %w", err))
			return
		}
		if !s.Unix && !s.called(r.Host, own) && !s.holds(r, s.Token) {
			// RFC 9110 section 15.5.20: not the host that was asked for.
			refuse(w, http.StatusMisdirectedRequest, fmt.Errorf("host %q is not a name of this daemon; call it by address, or add the name to http.names", clip(r.Host)))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ownNames are the names of this host.
func ownNames() []string {
	name, err := os.Hostname()
	if err != nil {
		return nil
	}
	short, _, _ := strings.Cut(name, ".")
	return []string{name, short}
}

// called reports whether a Host header names this daemon: by address, as localhost, or by a name of
// this host or a configured one. None of these can be pointed here by somebody else.
func (s *Server) called(host string, own []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(host, ".")
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || strings.EqualFold(host, "localhost") {
		return true
	}
	is := func(name string) bool { return name != "" && strings.EqualFold(name, host) }
	return slices.ContainsFunc(own, is) || s.Names != nil && slices.ContainsFunc(s.Names(), is)
}

// holds reports whether a request has one of some tokens, as "Authorization: Bearer", or as the
// password of "Authorization: Basic", which is what rspamd can send.
func (s *Server) holds(r *http.Request, tokens ...*Token) bool {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		_, given, ok = r.BasicAuth()
	}
	if !ok {
		return false
	}
	return slices.ContainsFunc(tokens, func(t *Token) bool { return t.Is(given) })
}

// authorized lets a request through that has the token.
func (s *Server) authorized(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.Unix && !s.holds(r, s.Token) {
			refuse(w, http.StatusUnauthorized, errors.New("no valid token: this needs the one in http.token_file; run the command as a user who can read it, with the daemon's --config"))
			return
		}
		next(w, r)
	}
}

// feeding lets a filter's post through: with the filters' token, or without one from this host
// where that is configured.
func (s *Server) feeding(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.Unix, s.holds(r, s.Token, s.FeedToken), s.LocalFeed() && local(r):
			next(w, r)
		default:
			s.Strangers()
			refuse(w, http.StatusUnauthorized, errors.New("no valid token: verdicts are taken with the token in http.feed_token_file, as \"Authorization: Bearer\" or as the password of \"Authorization: Basic\"; or, from programs on this host, with verdict.local_feed"))
		}
	}
}

// forwarding are the headers by which a proxy says that a request is somebody else's.
var forwarding = []string{
	"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Server", "X-Real-Ip",
	"X-Client-Ip", "X-Original-Forwarded-For", "X-Cluster-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip",
}

// local reports whether a request is that of a program on this host, and not of somebody behind a
// proxy here.
func local(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	proxied := slices.ContainsFunc(forwarding, func(name string) bool { return r.Header.Values(name) != nil })
	return err == nil && from.Addr().Unmap().IsLoopback() && !proxied
}

// body takes a request's body of so many bytes at most, which has to be JSON: a page's form can be
// sent anywhere, and is not.
func body(most int64, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || kind != "application/json" {
			refuse(w, http.StatusUnsupportedMediaType, fmt.Errorf("Content-Type is %q; want application/json", clip(r.Header.Get("Content-Type"))))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, most)
		next(w, r)
	}
}

// clip shortens what a peer sent.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
