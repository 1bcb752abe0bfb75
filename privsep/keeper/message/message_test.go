package message

import (
	"reflect"
	"strings"
	"testing"
)

var key = strings.Repeat("a0", 32)

// FuzzDecode: what decodes encodes to the same bytes, so nothing is said twice.
func FuzzDecode(f *testing.F) {
	for _, r := range []Request{{Op: End}, {Op: Watch, Key: key, PID: 7, Since: 9}, {Op: Forget, Key: key},
		{Op: Store, Key: key, Meta: []byte("{}")}, {Op: Drop, Key: key, Index: 3}} {
		b, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil || got.Op != r.Op || got.Key != r.Key || got.PID != r.PID || string(got.Meta) != string(r.Meta) {
			f.Fatalf("%+v came back as %+v: %v", r, got, err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		if again, err := r.Encode(); err != nil || string(again) != string(b) {
			t.Errorf("%x came back as %x: %v", b, again, err)
		}
	})
}

func TestRefused(t *testing.T) {
	for _, r := range []Request{{Op: 6, Key: key}, {Op: Watch, Key: key}, {Op: Watch, Key: key, PID: 1}, {Op: Watch, Key: "x", PID: 5},
		{Op: Forget, Key: key, PID: 4}, {Op: Drop, Key: key, Index: MaxFDs}, {Op: Store, Key: key, Meta: make([]byte, MaxMeta+1)},
		{Op: Forget, Key: strings.ToUpper(key)}, {Op: Watch, Key: key, PID: 5, Since: -1}, {Op: End, Key: key}} {
		if _, err := r.Encode(); err == nil {
			t.Errorf("%+v was encoded", r)
		}
	}
}

func TestExit(t *testing.T) {
	e := Exit{Key: key, Code: 137, Signal: 9, Time: 1 << 40}
	if got, err := DecodeExit(e.Encode()); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := DecodeExit(Exit{}.Encode()); err != nil || got.Key != "" {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := DecodeExit(make([]byte, 3)); err == nil {
		t.Error("a short exit was decoded")
	}
}
