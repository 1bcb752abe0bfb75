package redact

import "strings"

// Words that make a key secret wherever they stand in it, also run together
// (PGPASSWORD, githubToken).
var strongWords = []string{
	"password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "privatekey",
	"secretkey", "signingkey", "encryptionkey", "accountkey", "masterkey", "sessionkey", "sshkey",
	"credential", "connectionstring", "lastappliedconfiguration", "kubeconfig", "dockerconfigjson",
}

// Words that make a key secret only as a whole word: "author" is not "auth".
var weakWords = map[string]bool{
	"pass": true, "pwd": true, "pw": true, "auth": true, "authorization": true, "cookie": true, "cookies": true,
	"bearer": true, "jwt": true, "cred": true, "creds": true, "dsn": true, "storepass": true, "keypass": true,
	"passin": true, "passout": true, "otp": true, "pat": true, "dbpass": true, "mysqlpwd": true, "authconfig": true,
}

// A last word that says the value is about a secret and not the secret.
var aboutWords = map[string]bool{
	"file": true, "path": true, "dir": true, "name": true, "names": true, "ref": true, "type": true, "ttl": true,
	"timeout": true, "expiry": true, "length": true, "count": true, "issuer": true, "audience": true, "mode": true,
	"mount": true, "enabled": true, "required": true, "policy": true, "version": true, "namespace": true, "sha256": true,
}

// SecretKey tells whether a key (of an annotation, a flag, a variable or a JSON
// field) names a secret value.
func SecretKey(key string) bool {
	if key == "" || len(key) > 512 {
		return false
	}
	words := split(key)
	if len(words) == 0 {
		return false
	}
	if len(words) > 1 && aboutWords[words[len(words)-1]] {
		return false
	}
	for _, w := range words {
		if weakWords[w] {
			return true
		}
	}
	run := strings.Join(words, "")
	for _, w := range strongWords {
		if strings.Contains(run, w) {
			return true
		}
	}
	return false
}

// split cuts a key into lower-case words at punctuation and at camelCase humps.
func split(key string) []string {
	var words []string
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			words = append(words, b.String())
			b.Reset()
		}
	}
	var prev byte
	for i := range len(key) {
		c := key[i]
		switch {
		case c >= 'A' && c <= 'Z':
			if prev >= 'a' && prev <= 'z' {
				flush()
			}
			b.WriteByte(c + 32)
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			b.WriteByte(c)
		default:
			flush()
		}
		prev = c
	}
	flush()
	return words
}

// idKey and isID spare identifiers and digests, which look as random as a secret
// and are what an audit trail is searched by. Both must hold: a token in a field
// called id is still a token.
func idKey(key string) bool {
	w := split(key)
	if len(w) == 0 {
		return false
	}
	switch w[len(w)-1] {
	case "id", "uid", "digest", "sha256", "revision", "digests", "boot", "hash", "epoch", "grant", "traceid", "spanid":
		return true
	}
	return false
}

func isID(s string) bool {
	if h, ok := strings.CutPrefix(s, "sha256:"); ok {
		s = h
	}
	if len(s) == 26 { // ULID
		for i := range len(s) {
			c := s[i]
			if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' && c != 'I' && c != 'L' && c != 'O' && c != 'U') {
				return false
			}
		}
		return s[0] <= '7'
	}
	return isHex(strings.ReplaceAll(s, "-", ""))
}

func isHex(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
			return false
		}
	}
	return s != ""
}
