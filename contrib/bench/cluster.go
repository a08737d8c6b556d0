package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
)

// nodes are how many daemons share a Redis.
var nodes = []int{1, 2, 5}

// cluster measures daemons that share a Redis: what a message and a lookup cost there.
func (s *stand) cluster(rounds int, last time.Duration) (figures []figure, err error) {
	redis, err := redisd.New(filepath.Join(s.dir, "shared-redis"), "--appendonly", "yes")
	if err != nil {
		return nil, err
	}
	if err := redis.Start(); err != nil {
		return nil, err
	}
	s.stops = append(s.stops, redis.Stop)
	var milters, tables []string
	for i := range nodes[len(nodes)-1] {
		d, err := s.daemon(fmt.Sprintf("node %d", i+1), "redis://"+redis.Addr(), "")
		if err != nil {
			return nil, err
		}
		milters, tables = append(milters, fmt.Sprintf("127.0.0.1:%d", d.Milter)), append(tables, socketmap(d))
	}
	messages, lookups := newSeries("milter sessions on daemons that share a Redis", "sessions/s"), newSeries("lookups on them, each of another client", "lookups/s")
	ofMessage, ofLookup := newOfRedis("a message"), newOfRedis("a lookup")
	for round := range rounds {
		for _, n := range nodes {
			name := fmt.Sprintf("%d daemons", n)
			before, err := workOf(redis)
			if err != nil {
				return nil, err
			}
			done, took, err := atOnce(connections, last, func(i, nth int) error {
				_, err := session(milters[i%n], drone(), headers, fmt.Sprintf("%X%X%X%08X", round, n, i, nth))
				return err
			})
			if err != nil {
				return nil, err
			}
			// What goes to Redis in the background has arrived then.
			time.Sleep(time.Second)
			between, err := workOf(redis)
			if err != nil {
				return nil, err
			}
			messages.add(name, float64(done)/took.Seconds())
			ofMessage.add(name, between.less(before), float64(done))
			rate, _, err := askAll(tables[:n], last, drone)
			if err != nil {
				return nil, err
			}
			after, err := workOf(redis)
			if err != nil {
				return nil, err
			}
			lookups.add(name, rate)
			ofLookup.add(name, after.less(between), rate*last.Seconds())
		}
	}
	figures = append(messages.figures("", nil), ofMessage.figures()...)
	return append(append(figures, lookups.figures("", nil)...), ofLookup.figures()...), nil
}

// work is what a Redis has done: requests that came, commands in them, processor time in seconds.
type work struct{ requests, commands, seconds float64 }

func (w work) less(before work) work {
	return work{w.requests - before.requests, w.commands - before.commands, w.seconds - before.seconds}
}

// workOf reads what a Redis says of its work since its start.
func workOf(r *redisd.Server) (w work, err error) {
	c := r.Client()
	defer c.Close()
	info, err := c.Info(context.Background(), "stats", "cpu").Result()
	if err != nil {
		return w, err
	}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "total_reads_processed":
			w.requests = v
		case "total_commands_processed":
			w.commands = v
		case "used_cpu_sys", "used_cpu_user":
			w.seconds += v
		}
	}
	if w.requests == 0 {
		return w, fmt.Errorf("no total_reads_processed in what Redis says")
	}
	return w, nil
}

// ofRedis is what something costs a Redis.
type ofRedis struct{ requests, commands, time *series }

func newOfRedis(of string) ofRedis {
	return ofRedis{newSeries("round trips to Redis, "+of, "round trips"), newSeries("commands of Redis, "+of, "commands"), newSeries("processor time of Redis, "+of, "µs")}
}

func (o ofRedis) add(contender string, w work, n float64) {
	o.requests.add(contender, w.requests/n)
	o.commands.add(contender, w.commands/n)
	o.time.add(contender, 1e6*w.seconds/n)
}

func (o ofRedis) figures() (figures []figure) {
	for _, s := range []*series{o.requests, o.commands, o.time} {
		figures = append(figures, s.figures("", nil)...)
	}
	return figures
}
