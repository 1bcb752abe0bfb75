package container

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/sandbox"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UserDB looks names up in the image's /etc/passwd and /etc/group. Its answers
// come from the image's author: they name numbers inside the container, nothing
// else.
type UserDB interface {
	// ByName finds a user by name.
	ByName(name string) (uid, gid uint32, found bool, err error)
	// ByUID finds the first user with this uid.
	ByUID(uid uint32) (name string, gid uint32, found bool, err error)
	// Group finds a group's number by name.
	Group(name string) (gid uint32, found bool, err error)
	// Member lists the groups that name is a member of.
	Member(name string) ([]uint32, error)
}

// user resolves who the process is. Every number is checked to be within 31
// bits before it is converted: a longer one became 0 elsewhere (CVE-2024-40635).
func user(p *plan.Plan, in *Input) error {
	sc := in.Config.GetLinux().GetSecurityContext()
	const field = "linux.security_context."
	var (
		name  string
		gid   uint32
		group string
		err   error
	)
	switch {
	case sc.GetRunAsUser() != nil && sc.GetRunAsUsername() != "":
		return refuse(field+"run_as_username", "together with run_as_user")
	case sc.GetRunAsUser() != nil:
		if p.User.UID, err = number(field+"run_as_user", sc.RunAsUser.Value); err != nil {
			return err
		}
		if name, gid, err = byUID(in.Users, p.User.UID); err != nil {
			return err
		}
	case sc.GetRunAsGroup() != nil && sc.GetRunAsUsername() == "":
		return refuse(field+"run_as_group", "only with run_as_user or run_as_username")
	default:
		who, from := sc.GetRunAsUsername(), field+"run_as_username"
		if who == "" {
			who, from = in.Image.User, "image config User"
			who, group, _ = strings.Cut(who, ":")
		} else if strings.Contains(who, ":") {
			return refuse(from, "%q has a colon", who)
		}
		if name, gid, err = byWord(p, in.Users, from, who); err != nil {
			return err
		}
	}
	if group != "" {
		if gid, err = groupByWord(in.Users, group); err != nil {
			return err
		}
	}
	if g := sc.GetRunAsGroup(); g != nil {
		if gid, err = number(field+"run_as_group", g.Value); err != nil {
			return err
		}
	}
	p.User.GID = gid
	return supplemental(p, in, name)
}

func supplemental(p *plan.Plan, in *Input, name string) error {
	sc := in.Config.GetLinux().GetSecurityContext()
	const field = "linux.security_context."
	groups := []uint32{p.User.GID}
	add := func(g uint32) {
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	for _, g := range sc.GetSupplementalGroups() {
		n, err := number(field+"supplemental_groups", g)
		if err != nil {
			return err
		}
		add(n)
	}
	switch sc.GetSupplementalGroupsPolicy() {
	case cri.SupplementalGroupsPolicy_Strict:
	case cri.SupplementalGroupsPolicy_Merge:
		if name != "" {
			member, err := in.Users.Member(name)
			if err != nil {
				return fmt.Errorf("groups of the image: %w", err)
			}
			for _, g := range member {
				add(g)
			}
		}
	default:
		return refuse(field+"supplemental_groups_policy", "unknown policy %d", sc.GetSupplementalGroupsPolicy())
	}
	p.User.Groups = groups
	return nil
}

func number(field string, v int64) (uint32, error) {
	if v < 0 || v > math.MaxInt32 {
		return 0, refuse(field, "%d is not between 0 and %d", v, math.MaxInt32)
	}
	return uint32(v), nil
}

func byUID(db UserDB, uid uint32) (name string, gid uint32, err error) {
	name, gid, _, err = db.ByUID(uid)
	if err != nil {
		return "", 0, fmt.Errorf("users of the image: %w", err)
	}
	return name, gid, nil
}

// byWord resolves a name or number. A word that begins like a number is a
// number and never a name: else the image's passwd could say who 1000 is
// (CVE-2016-3697).
func byWord(p *plan.Plan, db UserDB, field, who string) (name string, gid uint32, err error) {
	if who == "" {
		who = "0"
	}
	if isNumber(who) {
		if p.User.UID, err = parseID(field, who); err != nil {
			return "", 0, err
		}
		return byUID(db, p.User.UID)
	}
	if !idName(who) {
		return "", 0, refuse(field, "%q is no user name", who)
	}
	uid, gid, found, err := db.ByName(who)
	if err != nil {
		return "", 0, fmt.Errorf("users of the image: %w", err)
	}
	if !found {
		return "", 0, refuse(field, "the image has no user %q", who)
	}
	p.User.UID = uid
	return who, gid, nil
}

func groupByWord(db UserDB, group string) (uint32, error) {
	const field = "image config User"
	if isNumber(group) {
		return parseID(field, group)
	}
	if !idName(group) {
		return 0, refuse(field, "%q is no group name", group)
	}
	gid, found, err := db.Group(group)
	if err != nil {
		return 0, fmt.Errorf("groups of the image: %w", err)
	}
	if !found {
		return 0, refuse(field, "the image has no group %q", group)
	}
	return gid, nil
}

func isNumber(s string) bool {
	return s[0] >= '0' && s[0] <= '9' || s[0] == '-' || s[0] == '+'
}

func parseID(field, s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || strings.Trim(s, "0123456789") != "" {
		return 0, refuse(field, "%q is not a number between 0 and %d", s, math.MaxInt32)
	}
	return uint32(n), nil
}

func idName(s string) bool {
	return len(s) <= 256 && sandbox.PlainText(s) && !strings.ContainsAny(s, ": \t/,")
}
