// Package redisd runs private Redis servers for tests: single ones, a pair under Sentinel, and a
// cluster. Each lives in a directory of its own and listens on loopback only.
package redisd

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// patience is how long a server may take to do what it was told.
const patience = 20 * time.Second

// Server is one redis-server, or one of its kind.
type Server struct {
	// Binary is the program, redis-server if empty.
	Binary string
	Dir    string
	Port   int
	// Config is a configuration file, if it has one. Sentinel says that it is one.
	Config   string
	Sentinel bool
	// TLS says that its port speaks TLS only.
	TLS bool
	// Args are further settings, such as "--maxmemory", "64mb".
	Args []string

	cmd  *exec.Cmd
	done chan struct{}
}

// New returns a server with a free port and a directory that it makes. It is not started.
func New(dir string, args ...string) (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return &Server{Dir: dir, Port: port, Args: args}, os.MkdirAll(dir, 0o755)
}

// Addr is its address.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// Start starts it and waits until it answers; with a snapshot in its directory it answers when that
// is read.
func (s *Server) Start() error {
	if err := s.Launch(); err != nil {
		return err
	}
	return Until(func() error {
		if err := s.Ping(); err != nil {
			return fmt.Errorf("%w\n%s", err, s.Log())
		}
		return nil
	})
}

// Launch starts it and does not wait.
func (s *Server) Launch() error {
	binary := s.Binary
	if binary == "" {
		binary = "redis-server"
	}
	port := "--port"
	if s.TLS {
		port = "--tls-port"
	}
	args := []string{"--port", "0", port, strconv.Itoa(s.Port), "--bind", "127.0.0.1", "--dir", s.Dir, "--logfile", filepath.Join(s.Dir, "log")}
	switch {
	case s.Sentinel:
		args = append([]string{s.Config, "--sentinel"}, args...)
	case s.Config != "":
		args = append(append([]string{s.Config}, args...), s.Args...)
	default:
		args = append(append(args, "--save", "", "--enable-debug-command", "yes"), s.Args...)
	}
	s.cmd = exec.Command(binary, args...)
	var out bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("redisd: %w; contrib/test installs what the tests need", err)
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) { cmd.Wait(); close(done) }(s.cmd, s.done)
	return nil
}

// Ping reports whether it answers, whatever it answers of the password.
func (s *Server) Ping() error {
	select {
	case <-s.done:
		return fmt.Errorf("redisd: ended")
	default:
	}
	c, err := net.DialTimeout("tcp", s.Addr(), time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	if s.TLS {
		return nil
	}
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		return err
	}
	if a := string(b[:n]); !strings.HasPrefix(a, "+PONG") && !strings.HasPrefix(a, "-NOAUTH") {
		return fmt.Errorf("redisd: %s", a)
	}
	return nil
}

// Log is what it has logged.
func (s *Server) Log() string {
	b, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	return string(b)
}

// Client is a new connection to it, as its administrator.
func (s *Server) Client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: s.Addr(), MaxRetries: -1, DialTimeout: time.Second})
}

// Do runs a command as its administrator.
func (s *Server) Do(args ...any) (any, error) {
	c := s.Client()
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.Do(ctx, args...).Result()
}

// Pid is its process id.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Kill kills it with SIGKILL.
func (s *Server) Kill() { s.signal(syscall.SIGKILL, true) }

// Stop ends it in good order.
func (s *Server) Stop() { s.signal(syscall.SIGTERM, true) }

// Pause stops it where it is; Resume lets it go on.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP, false) }

// Resume lets it go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT, false) }

func (s *Server) signal(sig syscall.Signal, wait bool) {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(sig)
	if !wait {
		return
	}
	select {
	case <-s.done:
	case <-time.After(patience):
		s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd = nil
}

// Until tries until there is no error or patience ends.
func Until(ready func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ready()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// freePort finds a port of loopback that nobody listens on, and nobody on the one of a cluster's
// bus, 10000 above.
func freePort() (int, error) {
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if port > 55_000 {
			port -= 10_000
		}
		free := true
		for _, p := range []int{port, port + 10_000} {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return port, nil
		}
	}
	return 0, fmt.Errorf("redisd: no free ports")
}
