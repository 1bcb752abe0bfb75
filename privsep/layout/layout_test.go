package layout

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// Every place lies beneath the root, and no two are the same.
func TestPlaces(t *testing.T) {
	for root, prefixes := range map[string][]string{"/x": {"/x/"}, "": {"/etc/postern", "/run/postern", "/var/lib/postern", "/var/log/postern"}} {
		l := New(root)
		seen := map[string]string{}
		v := reflect.ValueOf(l)
		for i := range v.NumMethod() {
			name, p := v.Type().Method(i).Name, v.Method(i).Call(nil)[0].String()
			ok := false
			for _, pre := range prefixes {
				ok = ok || strings.HasPrefix(p, pre)
			}
			if !ok || filepath.Clean(p) != p || seen[p] != "" {
				t.Errorf("%s is %s (also %s)", name, p, seen[p])
			}
			seen[p] = name
		}
		if len(seen) < 20 {
			t.Errorf("only %d places", len(seen))
		}
	}
}

func users() Users {
	var u Users
	for i, r := range u.Roles() {
		*r.ID = ID{uint32(900 + i), uint32(800 + i)}
	}
	return u
}

func TestUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	want := users()
	if n := reflect.TypeFor[Users]().NumField(); n != len(want.Roles()) {
		t.Errorf("%d users, %d roles", n, len(want.Roles()))
	}
	if err := WriteUsers(path, want); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadUsers(path); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := ReadUsers(path + "x"); err == nil {
		t.Error("a file that is not there was read")
	}
	if err := WriteUsers(t.TempDir(), want); err == nil {
		t.Error("a directory was written")
	}
}

// A shared uid would be a shared right; root's would be every right.
func TestUsersRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	if err := WriteUsers(path, users()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := string(b)
	for _, c := range []struct{ old, by, want string }{
		{"postern 900 800", "postern 0 800", "role postern has the uid of root"},
		{"postern 900 800", "postern 900 0", "bad uid or gid"},
		{"postern 900 800", "postern -1 800", "bad uid or gid"},
		{"postern 900 800", "postern 4294967295 800", "bad uid or gid"}, // (uid_t)-1: "unchanged"
		{"postern 900 800", "postern 2147483648 800", "bad uid or gid"},
		{"postern 900 800", "postern 900 4294967295", "bad uid or gid"},
		{"postern 900 800", "postern x 800", "bad uid or gid"},
		{"postern 900 800", "postern 900", `is not "role uid gid"`},
		{"postern 900 800", "postern 900 800 7", `is not "role uid gid"`},
		{"postern 900 800\n", "\n", `is not "role uid gid"`},
		{"postern 900 800", "root 900 800", `unknown or repeated role "root"`},
		{"postern 900 800\n", "", "role postern is missing"},
		{"postern 900 800", "postern 901 800", "has the uid of postern"},
		{"postern 900 800\n", "postern 900 800\npostern 950 850\n", `unknown or repeated role "postern"`},
		{"postern 900 800\n", strings.Repeat("x", 1<<17) + "\n", "reading the users file"},
		{good, "", "is missing"},
	} {
		os.WriteFile(path, []byte(strings.Replace(good, c.old, c.by, 1)), 0o644)
		if u, err := ReadUsers(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %+v, %v, want %q", c.by, u, err, c.want)
		}
	}
}
