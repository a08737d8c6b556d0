package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version", Flags: []cli.Flag{jsonFlag},
		Action: func(c *cli.Context) error {
			if err := noArguments(c, "version"); err != nil {
				return err
			}
			if c.Bool("json") {
				return json.NewEncoder(c.App.Writer).Encode(map[string]string{"version": version, "go": runtime.Version()})
			}
			_, err := fmt.Fprintf(c.App.Writer, "ehlogate %s (%s)\n", version, runtime.Version())
			return err
		},
	}
}
