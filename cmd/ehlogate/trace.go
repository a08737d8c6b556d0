package main

import (
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/milter/verdict/report"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/asn"
)

// traceFlag names the trace that a command reads.
var traceFlag = &cli.StringFlag{Name: "trace", Usage: "`FILE` of events, one JSON object a line, compressed with gzip or zstd or not; - is standard input"}

// trace is a trace to read, and what to close.
type trace struct {
	io.Reader
	io.Closer
}

// openTrace opens a trace, compressed with gzip or zstd or not, and tells its size, -1 where that
// is not known.
func openTrace(name string) (io.ReadCloser, int64, error) {
	f, size := os.Stdin, int64(-1)
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, 0, err
		}
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
	}
	in, zipped, err := report.Unzip(f)
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if zipped {
		size = -1
	}
	return trace{in, f}, size, nil
}

// policyFor is the policy of a configuration for a trace, with the autonomous systems as they are
// known now.
func policyFor(cfg *config.Config) (*policy.Policy, error) {
	var systems asn.Database
	if err := systems.Use(cfg.ASNDatabase); err != nil {
		return nil, err
	}
	cfg.Policy.ASN = systems.Lookup
	return policy.New(cfg.Policy), nil
}
