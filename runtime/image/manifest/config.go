package manifest

import (
	"errors"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image"
)

// ParseConfig reads an image's configuration and returns it with the diffIDs of
// its layers, lowest first.
func ParseConfig(b []byte) (image.Config, []string, error) {
	var doc struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Config       struct {
			User       string              `json:"User"`
			Env        []string            `json:"Env"`
			Entrypoint []string            `json:"Entrypoint"`
			Cmd        []string            `json:"Cmd"`
			WorkingDir string              `json:"WorkingDir"`
			Volumes    map[string]struct{} `json:"Volumes"`
			StopSignal string              `json:"StopSignal"`
			Labels     map[string]string   `json:"Labels"`
		} `json:"config"`
		RootFS struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	var c image.Config
	if err := Strict(b, &doc); err != nil {
		return c, nil, fmt.Errorf("image configuration: %w", err)
	}
	if doc.RootFS.Type != "layers" {
		return c, nil, fmt.Errorf("image configuration: rootfs of type %q", doc.RootFS.Type)
	}
	if doc.OS != "linux" {
		return c, nil, fmt.Errorf("image configuration: an image for %q", doc.OS)
	}
	for _, d := range doc.RootFS.DiffIDs {
		if _, err := record.Hex(d); err != nil {
			return c, nil, fmt.Errorf("image configuration: %w", err)
		}
	}
	if err := CheckUser(doc.Config.User); err != nil {
		return c, nil, fmt.Errorf("image configuration: %w", err)
	}
	c = image.Config{User: doc.Config.User, Env: doc.Config.Env, Entrypoint: doc.Config.Entrypoint, Cmd: doc.Config.Cmd,
		WorkingDir: doc.Config.WorkingDir, StopSignal: doc.Config.StopSignal, Labels: doc.Config.Labels,
		Architecture: doc.Architecture, OS: doc.OS}
	total := 0
	for k, v := range c.Labels {
		// Some builders keep documents in labels. Nothing here reads them: those that
		// do not fit are left out.
		if len(v) > 8<<10 || total+len(k)+len(v) > 32<<10 {
			delete(c.Labels, k)
			continue
		}
		total += len(k) + len(v)
	}
	for v := range doc.Config.Volumes {
		c.Volumes = append(c.Volumes, v)
	}
	sort.Strings(c.Volumes)
	for _, e := range []error{checkStrings("Env", 32<<10, c.Env), checkStrings("Entrypoint", 16<<10, c.Entrypoint),
		checkStrings("Cmd", 16<<10, c.Cmd), checkStrings("Volumes", 16<<10, c.Volumes),
		checkStrings("WorkingDir", 4096, []string{c.WorkingDir, c.StopSignal})} {
		if e != nil {
			return c, nil, e
		}
	}
	return c, doc.RootFS.DiffIDs, nil
}

// checkStrings bounds what a configuration may carry: an ImageInfo with all of it
// must fit in one message.
func checkStrings(what string, max int, list []string) error {
	total := 0
	for _, s := range list {
		total += len(s)
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("image configuration: a zero byte in %s", what)
		}
	}
	if total > max || len(list) > 4096 {
		return fmt.Errorf("image configuration: %s is too large", what)
	}
	return nil
}

// ErrUser is wrapped by every error of CheckUser.
var ErrUser = errors.New("invalid USER")

// CheckUser refuses the values of USER that runtimes are known to take for
// root's or for another's: numbers that overflow, signs, blanks, other digits.
// What is left is [user][:group], each a number of at most 2^31-1 or a name.
func CheckUser(user string) error {
	u, g, both := strings.Cut(user, ":")
	if both && (u == "" || g == "" || strings.Contains(g, ":")) {
		return fmt.Errorf("%w %.80q: want user, user:group, or nothing", ErrUser, user)
	}
	for _, s := range []string{u, g} {
		if s == "" {
			continue
		}
		if _, _, err := UserID(s); err != nil {
			return fmt.Errorf("%w %.80q: %v", ErrUser, user, err)
		}
	}
	return nil
}

// UserID tells a number from a name. A number is decimal digits alone, without a
// leading zero, at most 2^31-1; a name starts with a letter or an underscore.
func UserID(s string) (id uint32, isName bool, err error) {
	if strings.Trim(s, "0123456789") == "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || n > math.MaxInt32 || len(s) > 1 && s[0] == '0' || s == "" {
			return 0, false, fmt.Errorf("%.40q is not a number from 0 to %d", s, math.MaxInt32)
		}
		return uint32(n), false, nil
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789-.$@", rune(c))) {
			return 0, false, fmt.Errorf("%.40q is neither a number nor a name", s)
		}
	}
	if len(s) > 256 {
		return 0, false, errors.New("a name longer than 256 bytes")
	}
	return 0, true, nil
}
