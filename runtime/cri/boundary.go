package cri

import (
	"context"
	"errors"

	"github.com/postern-cri/postern/privsep/client"
	"github.com/postern-cri/postern/privsep/wire"
)

// Boundary is the Helper behind the socket at a path.
type Boundary struct {
	*client.Client
	path string
}

// DialHelper connects to the privileged side.
func DialHelper(path string) (*Boundary, error) {
	c, err := client.Dial(path)
	if err != nil {
		return nil, err
	}
	return &Boundary{c, path}, nil
}

// Hello greets once more on a connection of its own: what the privileged side
// can do changes while it runs, as when a CNI configuration appears.
func (b *Boundary) Hello(context.Context) (*wire.HelloAnswer, error) {
	c, err := client.Dial(b.path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	h := c.Features()
	return &h, nil
}

func helperError(err error) (wire.Code, string, wire.Denial, bool) {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Code, e.Message, e.Denial, true
	}
	return 0, "", wire.Denial{}, false
}
