package fetch

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/postern-cri/postern/privsep/record"
	"github.com/postern-cri/postern/runtime/image"
	"github.com/postern-cri/postern/runtime/image/admit"
	"github.com/postern-cri/postern/runtime/image/convert"
	"github.com/postern-cri/postern/runtime/ipc"
	"github.com/postern-cri/postern/verify/evidence"
)

// verifyTimeout bounds the judgement of one image. The process may die over it:
// that is one pull that failed, and no more.
const verifyTimeout = 15 * time.Second

// verifier is a connection to one verifying process, used for one image.
type verifier struct {
	conn *ipc.Conn
	slot chan struct{}

	mu      sync.Mutex
	waiting map[int]chan admit.Answer
	err     error
}

// maxPulls is how many verifying processes pulls may have; there is one more for
// everything else, and init starts no others. A connection beyond them would wait with its clock
// running.
const maxPulls = 8

func (s *Server) dialVerifier(ctx context.Context, slot chan struct{}) (*verifier, error) {
	select {
	case slot <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c, err := ipc.Dial(s.Layout.VerifySocket())
	if err != nil {
		<-slot
		return nil, fmt.Errorf("asking for a verifier: %w", err)
	}
	return &verifier{conn: c, slot: slot, waiting: map[int]chan admit.Answer{}}, nil
}

func (v *verifier) close() {
	v.conn.Close()
	<-v.slot
}

// call is one request with one answer.
func (v *verifier) call(r admit.Request, fds ...int) (admit.Answer, error) {
	var a admit.Answer
	if _, err := v.conn.Call(verifyTimeout, r, &a, 0, fds...); err != nil {
		return a, image.Errorf(image.Internal, "the verifier gave up: %v", err)
	}
	if a.Error != nil {
		return a, a.Error
	}
	return a, nil
}

// verify has a job judged and returns the record and the layers that are missing.
func (v *verifier) verify(job []byte) (*record.Record, []byte, []int, error) {
	if len(job) > evidence.MaxJob {
		return nil, nil, nil, image.Errorf(image.Invalid, "evidence of %d bytes", len(job))
	}
	f, err := ipc.MakeBlob(job)
	if err != nil {
		return nil, nil, nil, err
	}
	defer f.Close()
	a, err := v.call(admit.Request{Op: "verify"}, int(f.Fd()))
	if err != nil {
		return nil, nil, nil, err
	}
	rec, err := record.Decode(a.Record)
	if err != nil {
		return nil, nil, nil, image.Errorf(image.Internal, "the verifier's record: %v", err)
	}
	return rec, a.Record, a.Missing, nil
}

// receive distributes the answers to admit until the connection ends. It is
// started once, after verify.
func (v *verifier) receive() {
	for {
		var a admit.Answer
		_, err := v.conn.Recv(&a, 0)
		v.mu.Lock()
		if err != nil {
			v.err = image.Errorf(image.Internal, "the verifier gave up: %v", err)
			for _, c := range v.waiting {
				close(c)
			}
			v.waiting = map[int]chan admit.Answer{}
			v.mu.Unlock()
			return
		}
		if c := v.waiting[a.Layer]; c != nil {
			delete(v.waiting, a.Layer)
			c <- a
		}
		v.mu.Unlock()
	}
}

// admit has one layer converted and let in; several may run at once.
func (v *verifier) admit(manifest string, layer, blob int) error {
	c := make(chan admit.Answer, 1)
	v.mu.Lock()
	err := v.err
	if err == nil {
		v.waiting[layer] = c
		err = v.conn.Send(admit.Request{Op: "admit", Manifest: manifest, Layer: layer}, blob)
	}
	v.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case a, ok := <-c:
		if !ok {
			return v.err
		}
		if a.Error != nil {
			return a.Error
		}
		return nil
	case <-time.After(convert.Timeout):
		return image.Errorf(image.Internal, "converting a layer took more than %v", convert.Timeout)
	}
}
