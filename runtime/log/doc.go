// Package logd is the log process: it moves what containers write into their CRI
// logs, and to and from the clients that are attached to them.
//
// One process and one thread of control serve every container of the node: an
// epoll loop over fds that others opened and handed over, with two buffers shared
// by all. A container costs its fds and a few hundred bytes. Nothing is opened by
// path, ever.
//
// Output is logged exactly once even if the process is killed at any instruction:
// see phase for how. While a log cannot be written (a full disk) the container's
// output stays in its pipe, and the container waits: no line is dropped.
//
// What containers write is the enemy's. It is searched for newlines and copied,
// nothing else.
package logd
