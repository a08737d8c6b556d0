package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/intake"
	"github.com/ehlogate/ehlogate/policy"
)

// timeout is how long a command waits for the daemon.
const timeout = 10 * time.Second

// Client asks a running daemon.
type Client struct {
	base  string
	token string
	// tokenFile is where the token was read from.
	tokenFile string
	// owners are the users whose programs may be sent the token, nil for all.
	owners []int
	http   http.Client
}

// hostPort is an address without its kind.
var hostPort = regexp.MustCompile(`^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]+$`)

// NewClient returns a client of the daemon at an address, which is written as http.listen is, or as
// a URL.
func NewClient(at, token string) (*Client, error) {
	c := &Client{token: token, http: http.Client{Timeout: timeout}}
	if u, err := url.Parse(at); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		c.base = strings.TrimSuffix(at, "/")
		return c, nil
	}
	addr, err := config.ParseAddress(at)
	if err != nil && hostPort.MatchString(at) {
		addr, err = config.ParseAddress("inet:" + at)
	}
	if err != nil || addr == (config.Address{}) {
		return nil, fmt.Errorf("--api: %q is not the address of a daemon; want http://HOST:PORT, inet:HOST:PORT or unix:/PATH", at)
	}
	c.base = "http://" + addr.Address
	if addr.Network == "unix" {
		c.base = "http://ehlogate"
		c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", addr.Address)
		}}
	}
	return c, nil
}

// Lookup asks about an address.
func (c *Client) Lookup(ctx context.Context, addr string) (l Lookup, err error) {
	return l, c.get(ctx, "/api/v1/lookup?addr="+url.QueryEscape(addr), &l)
}

// Explain asks about an address term by term.
func (c *Client) Explain(ctx context.Context, addr string) (e Explanation, err error) {
	return e, c.get(ctx, "/api/v1/explain?addr="+url.QueryEscape(addr), &e)
}

// Overrides lists the overrides.
func (c *Client) Overrides(ctx context.Context) (o []policy.Override, err error) {
	return o, c.get(ctx, "/api/v1/overrides", &o)
}

// Exceptions lists what was noticed of hosts and STARTTLS.
func (c *Client) Exceptions(ctx context.Context) (x []policy.Exception, err error) {
	return x, c.get(ctx, "/api/v1/marks", &x)
}

// Change makes an allow, deny or forget.
func (c *Client) Change(ctx context.Context, change Change) (done Changed, err error) {
	body, err := json.Marshal(change)
	if err != nil {
		return done, err
	}
	return done, c.do(ctx, http.MethodPost, "/api/v1/change", body, decodeInto(&done))
}

// changesAtOnce is how many changes one request has: 6 MiB with the longest notes.
const changesAtOnce = 5000

// ChangeAll makes many changes of overrides: allow, deny and lift. done is how many were made,
// those before an error.
func (c *Client) ChangeAll(ctx context.Context, changes []Change) (done int, err error) {
	for some := range slices.Chunk(changes, changesAtOnce) {
		body, err := json.Marshal(some)
		if err != nil {
			return done, err
		}
		if err := c.do(ctx, http.MethodPost, "/api/v1/changes", body, func(io.Reader) error { return nil }); err != nil {
			return done, err
		}
		done += len(some)
	}
	return done, nil
}

// Learn reports what messages were.
func (c *Client) Learn(ctx context.Context, reports []Report) (done []Learnt, err error) {
	body, err := json.Marshal(reports)
	if err != nil {
		return nil, err
	}
	return done, c.do(ctx, http.MethodPost, "/api/v1/learn", body, decodeInto(&done))
}

// Export copies the static table in a format to w.
func (c *Client) Export(ctx context.Context, format string, w io.Writer) error {
	return c.do(ctx, http.MethodGet, "/api/v1/export?format="+url.QueryEscape(format), nil, func(r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	})
}

// Health returns nil when the daemon answers.
func (c *Client) Health(ctx context.Context) error {
	return c.do(ctx, http.MethodGet, "/healthz", nil, func(r io.Reader) error {
		if b, err := io.ReadAll(io.LimitReader(r, maxBody)); err != nil || strings.TrimSpace(string(b)) != healthy {
			return errStranger
		}
		return nil
	})
}

// Heard is what the daemon has heard.
func (c *Client) Heard(ctx context.Context) (h intake.Heard, err error) {
	return h, c.get(ctx, "/api/v1/heard", &h)
}

func (c *Client) get(ctx context.Context, path string, answer any) error {
	return c.do(ctx, http.MethodGet, path, nil, decodeInto(answer))
}

func decodeInto(answer any) func(io.Reader) error {
	return func(r io.Reader) error { return json.NewDecoder(r).Decode(answer) }
}

// ErrHangs is what a command gets when a daemon takes its request and does not answer, ErrForbidden
// when it may not connect.
var (
	ErrHangs     = errors.New("the daemon does not answer: it hangs, or this host is very busy")
	ErrForbidden = errors.New("you may not connect to the daemon: run the command as root, or as a member of the group of its socket (http.group)")
)

// ErrAway is what a command gets when no daemon answers.
var ErrAway = errors.New("no daemon answers; is \"ehlogate serve\" running, and does --api or --config name its http.listen?")

// do asks the daemon. Where it wants another token, it says in which file its own is. That file is
// named to the operator and not read: whoever answers could name any.
func (c *Client) do(ctx context.Context, method, path string, body []byte, read func(io.Reader) error) error {
	err := c.try(ctx, method, path, body, read)
	if !errors.Is(err, errToken) {
		return err
	}
	st, statusErr := c.Status(ctx)
	switch _, fileErr := os.Stat(st.TokenFile); {
	case statusErr != nil || st.TokenFile == "":
		return err
	case errors.Is(fileErr, os.ErrNotExist):
		return &Refusal{http.StatusUnauthorized, fmt.Sprintf("this command needs the daemon's token, and %s is not there; the daemon makes a new one within seconds: run the command again", st.TokenFile)}
	case c.token != "":
		return &Refusal{http.StatusUnauthorized, fmt.Sprintf("the token in %s is not the daemon's, which it says is in %s; run the command with --http.token_file %s, or set http.token_file in the configuration of both", c.tokenFile, st.TokenFile, st.TokenFile)}
	}
	return &Refusal{http.StatusUnauthorized, fmt.Sprintf("this command needs the daemon's token, which is in %s: run it as a user who can read that file, with the daemon's --config or --http.token_file %s", st.TokenFile, st.TokenFile)}
}

// errToken is the answer to a request without the right token.
var errToken = &Refusal{http.StatusUnauthorized, "this needs the token in http.token_file; run the command as a user who can read it"}

// Refusal is an answer of the daemon that says what is wrong with a request, or with the daemon
// itself, by its HTTP status.
type Refusal struct {
	Status int
	Reason string
}

func (r *Refusal) Error() string { return r.Reason }

// Temporary reports whether a request that failed may succeed a little later: the daemon did not
// answer, or what is wrong is not the request.
func Temporary(err error) bool {
	refusal := (*Refusal)(nil)
	return !errors.As(err, &refusal) || refusal.Status >= http.StatusInternalServerError
}

func (c *Client) try(ctx context.Context, method, path string, body []byte, read func(io.Reader) error) error {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		if err := c.stranger(); err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(r)
	if of := new(url.Error); errors.As(err, &of) {
		// The path says nothing to an operator.
		err = fmt.Errorf("%s: %w", c.base, of.Err)
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w (%w)", ErrForbidden, err)
	case os.IsTimeout(err):
		return fmt.Errorf("%w (%w)", ErrHangs, err)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return fmt.Errorf("the daemon at %s closed the connection without an answer: its log may say why, or this host is not in its http.peers (%w)", c.base, err)
	case err != nil:
		return fmt.Errorf("%w (%w)", ErrAway, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized {
		return errToken
	}
	if resp.StatusCode != http.StatusOK {
		var f fault
		if json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&f) != nil || f.Error == "" {
			return fmt.Errorf("the answer of %s is not ehlogate's (%s); does --api name its http.listen?", c.base, resp.Status)
		}
		return &Refusal{resp.StatusCode, f.Error}
	}
	err = read(resp.Body)
	if syntax := new(json.SyntaxError); errors.Is(err, errStranger) || errors.As(err, &syntax) {
		return fmt.Errorf("the answer of %s is not ehlogate's; does --api name its http.listen? (%w)", c.base, err)
	}
	return err
}

// errStranger is an answer that no daemon gives.
var errStranger = errors.New("not the answer of a healthy daemon")
