package redis

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Finding is something about Redis that is as it should be, or how to fix it.
type Finding struct {
	// OK says that it is as it should be; Note that there is something to know all the same.
	OK, Note  bool
	What, Fix string
}

// oldest is the oldest version of Redis that works: sharded publish and subscribe came with 7.0.
// Valkey has it from the start.
const oldest = 7

// Inspect looks at a Redis without changing anything in it.
func Inspect(ctx context.Context, o Options) []Finding {
	client, err := o.Target.connect()
	if err != nil {
		return []Finding{{What: fmt.Sprintf("%s cannot be used", o.Target), Fix: err.Error()}}
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, walkTimeout)
	defer cancel()
	found, err := client.Get(ctx, schemaKey).Result()
	switch {
	case err != nil && err != redis.Nil:
		return []Finding{{What: fmt.Sprintf("%s does not serve: lookups are answered from memory, or STARTTLS is offered, and observations wait on disk", o.Target), Fix: err.Error()}}
	case err == nil && found != o.schema():
		return []Finding{{
			What: fmt.Sprintf("%s holds reputation of another version or layout (%s); nothing is read or written there", o.Target, found),
			Fix:  fmt.Sprintf("give all nodes the same version and prefix lengths (this one: %s), or this one another database", o.schema()),
		}}
	}
	all := []Finding{{OK: true, What: fmt.Sprintf("%s serves, and holds reputation of this version or none", o.Target)}}
	err = eachServer(ctx, client, func(addr string, c redis.Cmdable) error {
		if addr == "" {
			addr = "Redis"
		}
		all = append(all, inspectServer(ctx, addr, c)...)
		return nil
	})
	if err != nil {
		all = append(all, Finding{What: "not all servers of the cluster can be looked at", Fix: err.Error()})
	}
	if o.Target.hasPassword() && opensToAnybody(ctx, *o.Target) {
		all = append(all, Finding{
			OK: true, Note: true, What: "whoever can connect to Redis can change all of it: its default user needs no password",
			Fix: "a user for yourself and one for replicas, and then user default off; contrib/redis/redis.conf says how",
		})
	}
	return all
}

// opensToAnybody reports whether a Redis that is used with a password serves without one, too.
func opensToAnybody(ctx context.Context, t Target) bool {
	t.user, t.password, t.files.password = "", "", ""
	client, err := t.connect()
	if err != nil {
		return false
	}
	defer client.Close()
	err = client.Get(ctx, schemaKey).Err()
	return err == nil || err == redis.Nil
}

func inspectServer(ctx context.Context, name string, c redis.Cmdable) []Finding {
	sections, err := c.InfoMap(ctx, "everything").Result()
	if err != nil {
		return []Finding{{What: name + " does not say how it is set up", Fix: "allow the user +info: " + err.Error()}}
	}
	info := map[string]string{}
	for _, section := range sections {
		maps.Copy(info, section)
	}
	var found []Finding
	wrong := func(bad bool, what, fix string) {
		if bad {
			found = append(found, Finding{What: name + " " + what, Fix: fix})
		}
	}
	major, _ := strconv.Atoi(strings.SplitN(info["redis_version"], ".", 2)[0])
	wrong(major < oldest, "is version "+info["redis_version"]+": changes of other nodes are not heard", "Redis 7.0 or later, or Valkey")
	wrong(info["maxmemory"] == "0", "has no limit on memory: a flood can take all that the host has", "in redis.conf set maxmemory, for which contrib/redis/README.md has a table of sizes, and maxmemory-policy volatile-ttl")
	wrong(info["maxmemory"] != "0" && info["maxmemory_policy"] != "volatile-ttl", "has maxmemory-policy "+info["maxmemory_policy"],
		"maxmemory-policy volatile-ttl: what was not heard of for longest goes first, and the operator's overrides never")
	wrong(info["aof_enabled"] == "0" && info["connected_slaves"] == "0", "keeps nothing when it ends: no append-only file, no replica", "appendonly yes, or a replica")
	if len(found) == 0 {
		found = append(found, Finding{OK: true, What: name + " is version " + info["redis_version"] + ", with a limit on memory and its data kept"})
	}
	return found
}
