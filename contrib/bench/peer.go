package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"

	gomilter "github.com/d--j/go-milter"
)

// servePeer is the peer that all is compared with: a milter of the same library that asks for
// nothing and does nothing, and a table that knows one answer. It runs in a process of its own, so
// that its processor time can be told apart, prints its two addresses, and ends with its standard
// input.
func servePeer(in io.Reader, out io.Writer) error {
	milter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	table, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter { return gomilter.NoOpMilter{} })).Serve(milter)
	go func() {
		for {
			c, err := table.Accept()
			if err != nil {
				return
			}
			go answerAll(c)
		}
	}()
	if _, err := fmt.Fprintln(out, milter.Addr(), table.Addr()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// answerAll answers each netstring with "not found".
func answerAll(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	answer := []byte("9:NOTFOUND ,")
	for {
		length, err := r.ReadString(':')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(length[:len(length)-1])
		if err != nil {
			return
		}
		if _, err := r.Discard(n + 1); err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// peer is a running servePeer.
type peer struct {
	cmd           *exec.Cmd
	in            io.Closer
	milter, table string
}

func startPeer() (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &peer{cmd: exec.Command(self, "peer")}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.in = in
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := fmt.Fscan(out, &p.milter, &p.table); err != nil {
		return nil, fmt.Errorf("peer: %w", err)
	}
	return p, nil
}

func (p *peer) stop() {
	p.in.Close()
	p.cmd.Wait()
}
