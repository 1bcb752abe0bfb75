package config

import (
	_ "embed"
	"strings"
)

// Example is postern.toml with every key at its default, explained.
//
//go:embed postern.toml
var Example string

// Starter is the postern.toml that `postern up` writes where there is none.
func Starter(profile string) string {
	return strings.Replace(Example, `profile = "baseline"`, `profile = "`+profile+`"`, 1)
}
