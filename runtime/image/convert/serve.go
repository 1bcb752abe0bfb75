package convert

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-cri/postern/privsep/seqpacket"
	"github.com/postern-cri/postern/runtime/ipc"
)

// Request asks for one conversion; two fds come with it: the blob to read and
// the empty file to write.
type Request struct {
	Convert bool   `json:"convert"`
	File    string `json:"file,omitempty"` // the blob is this file, and not an archive
}

// Answer is the result, or why there is none.
type Answer struct {
	Result *Result `json:"result,omitempty"`
	Error  string  `json:"error,omitempty"`
	Full   bool    `json:"full,omitempty"` // it was the disk's fault, not the layer's
}

// Timeout bounds one conversion.
const Timeout = 10 * time.Minute

// Serve converts what one verifier asks for on conn, the layers of one image one
// after another, and returns when it hangs up.
func Serve(conn *ipc.Conn) error {
	for {
		var r Request
		fds, err := conn.Recv(&r, 2)
		if errors.Is(err, seqpacket.ErrEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !r.Convert || len(fds) != 2 {
			seqpacket.CloseAll(fds)
			return fmt.Errorf("a request with %d fds, want 2", len(fds))
		}
		var a Answer
		if res, err := convertFDs(fds[0], fds[1], r.File); err != nil {
			a.Error, a.Full = err.Error(), errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
		} else {
			a.Result = &res
		}
		if len(a.Error) > 2048 {
			a.Error = a.Error[:2048]
		}
		if err := conn.Send(a); err != nil {
			return err
		}
	}
}

// convertFDs owns the fds; both are closed when it returns, so that nobody holds
// the image open for writing any more.
func convertFDs(in, out int, file string) (Result, error) {
	blob, image := os.NewFile(uintptr(in), "blob"), os.NewFile(uintptr(out), "image")
	defer blob.Close()
	defer image.Close()
	st, err := blob.Stat()
	if err != nil {
		return Result{}, fmt.Errorf("looking at a blob: %w", err)
	}
	// By offset: the fd's position is shared with whoever sent it.
	src := io.NewSectionReader(blob, 0, st.Size())
	if file != "" {
		return File(image, src, src.Size(), file, DefaultLimits)
	}
	return Layer(image, src, DefaultLimits)
}
