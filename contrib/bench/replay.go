package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// replay measures how long a replay of a long event log takes.
func (s *stand) replay(rounds int) ([]figure, error) {
	const rows, clients = 1_000_000, 50_000
	path := filepath.Join(s.dir, "trace")
	if err := writeTrace(path, rows, clients); err != nil {
		return nil, err
	}
	defer os.Remove(path)
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

// writeTrace writes messages of as many clients, a third of them spam.
func writeTrace(path string, rows, clients int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for i := range rows {
		class := "ham"
		if i%3 == 0 {
			class = "spam"
		}
		// A prime step visits the clients in no order.
		fmt.Fprintf(w, `{"id":%d,"time":%q,"client":{"addr":%q},"tls_capable":true,"verdict":{"class":%q,"score":7.25,"source":"header"}}`+"\n",
			i+1, at.Add(time.Duration(i)*time.Second).Format(time.RFC3339), nth(i*7919%clients), class)
	}
	return w.Flush()
}
