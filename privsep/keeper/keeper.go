// Package keeper is how init is asked to watch processes and to keep fds.
//
// Init is the one process that lives as long as the containers do. The helper
// asks it, on a socket pair, to report an exit under a handle (WATCH), and to
// keep duplicates of a container's stdio and log fds (STORE), so that the death
// of any other process loses neither a log line nor an exit status. The log
// process gets what is stored when it starts, and init reports exits to
// posternd, again and again, until the helper says FORGET.
package keeper

import "github.com/postern-cri/postern/privsep/keeper/message"

// The messages themselves are in package message.
type (
	Request = message.Request
	Status  = message.Status
	Op      = message.Op
	Exit    = message.Exit
)

// Operations, statuses and sizes: see package message.
const (
	End     = message.End
	Watch   = message.Watch
	Forget  = message.Forget
	Store   = message.Store
	Replace = message.Replace
	Drop    = message.Drop

	OK        = message.OK
	Invalid   = message.Invalid
	NotFound  = message.NotFound
	Full      = message.Full
	Forbidden = message.Forbidden

	KeyLen     = message.KeyLen
	MaxMeta    = message.MaxMeta
	MaxFDs     = message.MaxFDs
	MaxRequest = message.MaxRequest
	ExitLen    = message.ExitLen
)

// Decode reads a request, as init does.
func Decode(b []byte) (Request, error) { return message.Decode(b) }

// DecodeExit reads a datagram of the exits channel.
func DecodeExit(b []byte) (Exit, error) { return message.DecodeExit(b) }
