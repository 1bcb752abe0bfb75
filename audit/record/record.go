// Package record is the schema of an audit record, postern.audit/v1: what the
// processes commit, what postern-auditd adds, and the limits of both. The schema
// only grows: a reader ignores what it does not know.
package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Schema names this version in every record.
const Schema = "postern.audit/v1"

// Limits.
const (
	MaxRecord = 64 << 10 // bytes of one record as it is committed
	MaxString = 2 << 10  // bytes of one string; longer ones are cut and listed
	maxStamp  = 1 << 10  // bytes that auditd adds to it
	maxDepth  = 32
)

// Record is one record. Seq to Prev are auditd's and are set by it alone;
// everything else is what the committing process said.
type Record struct {
	Schema string `json:"schema"`
	Seq    uint64 `json:"seq"`
	Time   string `json:"time"` // RFC 3339, UTC, nanoseconds; order by seq, not by time
	BootID string `json:"boot_id"`
	Writer string `json:"writer"` // role of the committer, by its uid
	Stage  string `json:"stage"`  // decision, complete, event, input
	Prev   string `json:"prev"`   // hash of the record before, hex

	Kind       string          `json:"kind,omitempty"` // cri, policy, image, helper, system, audit.*
	Severity   string          `json:"severity,omitempty"`
	Method     string          `json:"method,omitempty"`
	Class      string          `json:"class,omitempty"`
	Request    *Request        `json:"request,omitempty"`
	Caller     *Caller         `json:"caller,omitempty"`
	Pod        *Pod            `json:"pod,omitempty"`
	Container  *Container      `json:"container,omitempty"`
	Image      *Image          `json:"image,omitempty"`
	Decision   *Decision       `json:"decision,omitempty"`
	PlanSHA256 string          `json:"plan_sha256,omitempty"`
	Exec       *Exec           `json:"exec,omitempty"`
	Result     *Result         `json:"result,omitempty"`
	Count      uint64          `json:"count,omitempty"`        // requests that this record stands for (aggregated reads)
	Input      json.RawMessage `json:"input,omitempty"`        // stage input: the redacted policy input
	InputHash  string          `json:"input_sha256,omitempty"` // of it
	Redactions []string        `json:"redactions,omitempty"`   // JSON pointers
	Truncated  []Truncated     `json:"truncated,omitempty"`
	Ext        json.RawMessage `json:"ext,omitempty"`
}

// Request identifies the CRI request; the same id stands in all its records.
type Request struct {
	ID         string `json:"id,omitempty"`
	DeadlineMS int64  `json:"deadline_ms,omitempty"`
}

// Caller is the peer of the CRI socket, by SO_PEERCRED.
type Caller struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid,omitempty"`
	PID int32  `json:"pid,omitempty"`
}

// Pod, Container and Image are what the request is about. Names are claims of
// the front end; ids and digests are the privileged side's own.
type Pod struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
	ID        string `json:"id,omitempty"`
}

// Container names a container.
type Container struct {
	Name    string `json:"name,omitempty"`
	ID      string `json:"id,omitempty"`
	Attempt uint32 `json:"attempt,omitempty"`
}

// Image names an image.
type Image struct {
	Ref    string `json:"ref,omitempty"`
	Digest string `json:"digest,omitempty"`
}

// Decision is policy's answer.
type Decision struct {
	ID          string `json:"id,omitempty"`
	Allow       bool   `json:"allow"`
	Rule        string `json:"rule,omitempty"`
	Message     string `json:"message,omitempty"`
	Field       string `json:"field,omitempty"`
	Revision    string `json:"revision,omitempty"`
	InputSHA256 string `json:"input_sha256,omitempty"`
	Error       string `json:"error,omitempty"` // no answer: the class rule decided
}

// Exec is a command run in a container.
type Exec struct {
	Argv     []string `json:"argv,omitempty"`
	TTY      bool     `json:"tty,omitempty"`
	ExitCode *int32   `json:"exit_code,omitempty"`
}

// Result is how it went.
type Result struct {
	Code       string `json:"code,omitempty"`
	Message    string `json:"message,omitempty"`
	DurationUS int64  `json:"duration_us,omitempty"`
}

// Truncated is a string that was cut.
type Truncated struct {
	Pointer string `json:"pointer"`
	Bytes   int    `json:"bytes"` // it had
}

// Stamp is what auditd adds.
type Stamp struct {
	Seq                               uint64
	Time, BootID, Writer, Stage, Prev string
}

// Parse reads a committed payload, one JSON object, as a generic value: fields
// that this version does not know are kept, and "input" stays the bytes that it
// was (a json.RawMessage). Duplicate keys, which two readers
// would read differently, are refused.
func Parse(payload []byte) (map[string]any, error) {
	if len(payload) > MaxRecord {
		return nil, fmt.Errorf("record of %d bytes, at most %d", len(payload), MaxRecord)
	}
	if !utf8.Valid(payload) {
		return nil, errors.New("record is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	v, err := value(d, 0)
	if err != nil {
		return nil, fmt.Errorf("reading a record: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading a record: bytes after the object")
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("reading a record: not a JSON object")
	}
	if _, ok := m["input"]; ok {
		// Its hash is over its very bytes: replay needs them as they are.
		var raw map[string]json.RawMessage
		if err := json.Unmarshal(payload, &raw); err != nil {
			return nil, fmt.Errorf("reading a record: %w", err)
		}
		m["input"] = raw["input"]
	}
	return m, nil
}

func value(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deep")
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		m := map[string]any{}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			key, _ := k.(string)
			if _, dup := m[key]; dup {
				return nil, fmt.Errorf("duplicate key %q", key)
			}
			if m[key], err = value(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return m, err
	case json.Delim('['):
		l := []any{}
		for d.More() {
			v, err := value(d, depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		_, err = d.Token()
		return l, err
	}
	return t, nil
}

// Cut shortens every string of m beyond MaxString bytes, on a rune boundary, and
// lists what it cut under "truncated".
func Cut(m map[string]any) {
	var cut []any
	for k, v := range m {
		if k != "truncated" {
			m[k] = shorten(v, "/"+pointer(k), &cut)
		}
	}
	if len(cut) > 0 {
		old, _ := m["truncated"].([]any)
		m["truncated"] = append(old, cut...)
	}
}

func shorten(v any, at string, cut *[]any) any {
	switch v := v.(type) {
	case string:
		if len(v) <= MaxString {
			return v
		}
		n := MaxString
		for n > 0 && !utf8.RuneStart(v[n]) {
			n--
		}
		*cut = append(*cut, map[string]any{"pointer": at, "bytes": json.Number(strconv.Itoa(len(v)))})
		return v[:n]
	case map[string]any:
		for k := range v {
			v[k] = shorten(v[k], at+"/"+pointer(k), cut)
		}
	case []any:
		for i := range v {
			v[i] = shorten(v[i], at+"/"+strconv.Itoa(i), cut)
		}
	}
	return v
}

func pointer(k string) string {
	return strings.ReplaceAll(strings.ReplaceAll(k, "~", "~0"), "/", "~1")
}

// Stamped encodes m with auditd's fields, whatever m itself says in their places.
func Stamped(m map[string]any, s Stamp) ([]byte, error) {
	m["schema"], m["seq"] = Schema, json.Number(strconv.FormatUint(s.Seq, 10))
	m["time"], m["boot_id"], m["writer"], m["stage"], m["prev"] = s.Time, s.BootID, s.Writer, s.Stage, s.Prev
	b, err := Canonical(m)
	if err != nil {
		return nil, err
	}
	if len(b) > MaxRecord+maxStamp {
		// Redaction made it longer, or escapes did. The big free-form parts go: the record itself may not fail.
		for _, k := range []string{"input", "ext", "redactions", "exec"} {
			if v, ok := m[k]; ok {
				was, _ := Canonical(v)
				delete(m, k)
				old, _ := m["truncated"].([]any)
				m["truncated"] = append(old, map[string]any{"pointer": "/" + k, "bytes": len(was)})
				return Stamped(m, s)
			}
		}
		return nil, fmt.Errorf("record of %d bytes with its stamp, at most %d", len(b), MaxRecord+maxStamp)
	}
	return b, nil
}

// Canonical encodes v with sorted keys, without white space and without HTML
// escapes; numbers stay as they were written.
func Canonical(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding a record: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Decode reads an encoded record; unknown fields are ignored.
func Decode(b []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("reading a record: %w", err)
	}
	return r, nil
}
