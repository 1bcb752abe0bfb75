package convert

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// header is a tar header as its author writes it, true or not.
func header(name string, kind byte, size int64) []byte {
	var h [512]byte
	copy(h[:], name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x0014000000000\x00", size))
	copy(h[148:], "        ")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	if kind == tar.TypeGNUSparse {
		copy(h[257:], "ustar  \x00")
	}
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h[:]
}

// pad fills up to a block.
func pad(b []byte) []byte { return append(b, make([]byte, (512-len(b)%512)%512)...) }

// endless is what a registry can send without having it.
type endless struct{ b byte }

func (e endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = e.b
	}
	return len(b), nil
}

// TestPeak: layers that are made to fill the memory of who reads them are refused
// without it (CVE-2017-14992, CVE-2025-58183, and what zstd and PAX can announce).
func TestPeak(t *testing.T) {
	record := func(k, v string) string {
		n := len(k) + len(v) + 3
		for n != len(fmt.Sprint(n))+len(k)+len(v)+3 {
			n = len(fmt.Sprint(n)) + len(k) + len(v) + 3
		}
		return fmt.Sprintf("%d %s=%s\n", n, k, v)
	}
	sparse := record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.name", "a") + record("GNU.sparse.realsize", "9999999999")
	pax := func(records string) []byte {
		return append(header("PaxHeaders/a", tar.TypeXHeader, int64(len(records))), pad([]byte(records))...)
	}
	var window bytes.Buffer
	enc, _ := zstd.NewWriter(&window, zstd.WithWindowSize(1<<29), zstd.WithEncoderConcurrency(1))
	io.CopyN(enc, endless{0}, 1<<20)
	enc.Flush()
	large := append([]byte(nil), window.Bytes()...)
	var million strings.Builder
	for k := range 1 << 20 {
		fmt.Fprintf(&million, "%d\n1\n", 2*k)
	}
	plain := Limits{Entries: 1000, Bytes: 1 << 30, Blob: 1 << 30, Trailer: 1 << 20}
	for name, blob := range map[string]io.Reader{
		"zeros behind the end":         io.MultiReader(bytes.NewReader(archive(t, reg("a", "b"))), endless{0}),
		"letters behind the end":       io.MultiReader(bytes.NewReader(archive(t, reg("a", "b"))), endless{'x'}),
		"PAX record of 1 GiB":          io.MultiReader(bytes.NewReader(header("PaxHeaders/a", tar.TypeXHeader, 1<<30)), endless{'1'}),
		"GNU long name of 1 GiB":       io.MultiReader(bytes.NewReader(header("././@LongLink", tar.TypeGNULongName, 1<<30)), endless{'n'}),
		"GNU sparse 1.0, endless map":  io.MultiReader(bytes.NewReader(append(pax(sparse), append(header("a", tar.TypeReg, 1<<33), "99999999999\n"...)...)), endless{'1'}),
		"GNU sparse 1.0, a large map":  io.MultiReader(bytes.NewReader(append(pax(sparse), header("a", tar.TypeReg, 1<<33)...)), strings.NewReader("1048576\n"+million.String())),
		"GNU sparse, old":              io.MultiReader(bytes.NewReader(header("a", tar.TypeGNUSparse, 1<<33)), endless{0}),
		"zstd window beyond the limit": bytes.NewReader(large),
		"names without end":            &names{},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := os.Create(filepath.Join(t.TempDir(), "x"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			stop, peak := make(chan struct{}), make(chan uint64)
			runtime.GC()
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			go func() {
				var top uint64
				for {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					top = max(top, m.HeapInuse)
					select {
					case <-stop:
						peak <- top
						return
					case <-time.After(5 * time.Millisecond):
					}
				}
			}()
			res, err := Layer(out, blob, plain)
			close(stop)
			grown := int64(<-peak) - int64(before.HeapInuse)
			if err == nil {
				t.Errorf("converted: %+v", res)
			}
			if grown > 200<<20 {
				t.Errorf("%d MiB of memory for it", grown>>20)
			}
			t.Logf("%d MiB: %.200v", grown>>20, err)
		})
	}
}

// names is an archive of ever more names.
type names struct {
	n    int
	left []byte
}

func (r *names) Read(b []byte) (int, error) {
	if len(r.left) == 0 {
		r.n++
		r.left = header(fmt.Sprint("name", r.n), tar.TypeReg, 0)
	}
	n := copy(b, r.left)
	r.left = r.left[n:]
	return n, nil
}
