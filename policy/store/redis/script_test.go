package redis

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ehlogate/ehlogate/contrib/e2e/redisd"
	"github.com/ehlogate/ehlogate/policy/reputation"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func startRedis(t testing.TB, args ...string) *redisd.Server {
	t.Helper()
	s, err := redisd.New(t.TempDir(), args...)
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// TestTheScriptCountsAsGoDoes sends the script random batches and holds every record that is left
// against what package reputation makes of the same, byte for byte.
func TestTheScriptCountsAsGoDoes(t *testing.T) {
	client := startRedis(t).Client()
	defer client.Close()
	ctx := context.Background()
	script := newScript()
	const network = "192.0.2.0/24"
	hosts := make([]netip.Prefix, 4)
	for i := range hosts {
		hosts[i] = netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i))
	}
	record := func(e reputation.Evidence) string { b, _ := e.AppendBinary(nil); return string(b) }
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		if err := client.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		round++
		stream := fmt.Sprint("round", round)
		var sum, system reputation.Evidence
		known := map[netip.Prefix]reputation.Evidence{}
		start := reputation.Slice(time.Now()) + rapid.Uint32Range(0, 2000).Draw(t, "start")
		number := uint64(0)
		// What the script reads of a record is healed by the clock of the batch, once in a batch.
		var clock time.Time
		touched := map[string]bool{}
		heal := func(name string, e reputation.Evidence) reputation.Evidence {
			if !touched[name] {
				touched[name] = true
				e = e.Heal(clock)
			}
			return e
		}
		for range rapid.IntRange(1, 6).Draw(t, "batches") {
			number++
			b := &batch{Sender: stream, Bucket: bucketOf(network), Number: number}
			clear(touched)
			clock = time.Unix(int64(start+rapid.OneOf(rapid.Uint32Range(0, 500), rapid.Just(uint32(9999))).Draw(t, "clock"))*int64(reputation.SliceWidth/time.Second), 0)
			for range rapid.IntRange(1, 8).Draw(t, "changes") {
				host := rapid.SampledFrom(hosts).Draw(t, "host")
				n := start + rapid.OneOf(rapid.Uint32Range(0, 5), rapid.Uint32Range(0, 400)).Draw(t, "slice")
				amount := rapid.OneOf(rapid.Int32Range(-20, 40), rapid.Int32Range(-9_000_000, 9_000_000))
				d := reputation.Count{Spam: amount.Draw(t, "spam"), Ham: amount.Draw(t, "ham")}
				what := rapid.IntRange(0, 9).Draw(t, "what")
				if what == 0 || what > 2 {
					sum = heal("sum", sum)
				}
				if e, ok := known[host]; what != 2 {
					if e = heal(host.String(), e); ok {
						known[host] = e
					}
				}
				if what == 2 || what > 3 {
					system = heal("system", system)
				}
				switch what {
				case 0:
					sum = sum.Without(known[host])
					delete(known, host)
					b.Changes = append(b.Changes, change{Op: remove, Key: network, Host: host})
				case 1:
					if _, ok := known[host]; ok {
						known[host] = known[host].Enter(reputation.Tier(rapid.IntRange(0, 3).Draw(t, "tier")), noon, rapid.Float64Range(-9, 9).Draw(t, "score"))
						b.Changes = append(b.Changes, change{Op: enter, Key: network, Host: host, Record: state(known[host])})
					}
				case 3:
					other, _ := reputation.Evidence{}.AddCount(n, d)
					other, _ = other.AddCount(n+rapid.Uint32Range(0, 200).Draw(t, "later"), d)
					raw := []byte(record(other))
					other = other.Heal(clock)
					sum = sum.Rejoin(known[host], other)
					known[host] = reputation.Merge(known[host], other)
					b.Changes = append(b.Changes, change{Op: merge, Key: network, Host: host, Record: raw})
					if rapid.Bool().Draw(t, "the sum, too") {
						sum = reputation.Merge(sum, other)
						b.Changes = append(b.Changes, change{Op: merge, Key: network, Record: raw})
					}
				case 2:
					system = system.Without(known[host].Heal(clock))
					b.Changes = append(b.Changes, change{Op: subtract, Key: "AS64500", Record: []byte(record(known[host]))})
				default:
					v, m := known[host].AddCount(n, d)
					known[host], sum, system = v, sum.Apply(m), system.Apply(m)
					b.Changes = append(b.Changes, change{Op: learn, Key: network, Host: host, Slice: n, Count: d})
					b.Changes = append(b.Changes, change{Op: move, Key: "AS64500", Slice: m.At, Count: m.Recent, Past: m.Past})
				}
			}
			keys, args := b.arguments(clock, false)
			v, err := script.Run(ctx, client, keys, args...).Result()
			if err != nil {
				t.Fatal(err)
			}
			r, err := b.parse(v, clock)
			if err != nil || r.status != applied || r.last != number {
				t.Fatalf("%+v, %v", r, err)
			}
			// The same batch again, and one that comes too early, change nothing.
			for _, other := range []uint64{number, number + 2} {
				args[0] = other
				if v, err := script.Run(ctx, client, keys, args...).Result(); err != nil || v.([]any)[0] == applied {
					t.Fatalf("batch %d after %d: %v, %v", other, number, v, err)
				}
			}
		}
		stored := client.HGetAll(ctx, redisKey(network)).Val()
		if sum == (reputation.Evidence{}) && len(known) == 0 {
			return
		}
		if stored[""] != record(sum) && !(stored[""] == "" && sum == reputation.Evidence{}) {
			t.Errorf("sum %x, want %x", stored[""], record(sum))
		}
		for _, h := range hosts {
			v, ok := known[h]
			if got := stored[field(h, netip.MustParsePrefix(network))]; ok && got != record(v) || !ok && got != "" {
				t.Errorf("%s: %x, want %x, %v", h, got, record(v), ok)
			}
		}
		if got, _ := client.HGet(ctx, redisKey("AS64500"), "").Result(); got != record(system) && !(got == "" && system == reputation.Evidence{}) {
			t.Errorf("system %x, want %x", got, record(system))
		}
	})
}
