// Package cri answers the Kubernetes Container Runtime Interface. It holds no
// privilege: it translates requests to plans, hands them over the boundary, and
// remembers what CRI wants back.
//
// Every RPC is decided by policy. Those that cross the boundary are decided
// there, by the privileged side with the bytes that will run; nothing that this
// package does or omits is on that path. The others are asked here, first thing
// in the handler, and a table says which are which: a test calls every RPC of
// the service and fails for one that neither asks nor crosses.
package cri
