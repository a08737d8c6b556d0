package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads a duration as an operator writes it: as time.ParseDuration does, and days and
// weeks before it: 90m, 36h, 7d, 1w12h.
func ParseDuration(s string) (time.Duration, error) {
	total, rest := time.Duration(0), s
	for _, unit := range []struct {
		name string
		is   time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		before, after, ok := strings.Cut(rest, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(before, 10, 16)
		if err != nil {
			return 0, fmt.Errorf(`%q is not a duration; expected something like "90m", "36h" or "7d"`, s)
		}
		total, rest = total+time.Duration(n)*unit.is, after
	}
	if rest == "" && rest != s {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		return 0, fmt.Errorf(`%q is not a duration; expected something like "90m", "36h" or "7d"`, s)
	}
	return total + d, nil
}

// FormatDuration writes a duration as ParseDuration reads it, without units that are zero: 8h
// instead of 8h0m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
