package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
)

// TestRefused runs every command line and configuration under testdata/refused: each is refused as
// misuse, with the message expected.
func TestRefused(t *testing.T) {
	files, err := filepath.Glob("testdata/refused/*.txtar")
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files, %v, want 100 or more", len(files), err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Chdir(t.TempDir())
			parts := map[string]string{}
			for _, f := range archive.Files {
				parts[f.Name] = string(f.Data)
			}
			if err := os.WriteFile("ehlogate.toml", []byte(parts["ehlogate.toml"]), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			status := run(context.Background(), strings.Fields(parts["args"]), &stdout, &stderr)
			if want := strings.TrimSpace(parts["want"]); status != misuse || !strings.Contains(stderr.String(), want) {
				t.Errorf("status %d, want %d, with\n  %s\ngot\n  %s", status, misuse, want, &stderr)
			}
			for line := range strings.Lines(stderr.String()) {
				if !strings.HasPrefix(line, "ehlogate: ") {
					t.Errorf("a line without the program's name: %q", line)
				}
			}
			if left, _ := filepath.Glob("ehlogate-data"); len(left) > 0 {
				t.Error("something was started before the configuration was valid")
			}
		})
	}
}

func TestVariablesAndFlagsGoBeforeTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ehlogate.toml")
	if err := os.WriteFile(file, []byte("[policy]\nmode = 'observe'\n[log]\nnode = 'file'\n[reputation]\ncap = 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"EHLOGATE_POLICY_MODE": "earn", "EHLOGATE_LOG_NODE": "env", "STATE_DIRECTORY": "/var/lib/ehlogate"}
	cfg, err := config.Load(config.Source{
		File: file,
		Env:  func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		Flag: func(k string) (string, bool) { return "flag", k == "log.node" },
	})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Policy.Mode != "earn" || cfg.Log.Node != "flag" || cfg.Policy.Params.Cap != 7 || cfg.Log.Events != "/var/lib/ehlogate/events.ndjson" {
		t.Errorf("%+v", cfg)
	}
}

// TestTheSampleIsTheDefault reads the sample file, in which every key stands with its default.
func TestTheSampleIsTheDefault(t *testing.T) {
	nothing := func(string) (string, bool) { return "", false }
	state := func(k string) (string, bool) { return "/var/lib/ehlogate", k == "STATE_DIRECTORY" }
	const sample = "../../contrib/ehlogate.toml"
	got, err := config.Load(config.Source{File: sample, Env: state, Flag: nothing})
	if err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.toml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := config.Load(config.Source{File: empty, Env: state, Flag: nothing})
	if err != nil {
		t.Fatal(err)
	}
	got.Policy.Treatments, got.Log.Node, got.File, got.ModeGiven = nil, want.Log.Node, want.File, false
	if g, w := dump(got), dump(want); g != w {
		t.Errorf("the sample says\n%s\nthe defaults are\n%s", g, w)
	}
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range config.Settings {
		name := s.Key[strings.LastIndexByte(s.Key, '.')+1:]
		if !strings.Contains(string(text), "\n"+name+" = ") && !strings.Contains(string(text), "\n# "+name+" = ") {
			t.Errorf("%s is not in the sample", s.Key)
		}
	}
}

func dump(c *config.Config) string { return strings.ReplaceAll(fmt.Sprintf("%+v", *c), " ", "\n") }

// TestAFaultOfOursIsALine: a command prints no stack trace, and says where the fault is.
func TestAFaultOfOursIsALine(t *testing.T) {
	defer func() {
		text := faultText(recover(), debug.Stack())
		if !strings.HasPrefix(text, "ehlogate: a fault of ours at main_test.go:") || !strings.Contains(text, "index out of range") || strings.Contains(text, "\n") {
			t.Error(text)
		}
	}()
	var none []string
	t.Log(none[len(t.Name())])
}
