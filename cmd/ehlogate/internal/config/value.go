package config

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is what a key was given: a value of TOML, or the text of a flag or a variable.
type value struct {
	toml   any
	text   string
	isText bool
}

func (v value) str() (string, error) {
	if v.isText {
		return v.text, nil
	}
	if s, ok := v.toml.(string); ok {
		return s, nil
	}
	return "", fmt.Errorf("%v is a %s; want a string in quotes", v.toml, kind(v.toml))
}

func (v value) strs() ([]string, error) {
	if v.isText {
		list := strings.FieldsFunc(v.text, func(r rune) bool { return r == ',' || r == ' ' })
		return list, nil
	}
	array, ok := v.toml.([]any)
	if !ok {
		return nil, fmt.Errorf("%v is a %s; want a list of strings in brackets", v.toml, kind(v.toml))
	}
	list := make([]string, len(array))
	for i, e := range array {
		if list[i], ok = e.(string); !ok {
			return nil, fmt.Errorf("item %d, %v, is a %s; want a string in quotes", i+1, e, kind(e))
		}
	}
	return list, nil
}

func (v value) number() (float64, error) {
	switch n := v.toml.(type) {
	case int64:
		return float64(n), nil
	case float64:
		return n, nil
	}
	if v.isText {
		if n, err := strconv.ParseFloat(v.text, 64); err == nil {
			return n, nil
		}
		return 0, fmt.Errorf("%q is not a number", v.text)
	}
	return 0, fmt.Errorf("%v is a %s; want a number", v.toml, kind(v.toml))
}

func kind(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case int64, float64:
		return "number"
	case bool:
		return "boolean"
	case []any:
		return "list"
	case map[string]any:
		return "table"
	}
	return "date"
}

func address(field func(*Config) *Address) func(*Config, value) error {
	return func(c *Config, v value) error {
		s, err := v.str()
		if err != nil {
			return err
		}
		*field(c), err = ParseAddress(s)
		return err
	}
}

func path(field func(*Config) *string) func(*Config, value) error {
	return func(c *Config, v value) error {
		s, err := v.str()
		if err == nil && s == "" {
			err = fmt.Errorf("is empty; want the path of a file, or leave the key out")
		}
		*field(c) = s
		return err
	}
}

func oneOf[T ~string](allowed []T, field func(*Config) *T) func(*Config, value) error {
	return func(c *Config, v value) error {
		s, err := v.str()
		if err != nil {
			return err
		}
		if !slices.Contains(allowed, T(s)) {
			return fmt.Errorf("%q is not allowed; want one of %s", s, list(allowed))
		}
		*field(c) = T(s)
		return nil
	}
}

func list[T ~string](words []T) string {
	s := make([]string, len(words))
	for i, w := range words {
		s[i] = string(w)
	}
	return strings.Join(s, ", ")
}

func number(least, most float64, field func(*Config) *float64) func(*Config, value) error {
	return func(c *Config, v value) error {
		n, err := v.number()
		if err == nil && !(n >= least && n <= most) {
			err = fmt.Errorf("%v is out of range; want %g to %g", n, least, most)
		}
		*field(c) = n
		return err
	}
}

func integer(least, most int, field func(*Config) *int) func(*Config, value) error {
	return func(c *Config, v value) error {
		n, err := v.number()
		if err == nil && (n != math.Trunc(n) || n < float64(least) || n > float64(most)) {
			err = fmt.Errorf("%v is out of range; want a whole number, %d to %d", n, least, most)
		}
		*field(c) = int(n)
		return err
	}
}

func boolean(field func(*Config) *bool) func(*Config, value) error {
	return func(c *Config, v value) error {
		b, ok := v.toml.(bool)
		if v.isText {
			var err error
			if b, err = strconv.ParseBool(v.text); err != nil {
				return fmt.Errorf("%q is not allowed; want true or false", v.text)
			}
		} else if !ok {
			return fmt.Errorf("%v is a %s; want true or false", v.toml, kind(v.toml))
		}
		*field(c) = b
		return nil
	}
}

func duration(least, most time.Duration, field func(*Config) *time.Duration) func(*Config, value) error {
	return func(c *Config, v value) error {
		s, err := v.str()
		if err != nil {
			return fmt.Errorf(`%w, such as "6h" or "90m"`, err)
		}
		d, err := ParseDuration(s)
		if err != nil {
			return err
		}
		if d < least || d > most {
			return fmt.Errorf("%s is out of range; want %s to %s", s, least, most)
		}
		*field(c) = d
		return nil
	}
}

func networks(field func(*Config) *[]netip.Prefix) func(*Config, value) error {
	return func(c *Config, v value) error {
		list, err := v.strs()
		if err != nil {
			return err
		}
		*field(c) = nil
		for _, s := range list {
			n, err := ParseNetwork(s)
			if err != nil {
				return err
			}
			*field(c) = append(*field(c), n)
		}
		return nil
	}
}

func group(field func(*Config) *string) func(*Config, value) error {
	return func(c *Config, v value) error {
		s, err := v.str()
		if err == nil && !groupName.MatchString(s) {
			err = fmt.Errorf("%q is not the name of a group; expected something like postfix", s)
		}
		*field(c) = s
		return err
	}
}

// groupName is a name that group(5) can have.
var groupName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)
