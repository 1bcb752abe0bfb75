package redact

import "strings"

// The hints are necessary conditions of the expressions in scrub.go, made of
// plain searches: nearly every string of a request fails them all, and then no
// expression runs.

var shapeHints = []string{
	"eyJ", "AKIA", "ASIA", "ABIA", "ACCA", "AGPA", "AIDA", "AROA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_",
	"xox", "xapp-", "k_live_", "k_test_", "sk-", "AIza", "ya29.", "npm_", "dckr_pat_", "hvs.", "hvb.", "hvr.", "SG.",
	"AGE-SECRET-KEY-1", "pypi-", "hf_", "dop_v1_",
}

// maybeShaped tells whether s may hold a token with a shape of its own.
func maybeShaped(s string) bool {
	if len(s) < 12 {
		return false
	}
	for _, h := range shapeHints {
		if strings.Contains(s, h) {
			return true
		}
	}
	// gl??-…: any of GitLab's prefixes.
	for i := strings.Index(s, "gl"); i >= 0 && i+4 < len(s); {
		if strings.IndexByte(s[i+2:min(len(s), i+9)], '-') >= 0 {
			return true
		}
		n := strings.Index(s[i+2:], "gl")
		if n < 0 {
			break
		}
		i += 2 + n
	}
	// xxxxxx.xxxxxxxxxxxxxxxx: a bootstrap token.
	for i := 6; i+16 < len(s); i++ {
		if s[i] == '.' && lowerRun(s[i-6:i]) && lowerRun(s[i+1:i+17]) {
			return true
		}
	}
	return false
}

func lowerRun(s string) bool {
	for i := range len(s) {
		if !(s[i] >= 'a' && s[i] <= 'z' || s[i] >= '0' && s[i] <= '9') {
			return false
		}
	}
	return true
}

// maybeHeader tells whether s may hold an authorization header.
func maybeHeader(s string) bool {
	for i := range len(s) {
		switch s[i] {
		case 'a', 'A':
			if fold(s[i:], "authorization") {
				return true
			}
		case 'b', 'B':
			if fold(s[i:], "bearer") || fold(s[i:], "basic") {
				return true
			}
		}
	}
	return false
}

func fold(s, word string) bool {
	return len(s) >= len(word) && strings.EqualFold(s[:len(word)], word)
}

// maybePair tells whether some separator of s stands behind a secret key.
func maybePair(s string) bool {
	for i := range len(s) {
		if s[i] != '=' && s[i] != ':' {
			continue
		}
		end := i
		for end > 0 && (s[end-1] <= ' ' || s[end-1] == '"' || s[end-1] == '\'') {
			end--
		}
		start := end
		for start > 0 && keyByte(s[start-1]) {
			start--
		}
		if end > start && secretWords(s[start:end]) {
			return true
		}
	}
	return false
}

func keyByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-'
}

// secretWords is SecretKey without its exceptions and without garbage; a key that
// is longer than the expression takes counts, too.
func secretWords(key string) bool { return len(key) > 128 || SecretKey(key) }
