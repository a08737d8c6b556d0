package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// belowPath is the path below which the page is served, as by an operator's reverse proxy.
const belowPath = "/mail/gate"

// proxied serves a daemon's page below a path.
func (x *exchanger) proxied() string {
	target, err := url.Parse(fmt.Sprintf("http://127.0.0.1:%d", x.daemon.HTTP))
	must(x.t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.SetXForwarded()
	}}
	s := httptest.NewServer(http.StripPrefix(belowPath, proxy))
	x.t.Cleanup(s.Close)
	return s.URL + belowPath + "/"
}

// browse starts a browser. A dialog that a page opens fails the test: only a script that should not
// run would.
func browse(t *testing.T) context.Context {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("/usr/bin/chromium"), chromedp.NoSandbox, chromedp.UserDataDir(tempDir(t)))
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	must(t, chromedp.Listen(ctx, func(event any) {
		if d, ok := event.(*page.EventJavascriptDialogOpening); ok {
			t.Errorf("a page opened a dialog: %s", d.Message)
			go chromedp.Call(ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{})
		}
	}))
	return ctx
}

// accessible runs axe-core on the page that is open, at a width and in a color scheme.
func accessible(t *testing.T, ctx context.Context, axe, what string, width int64, scheme string) {
	t.Helper()
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	must(t, err)
	_, err = chromedp.Call(ctx, page.SetBypassCSP, page.SetBypassCSPParams{Enabled: true})
	must(t, err)
	must(t, chromedp.Do(ctx, chromedp.EmulateViewport(width, 900), chromedp.Reload(), chromedp.WaitReady(chromedp.CSS("main"))))
	_, err = chromedp.Run(ctx, chromedp.Evaluate[chromedp.Void](axe))
	must(t, err)
	const run = `axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations.map(v => v.id + ": " + v.nodes.map(n => n.html).join(" "))))`
	found, err := chromedp.Run(ctx, chromedp.Evaluate[string](run, chromedp.EvalAwaitPromise))
	must(t, err)
	var violations []string
	must(t, json.Unmarshal([]byte(found), &violations))
	for _, v := range violations {
		t.Errorf("%s, %d wide, %s: %s", what, width, scheme, v)
	}
	wider, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > document.documentElement.clientWidth`))
	must(t, err)
	if wider {
		t.Errorf("%s is wider than %d", what, width)
	}
}

// says has a client say lines, whatever the answers are.
func (x *exchanger) says(client string, lines ...string) {
	x.t.Helper()
	conn, err := x.DialRaw(client, x.ProxyPort)
	must(x.t, err)
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, line := range append([]string{""}, lines...) {
		if line != "" {
			fmt.Fprintf(conn, "%s\r\n", line)
		}
		for {
			answer, err := in.ReadString('\n')
			must(x.t, err)
			if len(answer) < 4 || answer[3] != '-' {
				break
			}
		}
	}
}

// TestThePageInABrowser looks an address up in a real Chromium, through a reverse proxy below a
// path, denies it there, and sees that the next EHLO has no STARTTLS.
func TestThePageInABrowser(t *testing.T) {
	t.Parallel()
	x := start(t, "[log]\nnode = 'mx1'\n")
	const client = "198.51.100.9"
	for range 3 {
		if !x.send(client, "hello") {
			t.Fatal("STARTTLS is not offered before")
		}
	}
	x.send("203.0.113.20", "spam")
	const helo = `<script>alert("HELO")</script>`
	x.says(client, "EHLO "+helo, "QUIT")
	token, err := os.ReadFile(filepath.Join(x.daemon.Dir, "data", "api-token"))
	must(t, err)
	axe, err := os.ReadFile(filepath.Join(cacheDir(), "axe", "package", "axe.min.js"))
	must(t, err)
	home := x.proxied()
	ctx := browse(t)
	text := func(selector string) string {
		t.Helper()
		s, err := chromedp.Run(ctx, chromedp.Text(chromedp.CSS(selector)))
		must(t, err)
		return s
	}
	css := func(s string) chromedp.CSS { return chromedp.CSS(s) }
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		must(t, chromedp.Do(ctx, steps...))
	}
	// The counts are written within seconds.
	for range 20 {
		must(t, chromedp.Do(ctx, chromedp.Navigate(home), chromedp.WaitReady(chromedp.CSS("main"))))
		if strings.Contains(text("main"), "5 sessions") {
			break
		}
		time.Sleep(time.Second)
	}
	if got := text("main"); !strings.Contains(got, "5 sessions") || !strings.Contains(got, "sender.example") || !strings.Contains(got, "203.0.113.0/24") {
		t.Errorf("the overview says\n%s", got)
	}
	do(chromedp.SendKeys(css("#q"), client+"\n"), chromedp.WaitVisible(css("h2")))
	if got := text("main"); !strings.Contains(got, "STARTTLS is offered to it") || strings.Contains(got, "Deny") {
		t.Errorf("before the login the client's page says\n%s", got)
	}
	do(chromedp.Click(css("nav a")), chromedp.WaitVisible(css("#token")), chromedp.SendKeys(css("#token"), "not the token\n"), chromedp.WaitVisible(css(`[role="alert"]`)))
	do(chromedp.SendKeys(css("#token"), strings.TrimSpace(string(token))+"\n"), chromedp.WaitVisible(css("nav button")))
	const note = `<script>alert("a note")</script>`
	do(chromedp.SendKeys(css("#q"), client+"\n"), chromedp.WaitVisible(css("#note")), chromedp.SendKeys(css("#note"), note), chromedp.Click(css(`button[value="deny"]`)), chromedp.WaitVisible(css(`[role="status"]`)))
	if got := text("main"); !strings.Contains(got, "Done: deny "+client) || !strings.Contains(got, "STARTTLS is withheld from it") || !strings.Contains(got, note) || !strings.Contains(got, helo) {
		t.Errorf("after it was denied the client's page says\n%s", got)
	}
	if x.offered(client) {
		t.Error("the next EHLO of a client that was denied has STARTTLS")
	}
	for what, at := range map[string]string{"the overview": "", "a client": "client?q=" + client, "a domain": "client?q=sender.example", "the login": "login", "a misspelt address": "client?q=%3Cscript%3Ealert(1)%3C/script%3E"} {
		for _, width := range []int64{360, 1280} {
			for _, scheme := range []string{"light", "dark"} {
				must(t, chromedp.Do(ctx, chromedp.Navigate(home+at), chromedp.WaitReady(chromedp.CSS("main"))))
				accessible(t, ctx, string(axe), what, width, scheme)
			}
		}
	}
	t.Run("a form of another page changes nothing", func(t *testing.T) {
		r, err := http.PostForm(home+"change", url.Values{"verb": {"deny"}, "network": {"198.51.100.10"}})
		must(t, err)
		r.Body.Close()
		if r.StatusCode != http.StatusForbidden || !x.offered("198.51.100.10") {
			t.Errorf("status %d", r.StatusCode)
		}
	})
	t.Run("small, and nothing from elsewhere", func(t *testing.T) {
		sum := 0
		for _, path := range []string{"", "assets/style.css", "assets/page.js"} {
			r, err := http.Get(home + path)
			must(t, err)
			body, err := io.ReadAll(r.Body)
			must(t, err)
			r.Body.Close()
			sum += len(body)
			if policy := r.Header.Get("Content-Security-Policy"); path == "" && !strings.HasPrefix(policy, "default-src 'none'") {
				t.Errorf("Content-Security-Policy: %q", policy)
			}
		}
		if sum > 200<<10 {
			t.Errorf("the page has %d bytes", sum)
		}
	})
}

// cacheDir is where contrib/test puts what it fetches.
func cacheDir() string {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "ehlogate")
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(home, ".cache", "ehlogate")
}
