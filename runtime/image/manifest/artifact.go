package manifest

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TitleAnnotation names the file that a layer of an artifact is.
const TitleAnnotation = "org.opencontainers.image.title"

const (
	maxTitle   = 1024
	maxElement = 255
)

// Artifact says whether the manifest is not a container image's: its layers are
// files as they are, and what its configuration says is nobody's business here.
func (m *Manifest) Artifact() bool {
	switch m.Config.MediaType {
	case "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json":
		return false
	}
	return true
}

// Files are the names of an artifact's files, one a layer: its title, or its
// digest where it has none. A title may lead into directories.
func (m *Manifest) Files() ([]string, error) {
	names := make([]string, len(m.Layers))
	file, dir := map[string]int{}, map[string]int{}
	for k, d := range m.Layers {
		name, ok := d.Annotations[TitleAnnotation]
		if !ok {
			name = strings.Replace(d.Digest, ":", "-", 1)
		}
		if err := checkTitle(name); err != nil {
			return nil, fmt.Errorf("manifest: layer %d: title %.80q: %w", k, name, err)
		}
		if other, twice := file[name]; twice {
			return nil, fmt.Errorf("manifest: layers %d and %d are both the file %.80q", other, k, name)
		}
		names[k], file[name] = name, k
		for i := range name {
			if name[i] == '/' {
				dir[name[:i]] = k
			}
		}
	}
	for name, k := range dir {
		if other, both := file[name]; both {
			return nil, fmt.Errorf("manifest: layer %d is the file %.80q, layer %d wants a directory there", other, name, k)
		}
	}
	return names, nil
}

// checkTitle accepts what is plainly a path beneath the volume and looks to a
// person like what it is.
func checkTitle(name string) error {
	switch {
	case name == "" || len(name) > maxTitle:
		return fmt.Errorf("want 1 to %d bytes", maxTitle)
	case !utf8.ValidString(name):
		return fmt.Errorf("not UTF-8")
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("a character that cannot be seen")
	case strings.Contains(name, "\\"):
		return fmt.Errorf("a backslash")
	}
	for _, e := range strings.Split(name, "/") {
		switch {
		case e == "" || e == "." || e == "..":
			return fmt.Errorf("not a path beneath the volume")
		case len(e) > maxElement:
			return fmt.Errorf("an element of more than %d bytes", maxElement)
		}
	}
	return nil
}

// FileID stands in the record where an image's layer has its diffID: it names
// the content together with the name that it has in the volume, and no archive has
// it for a digest.
func FileID(digest, name string) string {
	return Digest([]byte("postern artifact file v1\x00" + digest + "\x00" + name))
}
