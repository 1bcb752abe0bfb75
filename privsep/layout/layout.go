// Package layout says where everything lies: sockets, state, configuration, and
// which uid each process drops to. It is linked into every binary.
package layout

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Layout is the set of directories of one installation.
type Layout struct {
	Etc string // configuration, root-owned
	Run string // sockets and mounts, gone after a reboot
	Lib string // state that survives a reboot
	Log string // logs of our own processes
}

// New returns the layout beneath root, or the system's places where root is "".
func New(root string) Layout {
	if root == "" {
		return Layout{Etc: "/etc/postern", Run: "/run/postern", Lib: "/var/lib/postern", Log: "/var/log/postern"}
	}
	return Layout{
		Etc: filepath.Join(root, "etc"), Run: filepath.Join(root, "run"),
		Lib: filepath.Join(root, "lib"), Log: filepath.Join(root, "log"),
	}
}

// Configuration files; all are root-owned and not writable by others.
func (l Layout) Config() string  { return filepath.Join(l.Etc, "postern.toml") }
func (l Layout) Ceiling() string { return filepath.Join(l.Etc, "ceiling.toml") }
func (l Layout) Trust() string   { return filepath.Join(l.Etc, "trust.toml") }
func (l Layout) TrustDir() string {
	return filepath.Join(l.Etc, "trust.d")
}
func (l Layout) Policy() string     { return filepath.Join(l.Etc, "policy") }
func (l Layout) Seccomp() string    { return filepath.Join(l.Etc, "seccomp") }
func (l Layout) UsersFile() string  { return filepath.Join(l.Run, "users") }
func (l Layout) InitConfig() string { return filepath.Join(l.Run, "init.json") }

// Sockets. Each stands in a directory that only root writes; init binds and
// listens, and hands the listener to the process it belongs to.
func (l Layout) CRISocket() string     { return filepath.Join(l.Run, "postern.sock") }
func (l Layout) HelperSocket() string  { return filepath.Join(l.Run, "sock", "helper") }
func (l Layout) PolicySocket() string  { return filepath.Join(l.Run, "sock", "policy") }
func (l Layout) AuditSocket() string   { return filepath.Join(l.Run, "sock", "audit") }
func (l Layout) LogSocket() string     { return filepath.Join(l.Run, "sock", "log") }
func (l Layout) StreamSocket() string  { return filepath.Join(l.Run, "sock", "stream") }
func (l Layout) GrantSocket() string   { return filepath.Join(l.Run, "sock", "grant") }
func (l Layout) FetchSocket() string   { return filepath.Join(l.Run, "sock", "fetch") }
func (l Layout) VerifySocket() string  { return filepath.Join(l.Run, "sock", "verify") }
func (l Layout) ConvertSocket() string { return filepath.Join(l.Run, "sock", "convert") }

// State of the unprivileged processes; each directory belongs to its uid, 0700,
// but for Records and Layers, which posternd's group may read (0750).
func (l Layout) FrontState() string { return filepath.Join(l.Lib, "posternd") }
func (l Layout) FetchState() string { return filepath.Join(l.Lib, "fetch") }
func (l Layout) Records() string    { return filepath.Join(l.Lib, "records") } // <hex>.json
func (l Layout) Layers() string     { return filepath.Join(l.Lib, "layers") }  // <hex>.erofs
func (l Layout) AuditLog() string   { return filepath.Join(l.Lib, "audit") }
func (l Layout) PolicyState() string {
	return filepath.Join(l.Lib, "policyd")
}

// Box and BoxState are the helper's own: root, 0700. Box holds mounts and
// namespaces (gone after a reboot), BoxState the writable layers.
func (l Layout) Box() string      { return filepath.Join(l.Run, "box") }
func (l Layout) BoxState() string { return filepath.Join(l.Lib, "box") }

// ID is a uid with its gid.
type ID struct{ UID, GID uint32 }

// Users are the uids that the processes drop to.
type Users struct {
	Front, Stream, Log, Policy, Fetch, Verify, Convert, Audit ID
}

// Roles lists the role names in the order of the users file with their fields.
func (u *Users) Roles() []struct {
	Name string
	ID   *ID
} {
	return []struct {
		Name string
		ID   *ID
	}{
		{"postern", &u.Front}, {"postern-stream", &u.Stream}, {"postern-log", &u.Log},
		{"postern-policy", &u.Policy}, {"postern-fetch", &u.Fetch}, {"postern-verify", &u.Verify},
		{"postern-convert", &u.Convert}, {"postern-audit", &u.Audit},
	}
}

// WriteUsers writes the users file: one line "role uid gid" each.
func WriteUsers(path string, u Users) error {
	var b strings.Builder
	for _, r := range u.Roles() {
		fmt.Fprintf(&b, "%s %d %d\n", r.Name, r.ID.UID, r.ID.GID)
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// ReadUsers reads the users file. Every role must be there once and no uid may
// be root's or another role's: a shared uid would be a shared right.
func ReadUsers(path string) (Users, error) {
	var u Users
	f, err := os.Open(path)
	if err != nil {
		return u, fmt.Errorf("reading the users file: %w", err)
	}
	defer f.Close()
	byName := map[string]*ID{}
	for _, r := range u.Roles() {
		byName[r.Name] = r.ID
	}
	seen := map[uint32]string{0: "root"}
	s := bufio.NewScanner(f)
	for s.Scan() {
		part := strings.Fields(s.Text())
		if len(part) != 3 {
			return u, fmt.Errorf("%s: line %q is not \"role uid gid\"", path, s.Text())
		}
		id, ok := byName[part[0]]
		if !ok {
			return u, fmt.Errorf("%s: unknown or repeated role %q", path, part[0])
		}
		delete(byName, part[0])
		uid, err1 := strconv.ParseUint(part[1], 10, 31)
		gid, err2 := strconv.ParseUint(part[2], 10, 31)
		if err1 != nil || err2 != nil || gid == 0 {
			return u, fmt.Errorf("%s: role %s: bad uid or gid", path, part[0])
		}
		if other, ok := seen[uint32(uid)]; ok {
			return u, fmt.Errorf("%s: role %s has the uid of %s", path, part[0], other)
		}
		seen[uint32(uid)] = part[0]
		*id = ID{uint32(uid), uint32(gid)}
	}
	if err := s.Err(); err != nil {
		return u, fmt.Errorf("reading the users file: %w", err)
	}
	for name := range byName {
		return u, fmt.Errorf("%s: role %s is missing", path, name)
	}
	return u, nil
}
