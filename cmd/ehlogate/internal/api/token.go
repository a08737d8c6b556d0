package api

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
)

// minToken is the shortest token accepted, in bytes.
const minToken = 16

// ReadToken reads a token file.
func ReadToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if len(token) < minToken {
		return "", fmt.Errorf("%s holds %d characters, want %d or more; remove it, and the daemon makes a new one", path, len(token), minToken)
	}
	return token, nil
}

// EnsureToken reads a token file, or makes one that only its owner can read.
func EnsureToken(path string) (string, error) {
	token, err := ReadToken(path)
	if !errors.Is(err, os.ErrNotExist) {
		return token, err
	}
	token = rand.Text()
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		return "", err
	}
	return token, nil
}
