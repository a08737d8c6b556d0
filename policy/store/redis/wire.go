package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// What nodes send each other while somebody watches: the channel, and the key that says that
// somebody does, for wantedFor.
const (
	tailChannel = prefix + "{tail}"
	tailKey     = prefix + "{tail}:wanted"
	wantedFor   = 10 * time.Second
)

// Want says that somebody watches, for wantedFor.
func (s *Store) Want(ctx context.Context) error {
	if err := s.server.client.Set(ctx, tailKey, "1", wantedFor).Err(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// Wanted reports whether somebody watches.
func (s *Store) Wanted(ctx context.Context) (bool, error) {
	if !s.ready() {
		return false, errAway
	}
	err := s.server.client.Get(ctx, tailKey).Err()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	return err == nil, err
}

// Send sends lines to who watches, in the name of a node.
func (s *Store) Send(ctx context.Context, node string, lines [][]byte) error {
	message := append([]byte(node+"\n"), bytes.Join(lines, []byte("\n"))...)
	return s.server.client.SPublish(ctx, tailChannel, message).Err()
}

// Receive shows lines that are sent, with the node that has sent each, until the context ends.
func (s *Store) Receive(ctx context.Context, show func(node string, line []byte)) error {
	sub := s.server.client.SSubscribe(ctx, tailChannel)
	// Its wait does not end with the context by itself.
	defer context.AfterFunc(ctx, func() { sub.Close() })()
	defer sub.Close()
	for {
		m, err := sub.ReceiveMessage(ctx)
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		node, rest, _ := bytes.Cut([]byte(m.Payload), []byte("\n"))
		for line := range bytes.SplitSeq(rest, []byte("\n")) {
			show(string(node), line)
		}
	}
}
