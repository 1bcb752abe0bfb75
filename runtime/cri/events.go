package cri

import (
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventBuffer is how far a subscriber may fall behind before it is cut off: it
// then lists and subscribes again, and no event is silently missing.
const eventBuffer = 512

// broadcaster hands container events to every subscriber.
type broadcaster struct {
	mu  sync.Mutex
	sub map[chan *cri.ContainerEventResponse]struct{}
}

func (b *broadcaster) subscribe() chan *cri.ContainerEventResponse {
	ch := make(chan *cri.ContainerEventResponse, eventBuffer)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sub == nil {
		b.sub = map[chan *cri.ContainerEventResponse]struct{}{}
	}
	b.sub[ch] = struct{}{}
	return ch
}

func (b *broadcaster) unsubscribe(ch chan *cri.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sub, ch)
}

func (b *broadcaster) any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.sub) > 0
}

func (b *broadcaster) send(e *cri.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.sub {
		select {
		case ch <- e:
		default:
			delete(b.sub, ch)
			close(ch)
		}
	}
}

// event tells subscribers about a container.
func (s *Server) event(id string, t cri.ContainerEventType) {
	if !s.events.any() {
		return
	}
	if c, err := s.store.Container(id); err == nil {
		s.sendEvent(id, c.Pod, t)
	}
}

// podEvent tells subscribers about a pod; CRI calls its id a container's.
func (s *Server) podEvent(id string, t cri.ContainerEventType) {
	if s.events.any() {
		s.sendEvent(id, id, t)
	}
}

func (s *Server) sendEvent(id, pod string, t cri.ContainerEventType) {
	e := &cri.ContainerEventResponse{ContainerId: id, ContainerEventType: t, CreatedAt: time.Now().UnixNano()}
	if p, err := s.store.Pod(pod); err == nil {
		e.PodSandboxStatus = podStatus(p)
		for _, c := range s.store.Containers(p.ID) {
			e.ContainersStatuses = append(e.ContainersStatuses, s.containerStatus(c))
		}
	}
	s.events.send(e)
}

// GetContainerEvents streams events until the client goes away.
func (s *Server) GetContainerEvents(_ *cri.GetEventsRequest, out grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
	if err := s.askRead(out.Context(), "GetContainerEvents"); err != nil {
		return err
	}
	ch := s.events.subscribe()
	defer s.events.unsubscribe(ch)
	for {
		select {
		case <-out.Context().Done():
			return nil
		case e, ok := <-ch:
			if !ok {
				return status.Error(codes.ResourceExhausted, "the client reads events too slowly: list and subscribe again")
			}
			if err := out.Send(e); err != nil {
				return err
			}
		}
	}
}
