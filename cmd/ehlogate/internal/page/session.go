package page

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// cookie is the cookie's name, sessionFor how long a login holds, and mostSessions how many
	// there are at most: the oldest goes first.
	cookie       = "ehlogate"
	sessionFor   = 12 * time.Hour
	mostSessions = 100
	// mostBody bounds a form in bytes.
	mostBody = 16 << 10
)

// session is a user who has logged in.
type session struct {
	id, csrf string
	until    time.Time
	// notice is shown once.
	notice string
}

// sessions are those who have logged in, in memory: a restart ends them.
type sessions struct {
	mu  sync.Mutex
	all []*session
	// wrong says now and then that somebody tries tokens. They are as long as those of the API, and
	// cannot be guessed; a bound on tries would only keep the operator out.
	wrong rate.Sometimes
}

// find is the session of a request, nil where there is none. The lock is held.
func (s *sessions) find(r *http.Request, now time.Time) *session {
	c, err := r.Cookie(cookie)
	if err != nil {
		return nil
	}
	for _, one := range s.all {
		if subtle.ConstantTimeCompare([]byte(one.id), []byte(c.Value)) == 1 && now.Before(one.until) {
			return one
		}
	}
	return nil
}

// csrf is the secret of a request's session, which forms have to give back; empty where there is
// none.
func (s *sessions) csrf(r *http.Request, now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.find(r, now); one != nil {
		return one.csrf
	}
	return ""
}

// begin begins a session.
func (s *sessions) begin(now time.Time) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := &session{id: rand.Text(), csrf: rand.Text(), until: now.Add(sessionFor)}
	s.all = append(s.all, one)
	s.all = s.all[max(0, len(s.all)-mostSessions):]
	return one
}

// end ends the session of a request.
func (s *sessions) end(r *http.Request, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.find(r, now); one != nil {
		one.until = time.Time{}
	}
}

// say has a notice shown at the next page of the session.
func (s *sessions) say(r *http.Request, text string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.find(r, now); one != nil {
		one.notice = text
	}
}

// notice is what is to be shown at this page.
func (s *sessions) notice(r *http.Request, now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.find(r, now)
	if one == nil {
		return ""
	}
	text := one.notice
	one.notice = ""
	return text
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, mostBody)
	if !s.Token(r.PostFormValue("token")) {
		s.sessions.wrong.Do(func() { s.Log.Warn("a login with a wrong token was refused", "peer", r.RemoteAddr) })
		s.show(w, r, http.StatusForbidden, "login.html", &view{Title: "Log in", Fault: "That is not the token."})
		return
	}
	one := s.sessions.begin(s.Now())
	// Without a path, the cookie is for this directory, whatever it is called outside.
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: one.id, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https", MaxAge: int(sessionFor.Seconds())})
	see(w, "./")
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	if !s.mayPost(w, r) {
		return
	}
	s.sessions.end(r, s.Now())
	http.SetCookie(w, &http.Cookie{Name: cookie, MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	see(w, "./")
}

// mayPost reports whether a form comes from a page of ours, of a user who may change things.
func (s *Server) mayPost(w http.ResponseWriter, r *http.Request) bool {
	r.Body = http.MaxBytesReader(w, r.Body, mostBody)
	secret := s.sessions.csrf(r, s.Now())
	if s.Open || secret != "" && subtle.ConstantTimeCompare([]byte(secret), []byte(r.PostFormValue("csrf"))) == 1 {
		return true
	}
	s.show(w, r, http.StatusForbidden, "login.html", &view{Title: "Log in", Fault: "Log in first: this form is of no session that lasts."})
	return false
}
