package config

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "7d": 168 * time.Hour, "1w": 168 * time.Hour, "1d12h": 36 * time.Hour, "2w1d": 360 * time.Hour, "0s": 0,
		"": -1, "d": -1, "7": -1, "-1d": -1, "1h2d": -1, "7 d": -1, "1.5d": -1, "week": -1,
	} {
		got, err := ParseDuration(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
