package convert

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

const (
	bufferSize  = 256 << 10
	bufferCount = 6
)

type buffer struct {
	data []byte
	full [bufferSize]byte
	uses atomic.Int32
}

// pump reads ahead in a goroutine of its own and hashes every byte in another,
// while Read gives the same bytes to the parser.
type pump struct {
	free chan *buffer
	out  chan *buffer
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	cur  *buffer
	left []byte
	err  error // of the source; valid once out is closed
	n    int64
	sum  [sha256.Size]byte
}

// newPump reads at most max bytes of src.
func newPump(src io.Reader, max int64, what string) *pump {
	p := &pump{free: make(chan *buffer, bufferCount), out: make(chan *buffer, bufferCount), stop: make(chan struct{})}
	for range bufferCount {
		p.free <- new(buffer)
	}
	hash := make(chan *buffer, bufferCount)
	p.wg.Add(2)
	go func() {
		defer p.wg.Done()
		h := sha256.New()
		for b := range hash {
			h.Write(b.data)
			p.release(b)
		}
		h.Sum(p.sum[:0])
	}()
	go func() {
		defer p.wg.Done()
		defer close(p.out)
		defer close(hash)
		for {
			var b *buffer
			select {
			case b = <-p.free:
			case <-p.stop:
				p.err = io.ErrClosedPipe
				return
			}
			n, err := fillBuffer(src, b.full[:])
			if p.n += int64(n); p.n > max {
				p.err = fmt.Errorf("%w: more than %d bytes %s", ErrTooLarge, max, what)
				return
			}
			if n > 0 {
				b.data = b.full[:n]
				b.uses.Store(2)
				hash <- b // never blocks: as large as there are buffers
				p.out <- b
			}
			if err != nil {
				p.err = err
				return
			}
		}
	}()
	return p
}

// fillBuffer reads until b is full or src ends, so that small reads of a
// decompressor become few hand-overs.
func fillBuffer(src io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = src.Read(b[n:])
		n += k
	}
	return n, err
}

func (p *pump) release(b *buffer) {
	if b.uses.Add(-1) == 0 {
		p.free <- b // never blocks, likewise
	}
}

// Read implements io.Reader.
func (p *pump) Read(b []byte) (int, error) {
	for len(p.left) == 0 {
		if p.cur != nil {
			p.release(p.cur)
			p.cur = nil
		}
		next, ok := <-p.out
		if !ok {
			return 0, p.err
		}
		p.cur, p.left = next, next.data
	}
	n := copy(b, p.left)
	p.left = p.left[n:]
	return n, nil
}

// close stops the goroutines and waits for them; src must not block for ever.
func (p *pump) close() {
	p.once.Do(func() { close(p.stop) })
	for b := range p.out {
		p.release(b)
	}
	p.wg.Wait()
}

// digest is of everything that was read; only after Read returned io.EOF.
func (p *pump) digest() string {
	p.close()
	return "sha256:" + hex.EncodeToString(p.sum[:])
}
