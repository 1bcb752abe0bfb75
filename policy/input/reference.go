package input

import "strings"

// parseReference splits an image reference the way every runtime does: the
// first part is a registry where it has a dot or a colon or is localhost,
// otherwise the reference is short and means docker.io. Anything odd stays in
// Repository, where no allow-list will match it.
func parseReference(ref string) Subject {
	s := Subject{Reference: ref}
	rest := ref
	if i := strings.IndexByte(rest, '@'); i >= 0 {
		rest, s.Digest = rest[:i], rest[i+1:]
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, s.Tag = rest[:i], rest[i+1:]
	}
	if rest == "" {
		return s
	}
	first, _, many := strings.Cut(rest, "/")
	switch {
	case many && (strings.ContainsAny(first, ".:") || first == "localhost"):
		s.Registry, s.Repository = first, rest
	case many:
		s.Registry, s.Repository = "docker.io", "docker.io/"+rest
	default:
		s.Registry, s.Repository = "docker.io", "docker.io/library/"+rest
	}
	return s
}
