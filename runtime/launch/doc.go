// Package launch does one operation on one container and is done: it is what
// postern-launch runs, and the only place where libcontainer is linked.
//
// The request comes from postern-helper, which has checked it against ceiling
// and policy; nothing here widens it. What the machine does not permit is
// lowered and said so in a note, and everything else that cannot be done as
// asked is an error: a container that runs with less protection than its plan
// says must not run.
//
// After a create or exec the new process is left alone: it is reparented to the
// child subreaper, which reaps it.
//
// All of it needs cgo and the build tag seccomp: without them the package is
// empty, so that postern-launch cannot be built without a filter by mistake.
package launch
