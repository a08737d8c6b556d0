package main

import (
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/config"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/asn"
)

// traceFlag names the trace that a command reads.
var traceFlag = &cli.StringFlag{Name: "trace", Usage: "`FILE` of events, one JSON object a line; - is standard input"}

// openTrace opens a trace, and tells its size, -1 where that is not known.
func openTrace(name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		return io.NopCloser(os.Stdin), -1, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		return f, info.Size(), nil
	}
	return f, -1, nil
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
