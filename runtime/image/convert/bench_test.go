package convert

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/postern-cri/postern/runtime/image/erofs"
)

func bench(b *testing.B, blob []byte) {
	dir := b.TempDir()
	b.SetBytes(int64(len(blob)))
	for b.Loop() {
		f, err := os.Create(filepath.Join(dir, "x"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Layer(f, bytes.NewReader(blob), DefaultLimits); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func manyFiles(b *testing.B) []byte {
	files := make([]file, 30000)
	body := strings.Repeat("some text of a small file\n", 40)
	for i := range files {
		files[i] = reg(fmt.Sprintf("usr/share/d%03d/file-%05d", i/100, i), body[:200+i%800])
	}
	return archive(b, files...)
}

func pack(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	return z.Bytes()
}

func BenchmarkManyFiles(b *testing.B) { bench(b, pack(manyFiles(b))) }

func BenchmarkTenMegabytes(b *testing.B) {
	body := make([]byte, 10<<20)
	rand.New(rand.NewSource(1)).Read(body)
	bench(b, pack(archive(b, reg("data", string(body)))))
}

func BenchmarkText(b *testing.B) {
	bench(b, pack(archive(b, reg("data", strings.Repeat("package main\nfunc main() { println(1) }\n", 1<<20)))))
}

func BenchmarkCheck(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "x"))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := Layer(f, bytes.NewReader(manyFiles(b)), DefaultLimits); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		fs, err := erofs.Open(f)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := fs.Check(1 << 20); err != nil {
			b.Fatal(err)
		}
	}
}
