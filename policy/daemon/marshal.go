package daemon

import (
	"bytes"
	"encoding/json"
)

// marshal is json.Marshal without HTML escapes, so that the document within is
// the bytes that were hashed.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
