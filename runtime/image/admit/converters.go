package admit

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/convert"
	"github.com/postern-cri/postern/runtime/ipc"
)

const (
	// parallel is how many converters one pull may use.
	parallel = 3
	// linger is how long one that is idle is kept: the next layer may follow, but
	// another pull may also be waiting for a process to be free.
	linger = 200 * time.Millisecond
)

// errFull says that there was no room for a layer.
var errFull = errors.New("no space left on device")

// converters are the converting processes of one image.
type converters struct {
	path  string
	slots chan struct{}
	mu    sync.Mutex
	idle  []idle
}

type idle struct {
	conn  *ipc.Conn
	since time.Time
}

func newConverters(path string) *converters {
	return &converters{path: path, slots: make(chan struct{}, parallel)}
}

// convert has one layer converted, or one file of an artifact.
func (p *converters) convert(blob, out int, file string) (*convert.Result, error) {
	p.slots <- struct{}{}
	defer func() { <-p.slots }()
	c, err := p.get()
	if err != nil {
		return nil, fmt.Errorf("asking for a converter: %w", err)
	}
	var a convert.Answer
	if _, err := c.Call(convert.Timeout, convert.Request{Convert: true, File: file}, &a, 0, blob, out); err != nil {
		// It died, and with it what it knew: another one takes the next layer.
		c.Close()
		return nil, image.Errorf(image.Invalid, "the converter gave up on a layer: %v", err)
	}
	p.put(c)
	if a.Full {
		return nil, errFull
	}
	if a.Error != "" || a.Result == nil {
		return nil, image.Errorf(image.Invalid, "%s", clip(a.Error))
	}
	return a.Result, nil
}

func (p *converters) get() (*ipc.Conn, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1].conn
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	return ipc.Dial(p.path)
}

func (p *converters) put(c *ipc.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, idle{c, time.Now()})
	time.AfterFunc(linger, p.reap)
}

// reap lets those go that nobody needed.
func (p *converters) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 && time.Since(p.idle[0].since) >= linger {
		p.idle[0].conn.Close()
		p.idle = p.idle[1:]
	}
}
