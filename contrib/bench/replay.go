package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/mx"
)

// replay measures how long a replay of a long event log takes.
func (s *stand) replay(rounds int) ([]figure, error) {
	const rows, clients = 1_000_000, 50_000
	path := filepath.Join(s.dir, "trace")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer os.Remove(path)
	if err := errors.Join(mx.WriteTrace(f, rows, clients), f.Close()); err != nil {
		return nil, err
	}
	took := newSeries("replay of a million messages", "s")
	for range rounds {
		began := time.Now()
		if out, err := exec.Command(s.binary, "replay", "--trace", path).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("replay: %w: %s", err, out)
		}
		took.add("ehlogate replay", time.Since(began).Seconds())
	}
	return took.figures("", map[string]string{"ehlogate replay": "<= 4"}), nil
}
