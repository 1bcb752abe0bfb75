package main

import (
	"archive/tar"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"github.com/postern-cri/postern/test/fixtures"
)

// tree is the content of a layer, by name.
type tree map[string]fixtures.File

func (t tree) dirs(mode int64, names ...string) {
	for _, n := range names {
		t[n] = fixtures.File{Type: tar.TypeDir, Mode: mode}
	}
}

// copy puts a file of this machine into the tree.
func (t tree) copy(from, to string, mode int64) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	t[to] = fixtures.File{Body: string(b), Mode: mode}
	return nil
}

var libPath = regexp.MustCompile(`/[^ ]+`)

// program puts a program of this machine with its shared libraries into the tree.
func (t tree) program(from, to string) error {
	if err := t.copy(from, to, 0o755); err != nil {
		return err
	}
	out, err := exec.Command("ldd", from).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", from, err)
	}
	for _, lib := range libPath.FindAllString(string(out), -1) {
		if err := t.copy(lib, strings.TrimPrefix(lib, "/"), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// layer packs the tree: directories before what is in them.
func (t tree) layer() fixtures.Layer {
	for n := range t {
		for d := path.Dir(n); d != "."; d = path.Dir(d) {
			if _, ok := t[d]; !ok {
				t.dirs(0o755, d)
			}
		}
	}
	var files []fixtures.File
	for n, f := range t {
		f.Name = n
		files = append(files, f)
	}
	sort.Slice(files, func(a, b int) bool { return files[a].Name < files[b].Name })
	return fixtures.MakeLayer(files...)
}

// busyboxTree is what every image that has a shell stands on. The busybox is the
// one of Debian's package busybox: the shell of busybox-static runs programs such
// as ls inside of itself, so that a file of that name can be masked in vain.
func busyboxTree(busybox string) (tree, error) {
	t := tree{"etc/passwd": {Body: passwd}, "etc/group": {Body: group}}
	t.dirs(0o755, "home", "proc", "sys", "dev", "run", "var/log", "var/run", "var/www", "usr/sbin")
	t.dirs(0o700, "root")
	t.dirs(0o1777, "tmp", "var/tmp")
	if err := t.program(busybox, "bin/busybox"); err != nil {
		return nil, err
	}
	out, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return nil, err
	}
	for _, n := range strings.Fields(string(out)) {
		if n = strings.TrimPrefix(n, "/"); n != "bin/busybox" {
			t[n] = fixtures.File{Type: tar.TypeSymlink, Link: "/bin/busybox", Mode: 0o777}
		}
	}
	// A file of its own: a spec masks ls, and a link would have it mask the shell.
	if err := t.copy(busybox, "bin/ls", 0o755); err != nil {
		return nil, err
	}
	for _, n := range []string{"ipcs", "pgrep"} { // Debian's busybox has neither
		p, err := exec.LookPath(n)
		if err != nil {
			return nil, err
		}
		delete(t, "bin/"+n)
		if err := t.program(p, "usr/bin/"+n); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func nginxTree(port int) (tree, error) {
	t := tree{
		"usr/share/nginx/html/index.html": {Body: "<html><body>nginx test page</body></html>\n"},
		"usr/share/nginx/html/50x.html":   {Body: "<html><body>error</body></html>\n"},
		"etc/nginx/nginx.conf":            {Body: fmt.Sprintf(nginxConf, port)},
	}
	t.dirs(0o755, "var/log/nginx", "var/lib/nginx", "var/run")
	return t, t.program("/usr/sbin/nginx", "usr/sbin/nginx")
}

func apacheTree() (tree, error) {
	t := tree{
		"var/www/html/index.html": {Body: "<html><body><h1>It works!</h1></body></html>\n"},
		"etc/apache2/httpd.conf":  {Body: apacheConf},
	}
	t.dirs(0o755, "var/run/apache2")
	for _, m := range []string{"mpm_event", "authz_core", "dir"} {
		so := "/usr/lib/apache2/modules/mod_" + m + ".so"
		if err := t.program(so, strings.TrimPrefix(filepath.Clean(so), "/")); err != nil {
			return nil, err
		}
	}
	return t, t.program("/usr/sbin/apache2", "usr/sbin/httpd")
}
