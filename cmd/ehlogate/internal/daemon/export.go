package daemon

import (
	"bytes"
	"context"
	"time"

	"github.com/google/renameio/v2"
)

// export writes what is withheld to the file of table.export, as a static table, until the context
// ends. It writes only what is another table than before.
func (d *Daemon) export(ctx context.Context) {
	var before []byte
	for failed := false; ; {
		cfg := d.cfg.Load()
		if cfg.Table.Export != "" {
			lines, err := d.writeTable(cfg.Table.Export, before)
			if err != nil && !failed {
				d.log.Error("the static table cannot be written, and stays as it was", "file", cfg.Table.Export, "error", err)
			} else if err == nil && failed {
				d.log.Info("the static table is written again", "file", cfg.Table.Export)
			}
			if failed = err != nil; !failed {
				before = lines
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(cfg.Table.ExportEvery):
		}
	}
}

// writeTable writes the table, unless it is as before.
func (d *Daemon) writeTable(path string, before []byte) ([]byte, error) {
	var lines bytes.Buffer
	if err := d.server.Export(&lines, "cidr"); err != nil {
		return nil, err
	}
	if before != nil && bytes.Equal(lines.Bytes(), before) {
		return before, nil
	}
	return lines.Bytes(), renameio.WriteFile(path, lines.Bytes(), 0o644)
}
