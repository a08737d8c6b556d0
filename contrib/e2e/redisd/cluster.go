package redisd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Cluster is a Redis Cluster of three masters with a replica each.
type Cluster struct{ Servers []*Server }

// NewCluster starts one and waits until it serves.
func NewCluster(dir string, args ...string) (*Cluster, error) {
	c := &Cluster{}
	for i := range 6 {
		s, err := New(filepath.Join(dir, fmt.Sprint("node", i)), append([]string{"--cluster-enabled", "yes", "--cluster-node-timeout", "1000"}, args...)...)
		if err != nil {
			return c, err
		}
		c.Servers = append(c.Servers, s)
		if err := s.Start(); err != nil {
			return c, err
		}
	}
	if out, err := CLI(append([]string{"--cluster", "create", "--cluster-replicas", "1", "--cluster-yes"}, c.Addrs()...)...); err != nil {
		return c, fmt.Errorf("redisd: create a cluster: %w\n%s", err, out)
	}
	return c, Until(c.healthy)
}

// Addrs are its servers' addresses.
func (c *Cluster) Addrs() (addrs []string) {
	for _, s := range c.Servers {
		addrs = append(addrs, s.Addr())
	}
	return addrs
}

// healthy reports whether every server serves and every replica is up to date.
func (c *Cluster) healthy() error {
	for _, s := range c.Servers {
		info, err := s.Do("CLUSTER", "INFO")
		if err != nil {
			return err
		}
		if !strings.Contains(fmt.Sprint(info), "cluster_state:ok") {
			return fmt.Errorf("redisd: %s: %v", s.Addr(), info)
		}
		role, err := s.Do("ROLE")
		if r, ok := role.([]any); err != nil || !ok || r[0] == "slave" && r[3] != "connected" || r[0] == "master" && len(r[2].([]any)) == 0 {
			return fmt.Errorf("redisd: %s: role %v, %v", s.Addr(), role, err)
		}
	}
	return nil
}

// Master is the server that holds a key now.
func (c *Cluster) Master(key string) (*Server, error) {
	client := c.Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := client.MasterForKey(ctx, key)
	if err != nil {
		return nil, err
	}
	for _, s := range c.Servers {
		if s.Addr() == m.Options().Addr {
			return s, nil
		}
	}
	return nil, fmt.Errorf("redisd: no server at %s", m.Options().Addr)
}

// Client is a new client of it, as its administrator.
func (c *Cluster) Client() *redis.ClusterClient {
	return redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), DialTimeout: time.Second})
}

// Stop ends all servers.
func (c *Cluster) Stop() {
	for _, s := range c.Servers {
		s.Stop()
	}
}

// Sentinels is a master with replicas, watched by three sentinels under the name "mymaster".
type Sentinels struct{ Servers, Sentinels []*Server }

// NewSentinels starts them and waits until all know each other.
func NewSentinels(dir string, args ...string) (*Sentinels, error) {
	s := &Sentinels{}
	for i := range 2 {
		r, err := New(filepath.Join(dir, fmt.Sprint("redis", i)), append([]string{"--repl-diskless-sync-delay", "0"}, args...)...)
		if err != nil {
			return s, err
		}
		if i > 0 {
			r.Args = append(r.Args, "--replicaof", "127.0.0.1", fmt.Sprint(s.Servers[0].Port))
		}
		s.Servers = append(s.Servers, r)
		if err := r.Start(); err != nil {
			return s, err
		}
	}
	for i := range 3 {
		r, err := New(filepath.Join(dir, fmt.Sprint("sentinel", i)))
		if err != nil {
			return s, err
		}
		conf := filepath.Join(r.Dir, "sentinel.conf")
		text := fmt.Sprintf("sentinel monitor mymaster 127.0.0.1 %d 2\nsentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n", s.Servers[0].Port)
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			return s, err
		}
		r.Config, r.Sentinel = conf, true
		s.Sentinels = append(s.Sentinels, r)
		if err := r.Start(); err != nil {
			return s, err
		}
	}
	return s, Until(func() error {
		for _, r := range s.Sentinels {
			if out, err := r.Do("SENTINEL", "CKQUORUM", "mymaster"); err != nil {
				return fmt.Errorf("redisd: %v, %w", out, err)
			}
			replicas, err := r.Do("SENTINEL", "REPLICAS", "mymaster")
			if list, ok := replicas.([]any); err != nil || !ok || len(list) != len(s.Servers)-1 {
				return fmt.Errorf("redisd: replicas %v, %v", replicas, err)
			}
		}
		return nil
	})
}

// Addrs are the sentinels' addresses.
func (s *Sentinels) Addrs() (addrs []string) {
	for _, r := range s.Sentinels {
		addrs = append(addrs, r.Addr())
	}
	return addrs
}

// Stop ends all servers.
func (s *Sentinels) Stop() {
	for _, r := range append(s.Sentinels, s.Servers...) {
		r.Stop()
	}
}

// CLI runs redis-cli.
func CLI(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "redis-cli", args...).CombinedOutput()
	return string(out), err
}
