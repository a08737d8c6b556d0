package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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

const (
	// peersChannel is where nodes ask each other whose message something is about.
	peersChannel = prefix + "{peers}"
	// mostTold bounds the lines that wait to be sent there, toldAtOnce those of one message.
	mostTold, toldAtOnce = 10_000, 100

	// silence is how long a channel may say nothing before it is asked whether it is still there.
	silence = time.Second
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
	return s.send(ctx, tailChannel, node, lines)
}

// Receive shows lines that are sent, with the node that has sent each, until the context ends.
func (s *Store) Receive(ctx context.Context, show func(node string, line []byte)) error {
	return s.receive(ctx, tailChannel, show)
}

// Name tells this node from the others, until its next start.
func (s *Store) Name() string { return s.writer.sender }

// Tell sends a line to all other nodes. It does not wait, and a line for which there is no room, or
// no Redis, is lost.
func (s *Store) Tell(line []byte) {
	select {
	case s.told <- line:
	default:
	}
}

// tellLoop sends what is told, some lines at once.
func (s *Store) tellLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			// What was told at the end is not to be lost.
			for len(s.told) > 0 && s.tellSome(<-s.told) == nil {
			}
			return
		case line := <-s.told:
			s.tellSome(line)
		}
	}
}

// tellSome sends a line and some of those that wait. Whoever tells them tells them again; see Tell.
func (s *Store) tellSome(line []byte) error {
	lines := [][]byte{line}
	for len(s.told) > 0 && len(lines) < toldAtOnce {
		lines = append(lines, <-s.told)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return s.send(ctx, peersChannel, s.Name(), lines)
}

// Hear takes the lines that other nodes tell, until the context ends or the channel is lost.
func (s *Store) Hear(ctx context.Context, heard func(node string, line []byte)) error {
	return s.receive(ctx, peersChannel, func(node string, line []byte) {
		if node != s.Name() {
			heard(node, line)
		}
	})
}

// send sends lines on a channel, in the name of a node.
func (s *Store) send(ctx context.Context, channel, node string, lines [][]byte) error {
	message := append([]byte(node+"\n"), bytes.Join(lines, []byte("\n"))...)
	return s.server.client.SPublish(ctx, channel, message).Err()
}

// receive takes the lines of a channel, with the node that has sent each.
func (s *Store) receive(ctx context.Context, channel string, take func(node string, line []byte)) error {
	return s.subscribe(ctx, channel, func() {}, func(payload string) {
		node, rest, _ := bytes.Cut([]byte(payload), []byte("\n"))
		for line := range bytes.SplitSeq(rest, []byte("\n")) {
			take(string(node), line)
		}
	})
}

// subscribe takes what is published on a channel until that is lost or the context ends. begun is
// called whenever it may have missed something.
func (s *Store) subscribe(ctx context.Context, channel string, begun func(), take func(payload string)) error {
	sub := s.server.client.SSubscribe(ctx, channel)
	defer sub.Close()
	// Receiving does not mind the context.
	defer context.AfterFunc(ctx, func() { sub.Close() })()
	asked := false
	for {
		m, err := sub.ReceiveTimeout(ctx, silence)
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout() && !asked:
			if err := sub.Ping(ctx); err != nil {
				return fmt.Errorf("store: %w", err)
			}
			asked = true
			continue
		case err != nil:
			return fmt.Errorf("store: %w", err)
		}
		asked = false
		switch m := m.(type) {
		case *redis.Subscription:
			if m.Kind != "ssubscribe" {
				return fmt.Errorf("store: the channel has moved: %s", m.Kind)
			}
			begun()
		case *redis.Message:
			take(m.Payload)
		}
	}
}
