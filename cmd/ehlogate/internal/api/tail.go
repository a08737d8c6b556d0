package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// tailWait is how long who watches may take for a line.
const tailWait = 10 * time.Second

// tail shows the event logs of all nodes as they are written. An empty line says that nothing was.
func (s *Server) tail(w http.ResponseWriter, r *http.Request) {
	if s.Watch == nil {
		refuse(w, http.StatusServiceUnavailable, fmt.Errorf("nothing is counted, so that nothing can be watched"))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	err := s.Watch(r.Context(), func(line []byte) error {
		control.SetWriteDeadline(time.Now().Add(tailWait))
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		return control.Flush()
	})
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
	}
}

// Tail shows the event logs of all nodes as they are written, until the context ends.
func (c *Client) Tail(ctx context.Context, begun func(), show func(line []byte) error) error {
	waiting := *c
	waiting.http.Timeout = 0
	return waiting.do(ctx, http.MethodGet, "/api/v1/tail", nil, func(r io.Reader) error {
		begun()
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxChunk)
		for lines.Scan() {
			if len(lines.Bytes()) == 0 {
				continue
			}
			if err := show(lines.Bytes()); err != nil {
				return err
			}
		}
		return lines.Err()
	})
}
