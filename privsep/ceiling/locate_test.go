package ceiling

import (
	"path"
	"strings"
	"testing"

	"github.com/postern-cri/postern/privsep/plan"
)

func roots() *Ceiling {
	hp := []HostPath{{Name: "root", Path: "/"}, {Name: "srv", Path: "/srv"}, {Name: "data", Path: "/srv/data"}}
	r := []Root{{"root", "/"}, {"var", "/var"}, {"pods", "/var/log/pods"}}
	return &Ceiling{KubeletRoot: "/var/lib/kubelet", HostPaths: hp, LogRoots: r, CgroupRoots: r}
}

func TestLocate(t *testing.T) {
	c := roots()
	for in, want := range map[string]plan.Place{
		"/srv/data/x/y":       {Root: plan.RootHostPath, Name: "data", Rel: "x/y"},
		"/srv/data":           {Root: plan.RootHostPath, Name: "data"},
		"/srv/data/":          {Root: plan.RootHostPath, Name: "data"},
		"/srv/database":       {Root: plan.RootHostPath, Name: "srv", Rel: "database"},
		"/srv/data/../x":      {Root: plan.RootHostPath, Name: "srv", Rel: "x"},
		"/srv/data/../../etc": {Root: plan.RootHostPath, Name: "root", Rel: "etc"},
		"/":                   {Root: plan.RootHostPath, Name: "root"},
		"/etc/shadow":         {Root: plan.RootHostPath, Name: "root", Rel: "etc/shadow"},
		"//etc//x":            {Root: plan.RootHostPath, Name: "root", Rel: "etc/x"},
		"/../x":               {Root: plan.RootHostPath, Name: "root", Rel: "x"},
	} {
		if got, ok := c.Locate(plan.RootHostPath, in); !ok || got != want {
			t.Errorf("%s: %+v, %v, want %+v", in, got, ok, want)
		}
	}
	if got, ok := c.Locate(plan.RootLog, "/var/log/pods/a"); !ok || got != (plan.Place{Root: plan.RootLog, Name: "pods", Rel: "a"}) {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, k := range []plan.RootKind{plan.RootPodVolumes, plan.RootScratch, plan.RootImage, 0} {
		if got, ok := c.Locate(k, "/srv"); ok {
			t.Errorf("a place of kind %d: %+v", k, got)
		}
	}
	c.HostPaths = c.HostPaths[2:]
	for _, p := range []string{"/srv", "/srv/dat", "/", "", "srv/data", "/srv/data/../x"} {
		if got, ok := c.Locate(plan.RootHostPath, p); ok {
			t.Errorf("%q: %+v", p, got)
		}
	}
}

func TestLocateVolume(t *testing.T) {
	c := roots()
	if p, ok := c.LocateVolume("u1", "/var/lib/kubelet/pods/u1/volumes/x"); !ok || p != (plan.Place{Root: plan.RootPodVolumes, Rel: "volumes/x"}) {
		t.Errorf("%+v, %v", p, ok)
	}
	for uid, p := range map[string]string{
		"u1": "/var/lib/kubelet/pods/u2/volumes/x", "u2": "/var/lib/kubelet/pods/u2", "u3": "/var/lib/kubelet/pods/u3/../u1/x",
		"": "/var/lib/kubelet/pods/x", "u1/..": "/var/lib/kubelet/pods/x", "..": "/var/lib/kubelet/config", ".": "/var/lib/kubelet/pods/u1/x",
		"u4": "/var/lib/kubelet/pods/u4x/y",
	} {
		if got, ok := c.LocateVolume(uid, p); ok {
			t.Errorf("%q, %s: %+v", uid, p, got)
		}
	}
}

func TestRoot(t *testing.T) {
	c := roots()
	if dir, class, ok := c.Root(plan.Place{Root: plan.RootHostPath, Name: "data"}); !ok || dir != "/srv/data" || class != &c.HostPaths[2] {
		t.Errorf("%s, %+v, %v", dir, class, ok)
	}
	if dir, class, ok := c.Root(plan.Place{Root: plan.RootLog, Name: "pods"}); !ok || dir != "/var/log/pods" || class != nil {
		t.Errorf("%s, %+v, %v", dir, class, ok)
	}
	for _, p := range []plan.Place{{}, {Root: plan.RootHostPath}, {Root: plan.RootHostPath, Name: "pods"}, {Root: plan.RootCgroup, Name: "data"},
		{Root: plan.RootPodVolumes, Name: "pods"}, {Root: plan.RootScratch, Name: "root"}} {
		if dir, _, ok := c.Root(p); ok || dir != "" {
			t.Errorf("%+v: %s", p, dir)
		}
	}
}

// Whatever path comes in: a place that is found leads back to that very path,
// beneath the longest root that is above it, and its Rel cannot climb.
func FuzzLocate(f *testing.F) {
	for _, s := range []string{"/srv/data/x", "/srv/data/../../..", "//", "..", "/srv/./data//..data", "", "/srv\x00/data"} {
		f.Add("u1", s)
		f.Add("..", s)
	}
	f.Add("u1", "/var/lib/kubelet/pods/u1/x")
	c := roots()
	f.Fuzz(func(t *testing.T, uid, p string) {
		for _, k := range []plan.RootKind{plan.RootHostPath, plan.RootLog, plan.RootCgroup} {
			place, ok := c.Locate(k, p)
			if !ok {
				if path.IsAbs(p) {
					t.Fatalf("%q is beneath /, and was not found", p)
				}
				continue
			}
			dir, _, ok := c.Root(place)
			if !ok || path.Join(dir, place.Rel) != path.Clean(p) || escapes(place.Rel) {
				t.Fatalf("%q became %+v", p, place)
			}
			all := c.LogRoots
			if k == plan.RootHostPath {
				all = hostRoots(c.HostPaths)
			}
			for _, r := range all {
				if _, ok := beneath(r.Path, p); ok && len(r.Path) > len(dir) {
					t.Fatalf("%q: %s is nearer than %s", p, r.Path, dir)
				}
			}
		}
		if place, ok := c.LocateVolume(uid, p); ok {
			if want := c.KubeletRoot + "/pods/" + uid + "/"; place.Rel == "" || escapes(place.Rel) || path.Clean(p) != want+place.Rel {
				t.Fatalf("volume %q of %q became %+v", p, uid, place)
			}
		}
	})
}

func escapes(rel string) bool {
	return path.IsAbs(rel) || rel == ".." || strings.HasPrefix(rel, "../") || strings.Contains(rel, "/../")
}
