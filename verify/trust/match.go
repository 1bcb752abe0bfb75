package trust

import "strings"

// Rule returns the rule for a repository: of those whose scope covers it, the
// one that says most about its name. Nil says that none does.
func (c *Config) Rule(repository string) *Rule {
	var best *Rule
	most := -1
	for i := range c.Rules {
		for _, s := range c.Rules[i].Scope {
			if n, ok := covers(s, repository); ok && n > most {
				best, most = &c.Rules[i], n
			}
		}
	}
	return best
}

// covers says whether a scope covers a repository, and how many of its
// characters are literal.
func covers(scope, repository string) (int, bool) {
	literal := len(strings.ReplaceAll(scope, "*", ""))
	want, have := strings.Split(scope, "/"), strings.Split(repository, "/")
	for i, w := range want {
		if w == "**" {
			return literal, i < len(have)
		}
		if i >= len(have) || !glob(w, have[i]) {
			return 0, false
		}
	}
	// A full name says more than any pattern as long as it.
	if !strings.Contains(scope, "*") {
		literal++
	}
	return literal, len(want) == len(have)
}

// glob matches one path element; * stands for any run of characters.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

// Allows says whether a signature that speaks of signed is one for an image that
// was pulled from repository.
func (i Identity) Allows(signed, repository string) bool {
	signed = Repository(signed)
	switch i.Type {
	case "exactRepository":
		return signed == Repository(i.Repository)
	case "remap":
		if rest, ok := strings.CutPrefix(repository, i.From); ok && (rest == "" || rest[0] == '/') {
			return signed == i.To+rest
		}
		fallthrough
	default:
		return signed == repository
	}
}

// Repository normalises a docker-reference: no tag, no digest, and Docker Hub by
// one name.
func Repository(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref = ref[:i]
	}
	if rest, ok := strings.CutPrefix(ref, "index.docker.io/"); ok {
		ref = "docker.io/" + rest
	}
	return ref
}
