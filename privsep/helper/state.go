package helper

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/privsep/wire"
)

// The state files are what a fresh helper knows of the last one's work. They are
// written before an effect (Ready false) and after it, by rename. They are not
// synced: after a power loss nothing that they speak of exists any more.

// pod is one pod. op is held while its parts are changed, and the helper's mu
// while those change that a list shows: Ready, Out, Stopped.
type pod struct {
	op      sync.Mutex
	gone    bool
	leaving bool // no container may be added any more; under the helper's mu

	ID      string
	Plan    []byte // as received
	Claims  []byte
	Level   string // with categories that no other pod has
	Ready   bool
	Out     PodOut
	Stopped bool // deleted but for its network
	Tries   int
	next    time.Time
	plan    plan.PodPlan
	claims  plan.Claims
}

func (p *pod) in() PodIn { return PodIn{p.ID, &p.plan, &p.claims, p.Level} }

// ctr is one container. Its locks are as a pod's: mu for Ready, Started and Out.
type ctr struct {
	op   sync.Mutex
	gone bool

	ID      string
	Pod     string
	Plan    []byte // as received: what policy judges an exec by
	Claims  []byte
	Tight   []byte // after the obligations: what runs
	Ready   bool
	Started bool
	Out     CtrOut
	plan    plan.Plan // of Tight
	claims  plan.Claims
}

// exec is one process started in a container. It is not kept over a restart: its
// exit comes from init, by its handle.
type exec struct {
	id, ctr string
	proc    Proc
	ended   time.Time
}

func newHandle() string {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // never happens; without randomness nothing may go on
	}
	return hex.EncodeToString(b[:])
}

func (h *Helper) path(kind, id string) string {
	return filepath.Join(h.StateDir, kind, id+".json")
}

func (h *Helper) save(kind, id string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding state: %w", err)
	}
	p := h.path(kind, id)
	if err = os.WriteFile(p+".tmp", b, 0o600); err == nil {
		err = os.Rename(p+".tmp", p)
	}
	if err != nil {
		os.Remove(p + ".tmp") // of a full disk, half of it is there
		return fmt.Errorf("writing state: %w", err)
	}
	return nil
}

func (h *Helper) drop(kind, id string) {
	if err := os.Remove(h.path(kind, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Printf("removing state: %v", err)
	}
}

func (h *Helper) savePod(p *pod) error { return h.save("pod", p.ID, p) }
func (h *Helper) saveCtr(c *ctr) error { return h.save("ctr", c.ID, c) }

// load reads the state files and removes what was half made, or did not survive
// a reboot.
func (h *Helper) load() error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("reading the boot id: %w", err)
	}
	bootFile := filepath.Join(h.StateDir, "boot")
	old, err := os.ReadFile(bootFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	rebooted := string(old) != string(boot) // nothing there, or torn: the power went
	for _, kind := range []string{"pod", "ctr"} {
		if err := os.MkdirAll(filepath.Join(h.StateDir, kind), 0o700); err != nil {
			return err
		}
	}
	err = h.each("pod", func(id string, b []byte) error {
		p := &pod{}
		err := json.Unmarshal(b, p)
		if err == nil {
			p.plan, err = plan.DecodePod(p.Plan)
		}
		if err == nil {
			p.claims, err = plan.DecodeClaims(p.Claims)
		}
		if err != nil {
			p = &pod{ID: id} // the plugins know by its id what they gave it
		}
		h.pods[id] = p
		return err
	})
	if err != nil {
		return err
	}
	err = h.each("ctr", func(_ string, b []byte) error {
		c := &ctr{}
		if err := json.Unmarshal(b, c); err != nil {
			return err
		}
		if c.plan, err = plan.DecodeContainer(c.Tight); err != nil {
			return err
		}
		if c.claims, err = plan.DecodeClaims(c.Claims); err != nil {
			return err
		}
		h.ctrs[c.ID] = c
		return nil
	})
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for id, c := range h.ctrs {
		if !c.Ready || rebooted || h.pods[c.Pod] == nil {
			if err := h.Kernel.CtrDelete(id, c.Out); err != nil {
				log.Printf("removing half-made container %s: %v", id, err)
			}
			h.drop("ctr", id)
			delete(h.ctrs, id)
			continue
		}
		known[id] = true
	}
	pods := map[string]bool{}
	for id, p := range h.pods {
		if (!p.Ready || rebooted) && !p.Stopped {
			h.teardown(p)
		}
		if h.pods[id] != nil {
			pods[id] = true
		}
	}
	if err := h.Kernel.Leftovers(pods, known); err != nil || !rebooted {
		return err
	}
	// Once nothing of before is left to be taken for new; in place, which works on a full disk.
	f, err := os.OpenFile(bootFile, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(boot, 0)
	return errors.Join(err, f.Close())
}

// each reads every state file of a kind. One that cannot be read (a power loss)
// is removed: what it spoke of goes with Leftovers, and a pod by teardown.
func (h *Helper) each(kind string, use func(id string, b []byte) error) error {
	dir := filepath.Join(h.StateDir, kind)
	ents, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range ents {
		f := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(f)
		id, whole := strings.CutSuffix(e.Name(), ".json")
		if err == nil && whole {
			err = use(id, b)
		}
		if err != nil || !whole {
			log.Printf("state file %s is dropped: %v", f, err)
			os.Remove(f)
		}
	}
	return nil
}

// findPod returns the pod, locked, or an answer.
func (h *Helper) findPod(id string) (*pod, error) {
	h.mu.Lock()
	p := h.pods[id]
	h.mu.Unlock()
	if p != nil {
		p.op.Lock()
		if !p.gone {
			return p, nil
		}
		p.op.Unlock()
	}
	return nil, &answerError{fail(wire.NotFound, "no pod %s", id)}
}

// findCtr returns the container, locked, or an answer.
func (h *Helper) findCtr(id string) (*ctr, error) {
	h.mu.Lock()
	c := h.ctrs[id]
	h.mu.Unlock()
	if c != nil {
		c.op.Lock()
		if !c.gone {
			return c, nil
		}
		c.op.Unlock()
	}
	return nil, &answerError{fail(wire.NotFound, "no container %s", id)}
}

// podOf returns the plan and claims that a container's pod was made with.
func (h *Helper) podOf(c *ctr) (*pod, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.pods[c.Pod]
	return p, ok
}
