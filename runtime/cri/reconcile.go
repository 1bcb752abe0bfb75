package cri

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-cri/postern/privsep/wire"
	"github.com/postern-cri/postern/runtime/store"
)

// Reconcile makes what is remembered and what the privileged side has one. Exits
// that init retained must have been taken before. What is remembered and gone
// has exited with an unknown status; what is there and not remembered is the
// rest of a request whose answer nobody got, and is deleted, or it would hold
// its memory and addresses for ever.
func (s *Server) Reconcile(ctx context.Context) error {
	entries, err := s.helper.List(ctx)
	if err != nil {
		return fmt.Errorf("listing what the privileged side has: %w", err)
	}
	there := map[string]wire.Entry{}
	for _, e := range entries {
		there[e.Handle] = e
	}
	now := time.Now().UnixNano()
	for _, c := range s.store.Containers("") {
		s.applyExit(c.ID)
		c, err := s.store.Container(c.ID)
		if err != nil {
			continue
		}
		e, ok := there[c.ID]
		switch {
		case c.State == store.Exited:
		case !ok, e.State == wire.StateStopped:
			s.setExited(c.ID, now, 255, "Unknown", "the exit status was lost")
		case e.State == wire.StateRunning && c.State == store.Created:
			// The answer to the start was lost with the process before this one.
			if _, err := s.store.UpdateContainer(c.ID, func(c *store.Container) bool {
				c.State, c.Started = store.Running, now
				return true
			}); err != nil {
				return err
			}
		}
	}
	for _, p := range s.store.Pods() {
		if e, ok := there[p.ID]; p.State == store.Running && (!ok || e.State == wire.StateStopped) {
			if _, err := s.store.UpdatePod(p.ID, func(p *store.Pod) bool { p.State = store.Exited; return true }); err != nil {
				return err
			}
		}
	}
	if err := s.deleteUnknown(ctx, entries); err != nil {
		// It is tried again; it must not keep this process from serving.
		s.log.Error("deleting what nobody knows", "error", err)
		s.seekOrphans()
	}
	return nil
}

func (s *Server) deleteUnknown(ctx context.Context, entries []wire.Entry) error {
	var errs []error
	ignore := func(err error) {
		if err != nil && !isHelper(err, wire.NotFound) {
			errs = append(errs, err)
		}
	}
	for _, e := range entries {
		if c, err := s.store.Container(e.Handle); e.Kind == wire.EntryContainer && (err != nil || c.ID != e.Handle) {
			s.log.Warn("deleting a container that nobody knows", "container", e.Handle, "pod", e.Pod)
			ignore(s.discard(ctx, e))
		}
	}
	for _, e := range entries {
		if p, err := s.store.Pod(e.Handle); e.Kind == wire.EntryPod && (err != nil || p.ID != e.Handle) {
			s.log.Warn("deleting a pod that nobody knows", "pod", e.Handle)
			_, err := s.helper.PodDelete(ctx, e.Handle)
			ignore(err)
		}
	}
	return errors.Join(errs...)
}

// discard kills and deletes a container, which takes a moment to die.
func (s *Server) discard(ctx context.Context, e wire.Entry) error {
	if e.State != wire.StateStopped {
		if err := s.helper.CtrSignal(ctx, e.Handle, 9, true); err != nil && !isHelper(err, wire.NotFound) {
			return err
		}
	}
	var err error
	for range 20 {
		if err = s.helper.CtrDelete(ctx, e.Handle); err == nil || isHelper(err, wire.NotFound) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return err
}
