package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in /proc/PID/stat: sysconf(_SC_CLK_TCK) is 100 on every Linux.
const tick = time.Second / 100

// process is a line of /proc/PID/stat: the parent, and the processor time of the process and of its
// children that have ended.
type process struct {
	parent int
	spent  time.Duration
}

// processes are those that run now.
func processes() (map[int]process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := map[int]process{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may have spaces.
		_, rest, ok := bytes.Cut(b, []byte(") "))
		fields := strings.Fields(string(rest))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if !ok || err != nil || len(fields) < 15 {
			return nil, fmt.Errorf("%s: %q", f, b)
		}
		var p process
		if p.parent, err = strconv.Atoi(fields[1]); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		// utime, stime, cutime, cstime
		for _, field := range fields[11:15] {
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			p.spent += time.Duration(n) * tick
		}
		all[pid] = p
	}
	return all, nil
}

// spent is the processor time, user and system, that processes and all that they started have had.
func spent(roots ...int) (time.Duration, error) {
	all, err := processes()
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for pid := range all {
		for p := pid; p > 1; p = all[p].parent {
			if slices.Contains(roots, p) {
				sum += all[pid].spent
				break
			}
		}
	}
	return sum, nil
}
