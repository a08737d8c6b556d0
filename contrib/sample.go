// Package contrib has the sample configuration for the program's own help.
package contrib

import _ "embed"

// Sample is ehlogate.toml, with every key, its default and its meaning.
//
//go:embed ehlogate.toml
var Sample string
