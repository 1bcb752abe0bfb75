package helper

import (
	"context"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
)

// Each function does one request and returns its name, the code that came, and
// the code that the model says. The model learns handles from the answers.

var ctx = context.Background()

// torn is what teardown of a pod makes of the model.
func (m *model) torn(id string, p *mpod, saved bool) (stopped bool) {
	if m.did("PodDelete") == wire.Failed || m.did("NetworkDelete") == wire.Failed {
		p.stopped, p.saved = true, saved
		m.pods[id] = p
		return true
	}
	delete(m.pods, id)
	return false
}

// tearing tells whether the helper dies in the middle of teardown.
func (m *model) tearing() bool { return m.did("PodDelete") == eof || m.did("NetworkDelete") == eof }

func (m *model) podCreate() (string, wire.Code, wire.Code) {
	p := smallPod(one(m.r, "u1", "u2", "u3", "u4", "u5"))
	refused := m.r.IntN(8) == 0
	if refused {
		p.Network = plan.NamespaceNode
	}
	want := m.judged(refused, false, false, false)
	if want == wire.OK {
		if len(m.pods) >= 4 {
			want = wire.Exhausted
		}
		for _, o := range m.pods {
			if want == wire.OK && o.uid == p.UID && !o.stopped {
				want = wire.Exists
			}
		}
	}
	ready := &mpod{uid: p.UID, ready: true}
	half := &mpod{uid: p.UID}
	after := func(string) {}
	if want == wire.OK {
		switch want = m.did("PodCreate"); {
		case want == eof:
			after = func(id string) { m.pods[id] = half }
		case want == wire.Failed || m.faults["PodCreate"] == unsaved:
			want = wire.Failed
			m.junk = m.junk || m.faults["PodCreate"] == unsaved
			if m.faults["PodCreate"] == unsaved {
				half.ready = true // it was, before it could not be saved
			}
			if m.tearing() {
				want = eof
				after = func(id string) { m.pods[id] = &mpod{uid: p.UID} }
				break
			}
			after = func(id string) {
				if m.torn(id, half, m.faults["PodCreate"] != unsaved) && m.faults["PodCreate"] == unsaved {
					half.ready = false // a restart finds it half made
				}
			}
		default:
			after = func(id string) { m.pods[id] = ready }
		}
	}
	m.w.begun("")
	ans, err := m.cl.PodCreate(ctx, p, plan.Claims{RequestID: "r1"})
	if id := m.w.lastID(); id != "" {
		after(id)
	}
	if err == nil && (ans.Pod != m.w.lastID() || len(ans.IPs) != 1 || ans.Cgroup == "") {
		m.t.Errorf("POD_CREATE answers %+v", ans)
	}
	return "POD_CREATE", codeOf(err), want
}

func (m *model) podDelete() (string, wire.Code, wire.Code) {
	id := pick(m.r, m.pods)
	p := m.pods[id]
	want, deferred := wire.OK, false
	switch {
	case p == nil:
		want = wire.NotFound
	case p.stopped:
		deferred = true
	default:
		for _, c := range m.ctrs {
			if c.pod == id && m.w.Alive(c.proc) {
				want = wire.Invalid
			}
		}
		if want == wire.OK {
			want = m.judged(false, true, false, false)
		}
		if want == wire.OK {
			if want = m.did("PodDelete"); want != eof {
				want = m.did("NetworkDelete")
			}
			if want != eof {
				want, deferred = wire.OK, m.torn(id, p, true)
			}
		}
	}
	got, err := m.cl.PodDelete(ctx, id)
	if err == nil && got != deferred {
		m.t.Errorf("POD_DELETE: deferred %v, the model says %v", got, deferred)
	}
	return "POD_DELETE", codeOf(err), want
}

func (m *model) podSocket() (string, wire.Code, wire.Code) {
	id, kind := pick(m.r, m.pods), one(m.r, wire.SocketTCP4, wire.SocketTCP6, wire.SocketNetDev)
	want := wire.OK
	switch p := m.pods[id]; {
	case p == nil:
		want = wire.NotFound
	case p.stopped:
		want = wire.Invalid
	default:
		if want = m.judged(false, false, kind == wire.SocketNetDev, false); want == wire.OK {
			want = m.did("PodSocket")
		}
	}
	f, err := m.cl.PodSocket(ctx, id, kind)
	if err == nil {
		f.Close()
	}
	return "POD_SOCKET", codeOf(err), want
}

func (m *model) ctrCreate() (string, wire.Code, wire.Code) {
	pod, p := pick(m.r, m.pods), smallCtr()
	refused := false
	switch m.r.IntN(8) {
	case 0:
		p.CapsBounding, refused = 1<<21, true
	case 1:
		p.Image, refused = one(m.r, stale, alien), true
	case 2:
		p.PID, p.Target = plan.NamespaceTarget, pick(m.r, m.ctrs)
	}
	c := &mctr{pod: pod, ready: true}
	want, after := wire.OK, func(string) {}
	switch o := m.pods[pod]; {
	case o == nil:
		want = wire.NotFound
	case o.stopped:
		want = wire.Invalid
	default:
		want = m.judged(refused, false, false, true)
	}
	if t := m.ctrs[p.Target]; want == wire.OK && p.Target != "" {
		if t == nil {
			want = wire.NotFound
		} else if t.pod != pod || !m.w.Alive(t.proc) {
			want = wire.Invalid
		}
	}
	if want == wire.OK && len(m.ctrs) >= 6 {
		want = wire.Exhausted
	}
	if want == wire.OK {
		fault := m.faults["CtrCreate"]
		switch want = m.did("CtrCreate"); {
		case want == eof:
			c.ready = false
			after = func(id string) { m.ctrs[id] = c }
		case want == wire.Failed || fault == unsaved:
			want = wire.Failed
			m.junk = m.junk || fault == unsaved
			c.ready = false // a restart finds it half made
			if d := m.did("CtrDelete"); d != wire.OK {
				after = func(id string) {
					if m.ctrs[id] = c; fault == unsaved {
						c.proc = m.w.procOf(id)
					}
				}
				if d == eof {
					want = eof
				}
			}
		default:
			after = func(id string) { c.proc = m.w.procOf(id); m.ctrs[id] = c }
		}
	}
	m.w.begun("")
	ans, err := m.cl.CtrCreate(ctx, pod, p, plan.Claims{RequestID: "r1"})
	if id := m.w.lastID(); id != "" {
		after(id)
	}
	if err == nil && (ans.Container != m.w.lastID() || ans.Cgroup == "" || len(ans.Notes) != 1) {
		m.t.Errorf("CTR_CREATE answers %+v", ans)
	}
	return "CTR_CREATE", codeOf(err), want
}

func (m *model) ctrStart() (string, wire.Code, wire.Code) {
	id := pick(m.r, m.ctrs)
	c := m.ctrs[id]
	want := wire.NotFound
	if c != nil {
		if want = m.judged(false, false, false, false); want == wire.OK {
			switch {
			case !c.ready:
				want = wire.Invalid
			case c.started:
				want = wire.Exists
			case !m.w.Alive(c.proc):
				want = wire.Failed
			default:
				if want = m.did("CtrStart"); want == wire.OK {
					c.started, c.savedStarted = true, m.faults["CtrStart"] != unsaved
					if !c.savedStarted {
						want = wire.Failed
					}
				}
			}
		}
	}
	return "CTR_START", codeOf(m.cl.CtrStart(ctx, id)), want
}

func (m *model) ctrSignal() (string, wire.Code, wire.Code) {
	id, signal, all := pick(m.r, m.ctrs), one(m.r, uint8(15), 9), m.r.IntN(2) == 0
	if m.r.IntN(3) == 0 {
		id = pick(m.r, m.execs)
	}
	if all {
		signal = 9
	}
	want := wire.NotFound
	if m.ctrs[id] != nil || m.execs[id] != nil {
		if want = m.judged(false, true, false, false); want == wire.OK {
			if all && m.execs[id] == nil {
				want = m.did("KillAll")
			} else {
				want = m.did("Signal")
			}
		}
	}
	return "CTR_SIGNAL", codeOf(m.cl.CtrSignal(ctx, id, signal, all)), want
}

func (m *model) ctrExec() (string, wire.Code, wire.Code) {
	id := pick(m.r, m.ctrs)
	c, e := m.ctrs[id], plan.ExecPlan{Args: []string{"ls"}, Stdout: true, Sync: m.r.IntN(2) == 0}
	refused := m.r.IntN(8) == 0
	if refused {
		e.Args = nil
	}
	want := wire.OK
	switch {
	case c == nil:
		want = wire.NotFound
	case !c.started || !m.w.Alive(c.proc):
		want = wire.Exists
	default:
		if want = m.judged(refused, false, false, false); want == wire.OK {
			want = m.did("Exec")
		}
	}
	ans, files, err := m.cl.CtrExec(ctx, id, e, plan.Claims{RequestID: "r1"})
	if err == nil {
		m.execs[ans.Exec] = &mexec{id, m.w.lastProc()}
		if len(files) != 1 {
			m.t.Errorf("CTR_EXEC with %d files", len(files))
		}
		files[0].Close()
	}
	return "CTR_EXEC", codeOf(err), want
}

func (m *model) ctrUpdate() (string, wire.Code, wire.Code) {
	id, res := pick(m.r, m.ctrs), plan.Resources{Memory: 1 << 20}
	refused := m.r.IntN(8) == 0
	if refused {
		res.PIDs = 1 << 40
	}
	want := wire.NotFound
	if m.ctrs[id] != nil {
		if want = m.judged(refused, false, false, false); want == wire.OK {
			if want = m.did("CtrUpdate"); !m.w.there(id) {
				want = wire.Failed
			}
		}
	}
	return "CTR_UPDATE", codeOf(m.cl.CtrUpdate(ctx, id, res)), want
}

func (m *model) ctrDelete() (string, wire.Code, wire.Code) {
	id := pick(m.r, m.ctrs)
	c := m.ctrs[id]
	want := wire.OK
	if c != nil {
		if want = m.judged(false, true, false, false); want == wire.OK {
			if c.started && m.w.Alive(c.proc) {
				want = wire.Invalid
			} else if want = m.did("CtrDelete"); want == wire.OK {
				delete(m.ctrs, id)
				for x, e := range m.execs {
					if e.ctr == id {
						delete(m.execs, x)
					}
				}
			}
		}
	}
	return "CTR_DELETE", codeOf(m.cl.CtrDelete(ctx, id)), want
}

func (m *model) ctrUsage() (string, wire.Code, wire.Code) {
	id := pick(m.r, m.ctrs)
	want := wire.NotFound
	if m.ctrs[id] != nil {
		if want = wire.OK; !m.w.there(id) {
			want = wire.Failed
		}
	}
	u, err := m.cl.CtrUsage(ctx, id)
	if err == nil && (u.Bytes != 1 || u.Inodes != 2) {
		m.t.Errorf("CTR_USAGE answers %+v", u)
	}
	return "CTR_USAGE", codeOf(err), want
}

func (m *model) logReopen() (string, wire.Code, wire.Code) {
	id := pick(m.r, m.ctrs)
	want := wire.NotFound
	if m.ctrs[id] != nil { // none of them has a log
		if want = m.judged(false, true, false, false); want == wire.OK {
			want = wire.Invalid
		}
	}
	return "LOG_REOPEN", codeOf(m.cl.LogReopen(ctx, id)), want
}

// die is a container's process that ends by itself.
func (m *model) die() (string, wire.Code, wire.Code) {
	if c := m.ctrs[pick(m.r, m.ctrs)]; c != nil {
		m.w.mu.Lock()
		delete(m.w.procs, c.proc)
		m.w.mu.Unlock()
	}
	return "an exit", wire.OK, wire.OK
}
