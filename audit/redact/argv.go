package redact

import (
	"path"
	"strings"
)

// Short options that take a secret, by program: "-p" alone means a port or a
// path in most others.
var shortSecrets = map[string]string{
	"mysql": "p", "mysqldump": "p", "mysqladmin": "p", "mariadb": "p", "mariadb-dump": "p", "sshpass": "p",
	"mongo": "p", "mongosh": "p", "mongodump": "p", "docker": "p", "podman": "p", "skopeo": "p", "buildah": "p", "nerdctl": "p",
	"helm": "p", "az": "p", "redis-cli": "a", "curl": "uU", "ldapsearch": "w", "ldapadd": "w", "ldapmodify": "w",
	"sqlcmd": "P", "unzip": "P", "zip": "P", "7z": "p", "smbclient": "U", "htpasswd": "b", "ipmitool": "P", "kinit": "w",
}

// attached options are secret only when the value follows at once: "mysql -p db"
// asks for the password and names a database.
var attachedOnly = map[string]bool{
	"mysql": true, "mysqldump": true, "mysqladmin": true, "mariadb": true, "mariadb-dump": true, "7z": true,
}

// Argv redacts the arguments of a command and returns the indexes of those that
// changed. The result is a new slice of the same length.
func (r *Redactor) Argv(argv []string) ([]string, []int) {
	out := make([]string, len(argv))
	for i, a := range argv {
		out[i] = strings.ToValidUTF8(a, "\uFFFD")
	}
	clean := append([]string(nil), out...)
	for range 4 {
		before := strings.Join(out, "\x00")
		for i := range out {
			if strings.ContainsAny(out[i], " \t\n") {
				out[i], _ = fixed(out[i], commandLine)
			}
			out[i], _ = r.String(out[i])
		}
		flags(out)
		if strings.Join(out, "\x00") == before {
			break
		}
	}
	var changed []int
	for i := range out {
		if out[i] != clean[i] {
			changed = append(changed, i)
		}
	}
	return out, changed
}

// commandLine redacts what a shell would run: the same rules, word by word, with
// the white space between the words as it was.
func commandLine(s string) string {
	var words, gaps []string
	for len(s) > 0 {
		n := strings.IndexAny(s, " \t\n")
		if n < 0 {
			n = len(s)
		}
		words = append(words, s[:n])
		rest := strings.TrimLeft(s[n:], " \t\n")
		gaps = append(gaps, s[n:len(s)-len(rest)])
		s = rest
	}
	flags(words)
	var b strings.Builder
	for i := range words {
		b.WriteString(words[i])
		b.WriteString(gaps[i])
	}
	return b.String()
}

// flags redacts the values of options in place.
func flags(words []string) {
	prog := ""
	for i := 0; i < len(words); i++ {
		w := words[i]
		if base := path.Base(strings.Trim(w, `"'()`)); shortSecrets[base] != "" && !strings.HasPrefix(w, "-") {
			prog = base
			continue
		}
		if len(w) < 2 || w[0] != '-' {
			if strings.ContainsAny(w, ";|&") {
				prog = ""
			}
			continue
		}
		name, _, inline := strings.Cut(strings.TrimLeft(w, "-"), "=")
		switch {
		case inline && SecretKey(name):
			// The rest of the word is the secret, whatever it is made of.
			keep := w[:strings.IndexByte(w, '=')+1]
			if value := w[len(keep):]; value != "" && value != "true" && value != "false" && !isDigest(value) {
				words[i] = keep + Mark
				takeQuoted(words, i, value)
			}
		case !inline && SecretKey(name), name == "user" && prog == "curl":
			i = takeNext(words, i)
		case prog != "" && w[1] != '-' && strings.IndexByte(shortSecrets[prog], w[1]) >= 0:
			if len(w) > 2 {
				words[i] = w[:2] + Mark
				takeQuoted(words, i, w[2:])
			} else if prog == "htpasswd" {
				i = takeNext(words, takeNext(words, i)+1)
			} else if !attachedOnly[prog] {
				i = takeNext(words, i)
			}
		}
	}
}

// takeNext redacts the word after i, unless it is the next option, and returns
// the index of the last word it used.
func takeNext(words []string, i int) int {
	if i+1 >= len(words) {
		return i
	}
	next := words[i+1]
	if next == "" || len(next) > 1 && next[0] == '-' && (next[1] == '-' || len(next) > 2 && next[1] >= 'a' && next[1] <= 'z') {
		return i
	}
	if next != Mark && !isDigest(next) {
		words[i+1] = Mark
		takeQuoted(words, i+1, next)
	}
	return i + 1
}

// takeQuoted empties the words that belong to a quoted value that began in word i.
func takeQuoted(words []string, i int, value string) {
	if value == "" || value[0] != '"' && value[0] != '\'' || len(value) > 1 && strings.HasSuffix(value, value[:1]) {
		return
	}
	for j := i + 1; j < len(words); j++ {
		end := strings.IndexByte(words[j], value[0])
		if end >= 0 {
			words[j] = Mark + words[j][end+1:]
			return
		}
		words[j] = Mark
	}
}
