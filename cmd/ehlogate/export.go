package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ehlogate/ehlogate/cmd/ehlogate/internal/api"
	"github.com/ehlogate/ehlogate/policy/regular"
)

// indexed are the formats that postmap(1) makes of a file of single addresses.
var indexed = []string{"lmdb", "cdb", "hash"}

func exportCommand() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "print what would be withheld now as a static table, or write it to a file",
		Description: "cidr is for cidr_table(5), and says all. texthash has a line for each address, and so have lmdb, cdb and hash, which\n" +
			"postmap(1) makes of it: IPv6 hosts and large networks are left out there, which a comment says. A file is replaced\n" +
			"as a whole. postscreen(8) takes an index that has changed by itself, a new cidr or texthash table at postfix reload.\n" +
			"list has the networks alone, an exception cut out of them, for table(5) of OpenSMTPD and the sets of packet filters.",
		Flags: []cli.Flag{
			apiFlag, postfixFlag,
			&cli.StringFlag{Name: "format", Usage: "`FORMAT`: cidr, texthash, lmdb, cdb, hash or list", Value: "cidr"},
			&cli.StringFlag{Name: "output", Usage: "write to `FILE`; of lmdb, cdb and hash it is the name that Postfix uses, without .lmdb and so on"},
		},
		Action: export,
	}
}

func export(c *cli.Context) error {
	if err := noArguments(c, "export"); err != nil {
		return err
	}
	format, file := c.String("format"), c.String("output")
	text := format
	if slices.Contains(indexed, format) {
		text = "texthash"
		if file == "" {
			return misuseOf("--format %s: postmap(1) needs the name of a file: give it with --output", format)
		}
	} else if !slices.Contains(api.Formats, format) {
		return misuseOf("--format: %q is not allowed; want cidr, texthash, lmdb, cdb, hash or list", format)
	}
	if text != format {
		if err := knowsTable(c.Context, c.String("postfix-config"), format); err != nil {
			return err
		}
	}
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return misuseOf("--output: %s is a directory; name a file", file)
	}
	daemon, err := client(c)
	if err != nil {
		return err
	}
	if file == "" {
		return daemon.Export(c.Context, text, c.App.Writer)
	}
	var lines bytes.Buffer
	if err := daemon.Export(c.Context, text, &lines); err != nil {
		return err
	}
	if err := regular.Replace(file, lines.Bytes(), 0o644); err != nil {
		return err
	}
	if isTerminal(c.App.ErrWriter) {
		// What the format cannot say, the file says in comments, which few read there. Cron would send
		// them by mail each time.
		for line := range strings.Lines(lines.String()) {
			if note, ok := strings.CutPrefix(line, "# "); ok {
				fmt.Fprintf(c.App.ErrWriter, "ehlogate: %s: %s", file, note)
			}
		}
	}
	if text == format {
		return nil
	}
	return postmap(c.Context, c.String("postfix-config"), format, file)
}

// knowsTable says what is missing where Postfix cannot make a kind of table.
func knowsTable(ctx context.Context, dir, format string) error {
	args := []string{"-m"}
	if dir != "" {
		args = []string{"-c", dir, "-m"}
	}
	kinds, err := exec.CommandContext(ctx, "postconf", args...).Output()
	failed := new(exec.ExitError)
	switch {
	case errors.As(err, &failed) && len(failed.Stderr) > 0:
		return misuseOf("--format %s is made by postmap(1): postconf -m: %s", format, strings.TrimSpace(string(failed.Stderr)))
	case err != nil:
		return misuseOf("--format %s is made by postmap(1): postconf -m: %w", format, err)
	case !slices.Contains(strings.Fields(string(kinds)), format):
		return misuseOf("--format %s: Postfix here has no such tables (postconf -m); on Debian, install postfix-%s", format, format)
	}
	return nil
}

// postmap makes an indexed table of a file, with the main.cf of a directory, or the host's own.
func postmap(ctx context.Context, dir, format, file string) error {
	args := []string{format + ":" + file}
	if dir != "" {
		args = append([]string{"-c", dir}, args...)
	}
	out, err := exec.CommandContext(ctx, "postmap", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("postmap %s:%s: %w: %s", format, file, err, strings.TrimSpace(string(out)))
	}
	return nil
}
