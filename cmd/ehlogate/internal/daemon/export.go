package daemon

import (
	"bytes"
	"context"
	"time"

	"github.com/ehlogate/ehlogate/policy/regular"
)

// export writes what is withheld to the file of table.export, as a static table, until the context
// ends.
func (d *Daemon) export(ctx context.Context) {
	for {
		cfg := d.cfg.Load()
		var err error
		if cfg.Table.Export != "" {
			err = d.writeTable(cfg.Table.Export)
		}
		before := d.exportFault.Swap(&err)
		switch failed := before != nil && *before != nil; {
		case cfg.Table.Export == "":
		case err != nil && !failed:
			d.log.Error("the static table cannot be written, and stays as it was", "file", cfg.Table.Export, "error", err)
		case err == nil && failed:
			d.log.Info("the static table is written again", "file", cfg.Table.Export)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(cfg.Table.ExportEvery):
		}
	}
}

// writeTable writes the table, unless it is in the file already: whoever reads that looks at its
// time.
func (d *Daemon) writeTable(path string) error {
	var lines bytes.Buffer
	if err := d.server.Export(&lines, "cidr"); err != nil {
		return err
	}
	there, err := regular.ReadFile(path, int64(lines.Len())+1)
	if err != nil || !bytes.Equal(there, lines.Bytes()) {
		if err := regular.Replace(path, lines.Bytes(), 0o644); err != nil {
			return err
		}
	}
	d.server.NoteExport()
	return nil
}
