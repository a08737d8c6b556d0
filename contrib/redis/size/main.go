// Command size measures how much memory reputation takes in Redis: it starts a private
// redis-server, teaches it clients through the store that the daemon uses, and prints what that
// takes.
//
//	go run ./contrib/redis/size [-addresses 1000000] [-per-network 32]
//
// contrib/redis/README.md has the table of sizes that was made with it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy"
	"github.com/ehlogate/ehlogate/policy/reputation"
	"github.com/ehlogate/ehlogate/policy/store/redis"
)

func main() {
	addresses := flag.Int("addresses", 1_000_000, "how many IPv4 clients are learnt of")
	perNetwork := flag.Int("per-network", 32, "how many of them are in each /24, at most 256")
	flag.Parse()
	if err := run(*addresses, *perNetwork); err != nil {
		fmt.Fprintln(os.Stderr, "size:", err)
		os.Exit(1)
	}
}

func run(addresses, perNetwork int) error {
	dir, err := os.MkdirTemp("", "ehlogate-size-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := redisd.New(dir)
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer server.Kill()
	target, err := redis.ParseURL("redis://" + server.Addr())
	if err != nil {
		return err
	}
	policies := policy.Default()
	inForce := policy.NewInForce(policy.New(policies), time.Now)
	store, err := redis.Open(redis.Options{
		Target: target, SpoolDir: dir, SpoolLimit: 1 << 30, Now: time.Now, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Layout: policies.Layout, Tier: inForce.Tier,
	})
	if err != nil {
		return err
	}
	defer store.Close()
	before, err := memory(server, "used_memory")
	if err != nil {
		return err
	}
	start := time.Now()
	if err := fill(store, inForce, addresses, perNetwork); err != nil {
		return err
	}
	took := time.Since(start)
	used, err := memory(server, "used_memory")
	if err != nil {
		return err
	}
	resident, err := memory(server, "used_memory_rss")
	if err != nil {
		return err
	}
	each := float64(used-before) / float64(addresses)
	fmt.Printf("%d addresses, %d in a /24: %.1f bytes each, %.1f beyond the record; used_memory %.0f MiB, resident %.0f MiB; learnt in %.0f s\n",
		addresses, perNetwork, each, each-reputation.RecordSize, float64(used)/(1<<20), float64(resident)/(1<<20), took.Seconds())
	return nil
}

// fill learns a message of each client, the clients of a network one after the other as they would
// come over the days: not together.
func fill(store *redis.Store, p *policy.InForce, addresses, perNetwork int) error {
	now := time.Now()
	judge := policy.NewJudge(p, store)
	networks := (addresses + perNetwork - 1) / perNetwork
	waiting := make(chan (<-chan error), 20_000)
	failed := make(chan error, 1)
	go func() {
		var err error
		for c := range waiting {
			if e := <-c; e != nil {
				err = e
			}
		}
		failed <- err
	}()
	for i := range addresses {
		network, host := i%networks, i/networks
		addr := netip.AddrFrom4([4]byte{byte(1 + network>>16), byte(network >> 8), byte(network), byte(host * 37)})
		class := policy.Spam
		if i%3 == 0 {
			class = policy.Ham
		}
		waiting <- judge.Learn(&policy.Message{Time: now, Client: policy.Client{Addr: addr}, Mail: true, Verdict: policy.Verdict{Class: class, Weight: 1}})
	}
	close(waiting)
	if err := <-failed; err != nil {
		return err
	}
	for store.Stats.Spooled.Load() > 0 {
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

// memory is a figure of INFO memory, in bytes.
func memory(server *redisd.Server, name string) (int64, error) {
	c := server.Client()
	defer c.Close()
	info, err := c.Info(context.Background(), "memory").Result()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return strconv.ParseInt(v, 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s in what Redis says of its memory", name)
}
