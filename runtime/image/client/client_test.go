package client

import (
	"strings"
	"testing"

	"github.com/postern-cri/postern/runtime/image"
)

func TestMatch(t *testing.T) {
	id, m := "sha256:"+strings.Repeat("a1", 32), "sha256:"+strings.Repeat("b2", 32)
	list := []image.ImageInfo{
		{ID: id, ManifestDigest: m, RepoTags: []string{"docker.io/library/nginx:latest", "r.example:5000/app:1"}, RepoDigests: []string{"r.example:5000/app@" + m}},
		{ID: "sha256:" + strings.Repeat("a1", 31) + "ff", RepoTags: []string{"docker.io/team/x:2"}},
	}
	for _, ref := range []string{id, id[7:], m, "nginx", "nginx:latest", "library/nginx", "docker.io/library/nginx", "index.docker.io/library/nginx:latest",
		"r.example:5000/app:1", "r.example:5000/app@" + m, "r.example:5000/app:ignored@" + m} {
		if i, ok := Match(list, ref); !ok || i.ID != id {
			t.Errorf("%s: %v", ref, ok)
		}
	}
	for _, ref := range []string{"", "a1a1a1a1a1a1", "a1", "sha256:", "r.example:5000/app", "app:1", "r.example:5000/app:2", "other/nginx", "nginx:1"} {
		if i, ok := Match(list, ref); ok {
			t.Errorf("%q: found %s", ref, i.ID)
		}
	}
}
