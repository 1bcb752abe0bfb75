package cri

import (
	"errors"

	"github.com/postern-cri/postern/privsep/wire"
)

// BoundaryError is an answer other than OK.
type BoundaryError struct {
	Code    wire.Code
	Message string
	Denial  wire.Denial
}

func (e *BoundaryError) Error() string { return e.Message }

func helperError(err error) (wire.Code, string, wire.Denial, bool) {
	var e *BoundaryError
	if errors.As(err, &e) {
		return e.Code, e.Message, e.Denial, true
	}
	return 0, "", wire.Denial{}, false
}
