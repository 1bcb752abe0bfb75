package wire

import "fmt"

// Header opens every message.
type Header struct {
	Verb     Verb
	Version  uint16
	Sequence uint64
}

// HeaderSize is the bytes of a header.
const HeaderSize = 12

const (
	maxHandle = 64
	maxText   = 1 << 10
	maxName   = 253
)

func (h *Header) code(c *Coder) {
	v := uint16(h.Verb)
	c.U16(&v)
	h.Verb = Verb(v)
	c.U16(&h.Version)
	c.U64(&h.Sequence)
}

// Message is a body that can be coded in both directions.
type Message interface{ code(*Coder) }

// Encode returns the datagram of m.
func Encode(verb Verb, sequence uint64, m Message) ([]byte, error) {
	c := NewEncoder()
	h := Header{verb, Version, sequence}
	h.code(c)
	m.code(c)
	b, err := c.Encoded()
	if err != nil {
		return nil, fmt.Errorf("encoding message %d: %w", verb, err)
	}
	return b, nil
}

// DecodeHeader reads the header of a datagram and returns its body.
func DecodeHeader(b []byte) (Header, []byte, error) {
	var h Header
	c := NewDecoder(b)
	h.code(c)
	if c.err == nil && h.Version != Version {
		c.Fail("version %d, want %d", h.Version, Version)
	}
	if c.err != nil {
		return h, nil, fmt.Errorf("decoding a header: %w", c.err)
	}
	return h, c.b, nil
}

// Decode reads a body into m.
func Decode(body []byte, m Message) error {
	c := NewDecoder(body)
	m.code(c)
	return c.Finish()
}

// handle is 64 hex digits or, where empty is true, nothing.
func (c *Coder) handle(v *string, empty bool) {
	c.Str(v, maxHandle)
	if c.err != nil || (empty && *v == "") {
		return
	}
	if len(*v) != maxHandle {
		c.Fail("a handle of %d bytes", len(*v))
		return
	}
	for i := range len(*v) {
		if d := (*v)[i]; (d < '0' || d > '9') && (d < 'a' || d > 'f') {
			c.Fail("a handle with the byte %q", d)
			return
		}
	}
}

func (d *Denial) code(c *Coder) {
	for _, s := range []*string{&d.By, &d.Rule, &d.Message, &d.Field, &d.Remedy, &d.DecisionID, &d.Revision} {
		c.Str(s, maxText)
	}
	c.U16(&d.More)
}

func (a *Answer) code(c *Coder) {
	v := uint16(a.Code)
	c.U16(&v)
	if v > uint16(Failed) {
		c.Fail("answer code %d", v)
	}
	a.Code = Code(v)
	c.Str(&a.Message, maxText)
	a.Denial.code(c)
}

// Outcome returns the part that every answer has.
func (a *Answer) Outcome() *Answer { return a }

func (m *HelloRequest) code(c *Coder) { c.U16(&m.Version) }

func (m *HelloAnswer) code(c *Coder) {
	m.Answer.code(c)
	c.U16(&m.Version)
	c.Str(&m.Profile, maxName)
	c.U8(&m.CgroupVersion)
	c.U64(&m.Features)
	c.U64(&m.Generation)
}

func (m *PodCreateRequest) code(*Coder) {}

func (m *PodCreateAnswer) code(c *Coder) {
	m.Answer.code(c)
	c.handle(&m.Pod, true)
	c.Strs(&m.IPs, 16, 64)
	c.Str(&m.Cgroup, maxText)
}

func (m *PodDeleteRequest) code(c *Coder) { c.handle(&m.Pod, false) }

func (m *PodDeleteAnswer) code(c *Coder) {
	m.Answer.code(c)
	c.Bool(&m.Deferred)
}

func (m *PodSocketRequest) code(c *Coder) {
	c.handle(&m.Pod, false)
	Enum(c, &m.Kind, SocketTCP4, SocketNetDev)
}

func (m *CtrCreateRequest) code(c *Coder) { c.handle(&m.Pod, false) }

func (m *CtrCreateAnswer) code(c *Coder) {
	m.Answer.code(c)
	c.handle(&m.Container, true)
	c.Str(&m.Cgroup, maxText)
	c.Strs(&m.Notes, 64, maxText)
}

func (m *CtrStartRequest) code(c *Coder) { c.handle(&m.Container, false) }

func (m *CtrSignalRequest) code(c *Coder) {
	c.handle(&m.Target, false)
	c.U8(&m.Signal)
	if c.decoding && (m.Signal == 0 || m.Signal > 64) {
		c.Fail("signal %d", m.Signal)
	}
	c.Bool(&m.All)
}

func (m *CtrExecRequest) code(c *Coder) { c.handle(&m.Container, false) }

func (m *CtrExecAnswer) code(c *Coder) {
	m.Answer.code(c)
	c.handle(&m.Exec, true)
}

func (m *CtrUpdateRequest) code(c *Coder) {
	c.handle(&m.Container, false)
	c.Bytes(&m.Resources, MaxRequest)
}

func (m *CtrDeleteRequest) code(c *Coder) { c.handle(&m.Container, false) }

func (m *CtrUsageRequest) code(c *Coder) { c.handle(&m.Container, false) }

func (m *CtrUsageAnswer) code(c *Coder) {
	m.Answer.code(c)
	c.U64(&m.Bytes)
	c.U64(&m.Inodes)
}

func (m *LogReopenRequest) code(c *Coder) { c.handle(&m.Container, false) }

func (m *ListRequest) code(c *Coder) { c.handle(&m.After, true) }

func (m *ListAnswer) code(c *Coder) {
	m.Answer.code(c)
	ListOf(c, &m.Entries, 512, 8, func(e *Entry) { e.code(c) })
	c.Bool(&m.More)
}

func (e *Entry) code(c *Coder) {
	Enum(c, &e.Kind, EntryPod, EntryExec)
	c.handle(&e.Handle, false)
	c.handle(&e.Pod, true)
	Enum(c, &e.State, StateReady, StateStopped)
	c.Str(&e.Cgroup, maxText)
}
