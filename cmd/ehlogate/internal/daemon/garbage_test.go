package daemon

import (
	"runtime"
	"testing"
)

func TestGarbageIsBounded(t *testing.T) {
	for _, c := range []struct {
		inUse uint64
		want  int
	}{{0, 100}, {4 << 20, 100}, {16 << 20, 100}, {32 << 20, 50}, {160 << 20, 10}, {4 << 30, 10}} {
		if got := garbagePercent(c.inUse); got != c.want {
			t.Errorf("%d bytes in use: %d %%, want %d", c.inUse, got, c.want)
		}
	}
	kept := make([]byte, 8<<20)
	runtime.GC()
	if n := inUse(); n < uint64(len(kept)) {
		t.Errorf("%d bytes are in use", n)
	}
	runtime.KeepAlive(kept)
}
