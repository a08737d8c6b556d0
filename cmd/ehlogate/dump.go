package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
)

func dumpCommand() *cli.Command {
	return &cli.Command{
		Name: "dump", Usage: "write all reputation, overrides and exceptions of the running daemon's store to a file", ArgsUsage: "FILE",
		Description: "The file is whole or not there: what was interrupted leaves nothing behind, and nothing is overwritten.",
		Flags:       []cli.Flag{apiFlag}, Action: writeDump,
	}
}

func writeDump(c *cli.Context) error {
	if c.NArg() != 1 {
		return misuseOf("dump needs a file; usage: ehlogate dump FILE")
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	path := c.Args().First()
	if _, err := os.Lstat(path); err == nil {
		return misuseOf("%s exists; name a file that does not", path)
	}
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return misuseOf("%s cannot be written: %w", path, errors.Unwrap(err))
	}
	defer os.Remove(part)
	defer f.Close()
	bar := progress(c.App.ErrWriter, "dump", -1, progressbar.OptionShowBytes(true))
	if err := daemon.Dump(c.Context, io.MultiWriter(f, bar)); err != nil {
		return err
	}
	bar.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, end, err := verify(path, f)
	if err != nil {
		return err
	}
	if err := syncAndRename(f, part, path); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "dumped %s, %s and %s to %s\n", plural(end.Records, "record"), plural(end.Overrides, "override"), plural(end.Exceptions, "exception"), path)
	return err
}

// syncAndRename gives a file its name when all of it is on disk, and not before.
func syncAndRename(f *os.File, from, to string) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return os.Rename(from, to)
}

func loadCommand() *cli.Command {
	return &cli.Command{
		Name: "load", Usage: "add a dump to the running daemon's store", ArgsUsage: "FILE",
		Description: "What is already known is kept, and the dump added to it; a dump of this very store brings back what is gone and adds\n" +
			"nothing to the rest. Each part of a dump is added once: after an interruption, run the same\n" +
			"command again, and it goes on where it was.",
		Flags: []cli.Flag{apiFlag}, Action: loadDump,
	}
}

// chunkLines is how many lines of a dump are sent at once; loadTries is how often, a second apart,
// a chunk that failed.
const (
	chunkLines = 500
	loadTries  = 10
)

func loadDump(c *cli.Context) error {
	if c.NArg() != 1 {
		return misuseOf("load needs a file; usage: ehlogate load FILE")
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	path := c.Args().First()
	f, err := os.Open(path)
	if err != nil {
		return misused{err}
	}
	defer f.Close()
	// All of it is read before any of it is sent.
	head, end, err := verify(path, f)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	total := end.Records + end.Overrides + end.Exceptions
	bar := progress(c.App.ErrWriter, "load", int64(total), progressbar.OptionShowCount())
	defer bar.Close()
	lines := dumpLines(f)
	lines.Scan()
	known, own := 0, false
	for sent, chunk := 0, 1; sent < total; chunk++ {
		var some [][]byte
		for len(some) < chunkLines && sent+len(some) < total && lines.Scan() {
			some = append(some, append(bytes.Clone(lines.Bytes()), '\n'))
		}
		if len(some) == 0 {
			return fmt.Errorf("%s: changed while it was read", path)
		}
		done, err := daemon.Load(c.Context, head, chunk, some)
		for try := 1; err != nil && api.Temporary(err) && try < loadTries && c.Context.Err() == nil; try++ {
			time.Sleep(time.Second)
			done, err = daemon.Load(c.Context, head, chunk, some)
		}
		if err != nil {
			return fmt.Errorf("%s: %d of %d lines are loaded: %w%s", path, sent, total, err, goOn(err))
		}
		if !done.Fresh {
			known += len(some)
		}
		own = own || done.Own
		sent += len(some)
		bar.Add(len(some))
	}
	if own {
		_, err = fmt.Fprintf(c.App.Writer, "%s is a dump of this very store: of its %s, those that were gone are back, and the rest is as it was; loaded %s and %s\n",
			path, plural(end.Records, "record"), plural(end.Overrides, "override"), plural(end.Exceptions, "exception"))
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "loaded %s and %s from %s, %d of them before\n", plural(end.Records, "record"), plural(end.Overrides, "override"), path, known)
	return err
}

// goOn is what to do after a fault that goes away by itself.
func goOn(err error) string {
	if api.Temporary(err) {
		return "; run the same command again to go on"
	}
	return ""
}

func dumpLines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 64<<10)
	return s
}

// verify reads a whole dump and refuses one that is none, is cut short, or was changed.
func verify(path string, r io.Reader) (head api.DumpHead, end api.DumpEnd, err error) {
	lines := dumpLines(r)
	var seen api.DumpEnd
	n := 1
	for ; lines.Scan(); n++ {
		var line api.DumpLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			if n > 1 && !lines.Scan() {
				break
			}
			return head, end, fmt.Errorf("%s:%d: not a line of a dump: %w", path, n, err)
		}
		switch {
		case n == 1 && (line.Head == nil || line.Head.Format != api.DumpFormat):
			return head, end, fmt.Errorf("%s: is not a dump of this version of ehlogate; its first line should say %q", path, api.DumpFormat)
		case n == 1:
			head = *line.Head
		case line.End != nil && *line.End == seen:
			return head, seen, nil
		case line.End != nil:
			return head, end, fmt.Errorf("%s:%d: has %d records and %d overrides, should have %d and %d; was it changed?", path, n, seen.Records, seen.Overrides, line.End.Records, line.End.Overrides)
		case line.Override != nil:
			seen.Overrides++
		case line.Exception != nil:
			seen.Exceptions++
		default:
			if _, err := line.Record(); err != nil {
				return head, end, fmt.Errorf("%s:%d: %w", path, n, err)
			}
			seen.Records++
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return head, end, fmt.Errorf("%s:%d: not a line of a dump: it is too long", path, n)
	case err != nil:
		return head, end, fmt.Errorf("%s: %w", path, err)
	}
	return head, end, fmt.Errorf("%s: is cut short after %d records; dump again", path, seen.Records)
}
