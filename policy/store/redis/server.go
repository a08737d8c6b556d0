package redis

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"

	"github.com/ehlogate/ehlogate/policy/fault"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

// server is the way to Redis, with a breaker for each server behind it: one that does not answer is
// asked again a few times a second, and in between nobody waits for it.
type server struct {
	client redis.UniversalClient
	// cluster is the client if it is one of a cluster.
	cluster *redis.ClusterClient
	log     *slog.Logger
	// why is why a server did not serve last.
	why      atomic.Pointer[error]
	throttle *fault.Throttle
	faults   *fault.Guard
	// back is called when a server answers again.
	back func()

	mu       sync.Mutex
	breakers map[string]*breaker
	// lost is when the layout of a cluster could not be had.
	lost time.Time
}

// breaker is the breaker of a server, and when that was last needed.
type breaker struct {
	*gobreaker.TwoStepCircuitBreaker[any]
	needed time.Time
}

const (
	// tripAfter is how many failures in a row open a breaker, probeAfter when it lets one call
	// through again.
	tripAfter  = 3
	probeAfter = 250 * time.Millisecond
	// layoutWait is how long to wait for the layout of a cluster.
	layoutWait = 100 * time.Millisecond
	// unneeded is how long a server was not needed that has left its cluster.
	unneeded = 3 * time.Second
)

func newServer(client redis.UniversalClient, log *slog.Logger, throttle *fault.Throttle, faults *fault.Guard, back func()) *server {
	s := &server{client: client, log: log, throttle: throttle, faults: faults, back: back, breakers: map[string]*breaker{}}
	s.cluster, _ = client.(*redis.ClusterClient)
	return s
}

// master is the address of the server that holds a key, empty where there is only one.
func (s *server) master(key string) (addr string, ok bool) {
	if s.cluster == nil {
		return "", true
	}
	s.mu.Lock()
	lost := s.lost
	s.mu.Unlock()
	if time.Since(lost) < probeAfter {
		return "", false
	}
	ctx, cancel := context.WithTimeout(context.Background(), layoutWait)
	defer cancel()
	c, err := s.cluster.MasterForKey(ctx, key)
	if err != nil {
		s.mu.Lock()
		s.lost = time.Now()
		s.mu.Unlock()
		return "", false
	}
	return c.Options().Addr, true
}

// name is what the log calls a server.
func name(addr string) string {
	if addr == "" {
		return "redis"
	}
	return addr
}

func (s *server) breaker(addr string) *breaker {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.breakers[addr]
	if b == nil {
		b = &breaker{TwoStepCircuitBreaker: gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
			Name: name(addr), MaxRequests: 1, Timeout: probeAfter,
			ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
			IsSuccessful:  func(err error) bool { return !down(err) },
			OnStateChange: s.changed,
		})}
		s.breakers[addr] = b
	}
	b.needed = time.Now()
	return b
}

func (s *server) changed(name string, from, to gobreaker.State) {
	switch {
	case from == gobreaker.StateClosed && to == gobreaker.StateOpen:
		s.log.Warn("Redis does not answer: lookups are answered from memory or offer STARTTLS, observations wait on disk", "server", name)
	case to == gobreaker.StateClosed:
		s.log.Info("Redis answers again", "server", name)
		s.back()
	}
}

// errOpen is what a call gets that the breaker keeps away.
var errOpen = errors.New("the server did not answer lately")

// call makes a call to a server if its breaker lets it.
func (s *server) call(addr string, f func() error) error {
	done, refused := s.breaker(addr).Allow()
	if refused != nil {
		return errOpen
	}
	err := s.guarded(f)
	done(err)
	if !down(err) {
		return err
	}
	s.why.Store(&err)
	s.throttle.About("down "+kind(err), func() { s.log.Warn("Redis does not serve", "server", name(addr), "error", err) })
	if s.cluster != nil {
		// Its place may have been taken, which the library finds out only from a server that
		// answers.
		s.cluster.ReloadState(context.Background())
	}
	return err
}

// guarded makes a fault of ours an error, which counts for the breaker.
func (s *server) guarded(f func() error) (err error) {
	fault := s.faults.Do("a call to Redis", func() { err = f() })
	return cmp.Or(fault, err)
}

// open reports whether a server's breaker keeps calls away now.
func (s *server) open(addr string) bool { return s.breaker(addr).State() == gobreaker.StateOpen }

// up reports whether all servers that were needed lately answer.
func (s *server) up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.breakers {
		if b.State() != gobreaker.StateClosed && time.Since(b.needed) < unneeded {
			return false
		}
	}
	return true
}

// eachServer calls f for the server behind a client, or for each master of a cluster, one after the
// other, until it returns an error.
func eachServer(ctx context.Context, client redis.UniversalClient, f func(addr string, c redis.Cmdable) error) error {
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		return f("", client)
	}
	var mu sync.Mutex
	var masters []*redis.Client
	err := cluster.ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		masters = append(masters, c)
		return nil
	})
	for _, c := range masters {
		if err == nil {
			err = f(c.Options().Addr, c)
		}
	}
	return err
}

// refusals are the beginnings of Redis's errors of a server that cannot serve now, or does not let
// us in. Such a server is left alone for a while.
var refusals = []string{"LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "WRONGPASS", "NOPERM", "BUSY ", "DENIED", "ERR max number of clients", "ERR Protocol error"}

// down reports whether an error means that the server does not serve, as against one about a single
// command.
func down(err error) bool {
	var reply redis.Error
	switch {
	case err == nil || errors.Is(err, redis.Nil) || errors.Is(err, reputation.ErrRecord) || errors.Is(err, errReply):
		return false
	case errors.As(err, &reply):
		for _, r := range refusals {
			if strings.HasPrefix(reply.Error(), r) {
				return true
			}
		}
		return false
	}
	return true
}

// transient reports whether a batch that failed so may be sent again: Redis did not do it, or
// nobody knows. Only what is about the batch itself is not: a reply that we do not understand, and
// our script ending with an error. A proxy before Redis, or a Redis to come, has errors of its own.
func transient(err error) bool {
	var reply redis.Error
	switch {
	case down(err):
		return true
	case !errors.As(err, &reply):
		return false
	}
	// Redis names the script in whatever a command in one says, too.
	return !strings.HasPrefix(reply.Error(), "WRONGTYPE") && !(kind(err) == "ERR" && strings.Contains(reply.Error(), "script"))
}

// exec runs a pipeline. Each command has an error of its own; one that none has heard of, such as
// that of a connection that could not log in, is given to all: they would look as if they had been
// answered.
func exec(ctx context.Context, pipe redis.Pipeliner) []redis.Cmder {
	cmds, err := pipe.Exec(ctx)
	if err != nil && !errors.Is(err, redis.Nil) && firstError(cmds) == nil {
		for _, c := range cmds {
			c.SetErr(err)
		}
	}
	return cmds
}

// firstError is the first error of commands that says that their server is down, else their first
// error.
func firstError(cmds []redis.Cmder) (err error) {
	for _, c := range cmds {
		if e := c.Err(); e != nil && !errors.Is(e, redis.Nil) {
			if down(e) {
				return e
			}
			if err == nil {
				err = e
			}
		}
	}
	return err
}

// kind is what sort of error one is: Redis's own first word, or that it was not Redis's.
func kind(err error) string {
	var reply redis.Error
	if errors.As(err, &reply) {
		word, _, _ := strings.Cut(reply.Error(), " ")
		return word
	}
	return "network"
}
