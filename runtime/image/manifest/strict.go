// Package manifest reads image manifests, indexes and configurations strictly:
// two programs that read the same bytes must not see two images. What a lenient
// reader would choose between is refused: a key that is there twice, in whatever
// case; an index that is also a manifest; a media type that contradicts the one
// it was sent with.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxSize is the most bytes of a manifest, an index or a configuration.
const MaxSize = 4 << 20

const maxDepth = 32

// mapKeys are the members whose value is a map with keys of the author's
// choice: there, keys that differ in case differ.
var mapKeys = map[string]bool{"annotations": true, "labels": true, "volumes": true, "exposedports": true, "optional": true}

// Strict decodes one JSON object into v. Unknown members are left alone, known
// ones must be spelt exactly.
func Strict(b []byte, v any) error {
	if len(b) > MaxSize {
		return fmt.Errorf("%d bytes of JSON, at most %d", len(b), MaxSize)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("decoding JSON: %w", err)
	}
	if t != json.Delim('{') {
		return errors.New("decoding JSON: not an object")
	}
	if err := object(d, false, 1); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decoding JSON: something follows the object")
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decoding JSON: %w", err)
	}
	return nil
}

// fold is the case folding that encoding/json matches members by.
func fold(s string) string { return strings.ToLower(strings.ToUpper(s)) }

// object reads the rest of an object. Unless it is a map, no two members may
// fold to one.
func object(d *json.Decoder, isMap bool, depth int) error {
	if depth > maxDepth {
		return errors.New("decoding JSON: nested too deeply")
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return fmt.Errorf("decoding JSON: %w", err)
		}
		key, _ := t.(string)
		k := key
		if !isMap {
			k = fold(key)
		}
		if seen[k] {
			return fmt.Errorf("decoding JSON: member %.80q is there twice", key)
		}
		seen[k] = true
		if err := value(d, mapKeys[fold(key)] && !isMap, depth); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func value(d *json.Decoder, isMap bool, depth int) error {
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("decoding JSON: %w", err)
	}
	switch t {
	case json.Delim('{'):
		return object(d, isMap, depth+1)
	case json.Delim('['):
		if depth++; depth > maxDepth {
			return errors.New("decoding JSON: nested too deeply")
		}
		for d.More() {
			if err := value(d, false, depth); err != nil {
				return err
			}
		}
		_, err = d.Token()
	}
	return err
}
