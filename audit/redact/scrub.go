package redact

import (
	"math"
	"regexp"
	"strings"
)

var (
	// Private keys and everything else in PEM armour, to its end or to the end of the string: a cut block is still a key.
	pemBlock = regexp.MustCompile(`-----BEGIN ([A-Z0-9 ]{0,64})-----[^-]*(?:-----END [A-Z0-9 ]{0,64}-----)?`)
	// Tokens with a shape of their own.
	shaped = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{2,}(?:\.[A-Za-z0-9_-]*)*` +
		`|(?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA)[A-Z0-9]{12,}` +
		`|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|gl[a-z]{2,6}-[A-Za-z0-9_-]{16,}` +
		`|xox[a-z]-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{8,}|[sr]k_(?:live|test)_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{16,}` +
		`|AIza[A-Za-z0-9_-]{20,}|ya29\.[A-Za-z0-9_-]{10,}|npm_[A-Za-z0-9]{20,}|dckr_pat_[A-Za-z0-9_-]{8,}` +
		`|hv[sbr]\.[A-Za-z0-9_-]{16,}|SG\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}|AGE-SECRET-KEY-1[A-Z0-9]+` +
		`|pypi-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|dop_v1_[a-f0-9]{16,}|\b[a-z0-9]{6}\.[a-z0-9]{16}\b`)
	header = regexp.MustCompile(`(?i)\b(authorization["']?\s*[:=]\s*["']?)(?:(?:bearer|basic|digest|token|negotiate)\s+)?[^\s"'\[]+|\b(bearer\s+)[A-Za-z0-9._~+/=-]{6,}|\b(basic\s+)[A-Za-z0-9+/]{8,}=*`)
	// user:password@ up to the last @ of the authority, or of the word where a colon says that there is a password.
	userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]{0,30}://)([^\s/?#"'@:]*:[^\s"']*|[^\s/?#"']*)@`)
	pair     = regexp.MustCompile(`([A-Za-z0-9_.\-]{2,128})(["']?\s*[=:]\s*)("[^"]*"?|'[^']*'?|[^\s&;,"'{}]+)`)
)

// scrub is one pass over valid UTF-8. The cheap looks come first: most strings
// of a request are short names and paths, and a decision has 0.3 ms.
func scrub(s string) string {
	if len(s) < 4 {
		return s
	}
	if strings.Contains(s, "-----BEGIN ") {
		s = pemBlock.ReplaceAllStringFunc(s, func(b string) string {
			m := pemBlock.FindStringSubmatch(b)
			if strings.HasSuffix(m[1], "CERTIFICATE") || strings.HasSuffix(m[1], "PUBLIC KEY") {
				return b
			}
			return Mark
		})
	}
	if strings.Contains(s, "://") && strings.IndexByte(s, '@') >= 0 {
		s = userinfo.ReplaceAllStringFunc(s, func(u string) string {
			m := userinfo.FindStringSubmatch(u)
			if m[2] == "" || m[2] == Mark || m[2] == "git" {
				return u
			}
			return m[1] + Mark + "@"
		})
	}
	if maybeHeader(s) {
		s = header.ReplaceAllString(s, "${1}${2}${3}"+Mark)
	}
	if maybePair(s) {
		s = pairs(s)
	}
	if maybeShaped(s) {
		s = shaped.ReplaceAllString(s, Mark)
	}
	if longestRun(s) >= 20 {
		s = words(s)
	}
	return s
}

// pairs redacts the values of key=value and key: value where the key is one of a
// secret. It looks at every separator itself, so that "a:password=x" is seen.
func pairs(s string) string {
	var b strings.Builder
	for {
		m := pair.FindStringSubmatchIndex(s)
		if m == nil {
			break
		}
		key, value := s[m[2]:m[3]], s[m[6]:m[7]]
		if !SecretKey(key) || strings.HasPrefix(value, "//") {
			b.WriteString(s[:m[5]]) // the value may itself be a key
			s = s[m[5]:]
			continue
		}
		b.WriteString(s[:m[6]])
		s = s[m[7]:]
		bare := strings.Trim(value, `"'`)
		switch {
		case bare == "" || bare == "true" || bare == "false" || isDigest(bare):
			b.WriteString(value)
		case len(value) > 1 && (value[0] == '"' || value[0] == '\''):
			b.WriteByte(value[0])
			b.WriteString(Mark)
			b.WriteByte(value[0])
		default:
			b.WriteString(Mark)
		}
	}
	b.WriteString(s)
	return b.String()
}

func tokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '_' || c == '-' || c == '='
}

func longestRun(s string) int {
	best, n := 0, 0
	for i := range len(s) {
		if tokenByte(s[i]) {
			n++
			best = max(best, n)
		} else {
			n = 0
		}
	}
	return best
}

// words replaces the words that are too random to be a name.
func words(s string) string {
	var b strings.Builder
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && tokenByte(s[i]) {
			continue
		}
		b.WriteString(word(s[start:i]))
		if i < len(s) {
			b.WriteByte(s[i])
		}
		start = i + 1
	}
	return b.String()
}

// word judges one run of token characters: as a whole, where a path would not
// look like it, and then in its parts.
func word(w string) string {
	if len(w) < 20 {
		return w
	}
	if strings.IndexByte(w, '/') >= 0 && strings.ContainsAny(w, "+=") && random(w) {
		return Mark
	}
	parts := strings.FieldsFunc(w, func(c rune) bool { return c == '/' || c == '=' })
	for _, p := range parts {
		if random(p) {
			w = strings.Replace(w, p, Mark, 1)
		}
	}
	return w
}

// random tells whether a word of 20 characters or more is likely to have been
// drawn and not written. Hexadecimal words are digests and handles: they stay.
func random(w string) bool {
	if len(w) < 20 || isHex(strings.ReplaceAll(w, "-", "")) {
		return false
	}
	// Generated names are words with short random tails: a drawn token has a long piece without a dash.
	piece := 0
	for _, p := range strings.FieldsFunc(w, func(c rune) bool { return c == '-' || c == '_' }) {
		piece = max(piece, len(p))
	}
	var count [256]int
	var class [3]int
	change, prev := 0, -1
	for i := range len(w) {
		c := w[i]
		count[c]++
		k := -1
		switch {
		case c >= 'a' && c <= 'z':
			k = 0
		case c >= 'A' && c <= 'Z':
			k = 1
		case c >= '0' && c <= '9':
			k = 2
		}
		if k >= 0 {
			class[k]++
		}
		if prev >= 0 && k >= 0 && k != prev {
			change++
		}
		prev = k
	}
	kinds := 0
	for _, n := range class {
		if n > 0 {
			kinds++
		}
	}
	var bits float64
	for _, n := range count {
		if n > 0 {
			p := float64(n) / float64(len(w))
			bits -= p * math.Log2(p)
		}
	}
	turn := float64(change) / float64(len(w)-1)
	switch kinds {
	case 3:
		return bits >= 3.3 && turn >= 0.3 && piece >= 12
	case 2:
		return bits >= 3.5 && turn >= 0.3 && piece >= 16
	}
	return false
}
