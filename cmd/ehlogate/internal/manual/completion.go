package manual

import (
	_ "embed"
	"fmt"

	"github.com/urfave/cli/v2"
)

var (
	//go:embed ehlogate.bash
	bash string
	//go:embed ehlogate.zsh
	zsh string
)

// Shells are those for which there are completions.
var Shells = []string{"bash", "zsh", "fish"}

// Completion is what a shell needs to complete commands, flags and files. bash and zsh ask the
// program itself; fish is told all at once.
func Completion(app *cli.App, shell string) (string, error) {
	switch shell {
	case "bash":
		return bash, nil
	case "zsh":
		return zsh, nil
	case "fish":
		return app.ToFishCompletion()
	}
	return "", fmt.Errorf("no completion for %q; want one of %v", shell, Shells)
}
