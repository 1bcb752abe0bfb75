package keeper

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// hungUp is a channel whose other end is gone.
type hungUp struct{}

func (hungUp) Send([]byte, ...int) error       { return nil }
func (hungUp) Recv([]byte) (int, []int, error) { return 0, nil, os.ErrClosed }
func (hungUp) SetDeadline(time.Time) error     { return nil }

// Who holds a broken channel is told once, and gets an error ever after.
func TestBroken(t *testing.T) {
	c, told := NewClient(hungUp{}), 0
	c.Broken = func(error) { told++ }
	for range 3 {
		if err := c.Forget(strings.Repeat("0", 64)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("error %v", err)
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}
