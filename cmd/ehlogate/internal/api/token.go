package api

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ehlogate/ehlogate/policy/regular"
)

// minToken is the shortest token accepted, in bytes.
const minToken = 16

// maxToken is how much of a token's file is read, in bytes.
const maxToken = 4096

// ErrShort is a token that is too short.
var ErrShort = errors.New("is too short for a token")

// ReadToken reads a token file.
func ReadToken(path string) (string, error) {
	b, err := regular.ReadFile(path, maxToken)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if len(token) < minToken {
		return "", fmt.Errorf("%s %w: it has %d characters, and %d are the fewest; remove it, and the daemon makes a new one", path, ErrShort, len(token), minToken)
	}
	return token, nil
}

// lookAfter is how long a token holds until its file is looked at again.
const lookAfter = time.Second

// Token is a secret in a file. One that is changed there holds a second later, and the old one no
// more.
type Token struct {
	path string

	mu     sync.Mutex
	value  string
	looked time.Time
	read   os.FileInfo
}

// OpenToken reads a token file, or makes one that only its owner can read.
func OpenToken(path string) (*Token, error) {
	value, err := EnsureToken(path)
	if err != nil {
		return nil, err
	}
	t := &Token{path: path, value: value, looked: time.Now()}
	t.read, _ = os.Stat(path)
	return t, nil
}

// Is reports whether this is the token.
func (t *Token) Is(given string) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.looked) > lookAfter {
		t.look()
	}
	return subtle.ConstantTimeCompare([]byte(given), []byte(t.value)) == 1
}

// Same reports whether two tokens are the same.
func (t *Token) Same(other *Token) bool { return t.Is(other.value) }

// Look reads the file anew if it was changed, and makes a new token if it was removed: whoever
// removes a token that was seen by others does not want it back.
func (t *Token) Look() {
	if t != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.look()
	}
}

// look is Look. What cannot be read, or is too short, changes nothing.
func (t *Token) look() {
	t.looked = time.Now()
	info, err := os.Stat(t.path)
	if errors.Is(err, os.ErrNotExist) {
		if value, err := EnsureToken(t.path); err == nil {
			t.value = value
			t.read, _ = os.Stat(t.path)
		}
		return
	}
	if err != nil || t.read != nil && os.SameFile(info, t.read) && info.ModTime().Equal(t.read.ModTime()) {
		return
	}
	if value, err := ReadToken(t.path); err == nil {
		t.value, t.read = value, info
	}
}

// EnsureToken reads a token file, or makes one that only its owner can read.
func EnsureToken(path string) (string, error) {
	token, err := ReadToken(path)
	if !errors.Is(err, os.ErrNotExist) {
		return token, err
	}
	token = rand.Text()
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); errors.Is(err, os.ErrPermission) {
		return "", fmt.Errorf("%w and cannot be made: %w", ErrNoToken, err)
	} else if err != nil {
		return "", err
	}
	return token, nil
}

// ErrNoToken is for a token's file that is not there.
var ErrNoToken = errors.New("it does not exist")
