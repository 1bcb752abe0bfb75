package main

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/postern-cri/postern/test/fixtures"
)

const e2e = "e2e-test-images/"

// pushAll makes and pushes the images that the NodeConformance specs of v1.37 ask
// for. Each mark makes a digest its own: two tags of one image are one image.
func pushAll(r *fixtures.Registry, agnhostFile, porter string) error {
	base, err := baseTree()
	if err != nil {
		return err
	}
	web, err := fixtures.NginxTree(80)
	if err != nil {
		return err
	}
	pauses, nnp, names, ipc := fixtures.Tree{}, fixtures.Tree{}, fixtures.Tree{}, fixtures.Tree{}
	for _, err := range []error{
		pauses.Copy("/proc/self/exe", "pause", 0o755),
		nnp.Copy("/proc/self/exe", "usr/local/bin/nnp", 0o6755),
		names.Programs("hostname", "getent"), // glibc's ways to find the machine's names
		ipc.Programs("ipcs", "ipcmk"),
	} {
		if err != nil {
			return err
		}
	}
	busybox := base.Layer()
	image := func(c fixtures.Config, mark string, layers ...fixtures.Layer) fixtures.Image {
		c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
		if mark != "" {
			layers = append(layers, fixtures.MakeLayer(fixtures.File{Name: "image-id", Body: mark}))
		}
		return fixtures.MakeImage(c, layers...)
	}
	pause := func(mark string) fixtures.Image {
		return image(fixtures.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}, mark, pauses.Layer())
	}
	agnhost, err := agnhostTree(agnhostFile, porter, pause("3.10.2"))
	if err != nil {
		return err
	}
	hosts := agnhost.Layer()
	run, shell := fixtures.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}}, fixtures.Config{Cmd: []string{"sh"}}
	serve := fixtures.Config{Cmd: []string{"nginx", "-g", "daemon off;"}}
	for name, i := range map[string]fixtures.Image{
		"pause:3.10":                    pause("3.10"),
		"pause:3.10.2":                  pause("3.10.2"),
		e2e + "agnhost:2.66.1":          image(run, "2.66.1", busybox, hosts),
		e2e + "agnhost:2.55":            image(run, "2.55", busybox, hosts),
		e2e + "busybox:1.37.0-2":        image(shell, "", busybox),
		e2e + "nginx:1.27.0-2":          image(serve, "1.27", busybox, web.Layer()),
		e2e + "nginx:1.28.0-2":          image(serve, "1.28", busybox, web.Layer()),
		e2e + "nonewprivs:1.4":          image(fixtures.Config{Cmd: []string{"nnp"}}, "", busybox, nnp.Layer()),
		e2e + "nonroot:1.5":             image(fixtures.Config{Cmd: []string{"sh"}, User: "1234"}, "", busybox),
		e2e + "ipc-utils:1.4":           image(shell, "", busybox, ipc.Layer()),
		e2e + "glibc-dns-testing:2.1.1": image(shell, "", busybox, names.Layer()),
	} {
		repo, tag, _ := strings.Cut(name, ":")
		if err := r.PushImage(repo, tag, i); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// baseTree is upstream's busybox image as near as Debian's packages come.
func baseTree() (fixtures.Tree, error) {
	t, err := fixtures.BusyboxTree(fixtures.Busybox)
	if err != nil {
		return nil, err
	}
	out, err := exec.Command(fixtures.Busybox, "--list").Output()
	if err != nil {
		return nil, err
	}
	for _, n := range strings.Fields(string(out)) { // upstream has all of them in one place
		if _, ok := t["bin/"+n]; !ok {
			t["bin/"+n] = fixtures.File{Type: tar.TypeSymlink, Link: "/bin/busybox", Mode: 0o777}
		}
	}
	t["etc/nsswitch.conf"] = fixtures.File{Body: "hosts: files dns\n"}
	if err := t.Copy("/proc/self/exe", "usr/bin/nmeter", 0o755); err != nil {
		return nil, err
	}
	// The shell of Debian's busybox drops variables that have no shell name, such as data-1: specs that have some call
	// sh by its name alone. One that reads what the shell complains of calls /bin/sh, which stays busybox's.
	t["usr/local/bin/sh"] = fixtures.File{Type: tar.TypeSymlink, Link: "/bin/bash", Mode: 0o777}
	return t, t.Program("/bin/bash-static", "bin/bash")
}

// agnhostTree is what upstream's image has beside busybox, as far as the specs
// use it. The image inner is what its registry for pulls with a secret serves.
func agnhostTree(file, porter string, inner fixtures.Image) (fixtures.Tree, error) {
	t := fixtures.Tree{
		"agnhost-2":  {Type: tar.TypeSymlink, Link: "agnhost", Mode: 0o777},
		"bin/sh":     {Type: tar.TypeSymlink, Link: "bash", Mode: 0o777}, // busybox's runs its own nc, whatever the path says
		"etc/passwd": {Body: fixtures.Passwd + "user-defined-in-image:x:1000:1000::/home:/bin/sh\n"},
		"etc/group":  {Body: fixtures.Group + "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"},
	}
	t.Dirs(0o755, "uploads")
	for _, err := range []error{
		t.Program(file, "agnhost"),
		t.Copy(filepath.Join(porter, "localhost.crt"), "localhost.crt", 0o644),
		t.Copy(filepath.Join(porter, "localhost.key"), "localhost.key", 0o644),
		t.Programs("curl", "ss"),
		t.Program("/bin/nc.openbsd", "usr/local/bin/nc"), // before busybox's on the path, which knows no UDP
		fakeRegistry(t, inner),
	} {
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// fakeRegistry lays out what "agnhost fake-registry-server" serves: pause:testing,
// as an index.
func fakeRegistry(t fixtures.Tree, i fixtures.Image) error {
	put := func(kind string, b []byte) {
		hash := strings.TrimPrefix(fixtures.Digest(b), "sha256:")
		t["var/registry/pause/"+kind+"/sha256/"+hash[:2]+"/"+hash+"/data"] = fixtures.File{Body: string(b)}
	}
	d := fixtures.Describe(fixtures.ManifestType, i.Manifest)
	d.Platform = &fixtures.Platform{Architecture: runtime.GOARCH, OS: "linux"}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": fixtures.IndexType, "manifests": []fixtures.Descriptor{d}})
	if err != nil {
		return err
	}
	put("blobs", i.Config)
	for _, l := range i.Layers {
		put("blobs", l.Blob)
	}
	put("manifests", i.Manifest)
	put("manifests", index)
	t["var/registry/pause/manifests/testing"] = fixtures.File{Body: fixtures.Digest(index) + "\n"}
	return nil
}
