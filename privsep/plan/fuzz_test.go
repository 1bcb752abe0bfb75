package plan

import (
	"bytes"
	"testing"
)

// What decodes encodes to the very same bytes: there is one encoding of a plan,
// so its hash names it, and nothing hides in bytes that the decoder skips.
func fuzzCanonical(f *testing.F, name string) {
	var c codec
	for _, k := range codecs {
		if k.name == name {
			c = k
		}
	}
	_, b := filled(f, c)
	f.Add(b)
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	small := c.fresh()
	if b, err := c.encode(small); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := c.decode(b)
		if err != nil {
			return
		}
		again, err := c.encode(v)
		if err != nil {
			t.Fatalf("decoded, but does not encode: %v\n%+v", err, v)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("two encodings of one %s:\n%x\n%x", name, b, again)
		}
	})
}

func FuzzDecodePod(f *testing.F)       { fuzzCanonical(f, "pod") }
func FuzzDecodeContainer(f *testing.F) { fuzzCanonical(f, "container") }
func FuzzDecodeExec(f *testing.F)      { fuzzCanonical(f, "exec") }
func FuzzDecodeResources(f *testing.F) { fuzzCanonical(f, "resources") }
func FuzzDecodeClaims(f *testing.F)    { fuzzCanonical(f, "claims") }
