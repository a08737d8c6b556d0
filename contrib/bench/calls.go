package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// named are the system calls with a line of their own.
var named = []string{"read", "write", "epoll_pwait", "futex", "fdatasync"}

// calls counts the system calls of a session with a message and a lookup before it, one after
// another, with strace(1).
func (s *stand) calls(rounds, n int) (figures []figure, err error) {
	all := newSeries("system calls, a lookup and a session with a message", "calls")
	each := map[string]*series{}
	for _, c := range named {
		each[c] = newSeries("of them "+c+"(2)", "calls")
	}
	for round := range rounds {
		for _, c := range s.contenders {
			if c.table == "" {
				continue
			}
			counts, err := s.traced(c.pid, func() error {
				for i := range n {
					client := drone()
					if err := askOne(c.table, client); err != nil {
						return err
					}
					if _, err := session(c.milter, client, headers, fmt.Sprintf("%X%08X", round, i)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			sum := 0.0
			for _, count := range counts {
				sum += count
			}
			all.add(c.name, sum/float64(n))
			for _, call := range named {
				each[call].add(c.name, counts[call]/float64(n))
			}
		}
	}
	figures = all.figures(noop, nil)
	for _, c := range named {
		figures = append(figures, each[c].figures("", nil)...)
	}
	return figures, nil
}

// traced counts the system calls of a process while something runs.
func (s *stand) traced(pid int, run func() error) (map[string]float64, error) {
	table := filepath.Join(s.dir, "strace")
	strace := exec.Command("strace", "-f", "-c", "-o", table, "-p", strconv.Itoa(pid))
	if err := strace.Start(); err != nil {
		return nil, err
	}
	// It says nothing when it has begun.
	time.Sleep(time.Second)
	err := run()
	strace.Process.Signal(syscall.SIGINT)
	// Its exit status is that of a program interrupted.
	strace.Wait()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(table)
	if err != nil {
		return nil, err
	}
	counts := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		// % time, seconds, usecs/call, calls, errors if there are any, syscall
		f := strings.Fields(line)
		if len(f) < 5 || f[len(f)-1] == "total" {
			continue
		}
		if n, err := strconv.ParseFloat(f[3], 64); err == nil {
			counts[f[len(f)-1]] += n
		}
	}
	if len(counts) == 0 {
		return nil, errors.New("strace counted nothing")
	}
	return counts, nil
}
