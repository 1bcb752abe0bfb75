package cri

import (
	"encoding/json"
	"os"

	"github.com/postern-cri/postern/privsep/plan"
	"github.com/postern-cri/postern/runtime/container"
	"github.com/postern-cri/postern/runtime/store"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func podState(p *store.Pod) cri.PodSandboxState {
	if p.State == store.Running {
		return cri.PodSandboxState_SANDBOX_READY
	}
	return cri.PodSandboxState_SANDBOX_NOTREADY
}

func containerState(c *store.Container) cri.ContainerState {
	switch c.State {
	case store.Created:
		return cri.ContainerState_CONTAINER_CREATED
	case store.Running:
		return cri.ContainerState_CONTAINER_RUNNING
	case store.Exited:
		return cri.ContainerState_CONTAINER_EXITED
	}
	return cri.ContainerState_CONTAINER_UNKNOWN
}

func podMetadata(p *store.Pod) *cri.PodSandboxMetadata {
	return &cri.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: p.UID, Attempt: p.Attempt}
}

func namespaceMode(m plan.NamespaceMode) cri.NamespaceMode {
	switch m {
	case plan.NamespaceContainer:
		return cri.NamespaceMode_CONTAINER
	case plan.NamespaceNode:
		return cri.NamespaceMode_NODE
	case plan.NamespaceTarget:
		return cri.NamespaceMode_TARGET
	}
	return cri.NamespaceMode_POD
}

func podStatus(p *store.Pod) *cri.PodSandboxStatus {
	o := &cri.NamespaceOption{Network: namespaceMode(p.Network), Pid: namespaceMode(p.PID), Ipc: namespaceMode(p.IPC)}
	if p.UserNS {
		o.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: idMaps(p.UIDs), Gids: idMaps(p.GIDs)}
	}
	st := &cri.PodSandboxStatus{
		Id: p.ID, Metadata: podMetadata(p), State: podState(p), CreatedAt: p.Created, RuntimeHandler: p.Handler,
		Labels: p.Labels, Annotations: p.Annotations, Network: &cri.PodSandboxNetworkStatus{},
		Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: o}},
	}
	if p.State == store.Running {
		for i, ip := range p.IPs {
			if i == 0 {
				st.Network.Ip = ip
			} else {
				st.Network.AdditionalIps = append(st.Network.AdditionalIps, &cri.PodIP{Ip: ip})
			}
		}
	}
	return st
}

func idMapsIf(on uint8, in []plan.IDMap) []*cri.IDMapping {
	if on == 0 {
		return nil
	}
	return idMaps(in)
}

func idMaps(in []plan.IDMap) []*cri.IDMapping {
	var out []*cri.IDMapping
	for _, m := range in {
		out = append(out, &cri.IDMapping{HostId: m.Host, ContainerId: m.Container, Length: m.Length})
	}
	return out
}

// imageSpec names the image as people do. The kubelet asks for it by its id, and
// shows as a container's image what it finds here.
func imageSpec(c *store.Container) *cri.ImageSpec {
	name := c.Image
	if name == c.ImageID {
		name = c.UserImage
	}
	return &cri.ImageSpec{Image: name, UserSpecifiedImage: c.UserImage}
}

func (s *Server) containerStatus(c *store.Container) *cri.ContainerStatus {
	st := &cri.ContainerStatus{
		Id: c.ID, Metadata: &cri.ContainerMetadata{Name: c.Name, Attempt: c.Attempt}, State: containerState(c),
		CreatedAt: c.Created, StartedAt: c.Started, FinishedAt: c.Finished, ExitCode: c.ExitCode,
		Image: imageSpec(c), ImageRef: c.ImageRef, ImageId: c.ImageID, Reason: c.Reason, Message: c.Message,
		Labels: c.Labels, Annotations: c.Annotations, LogPath: c.LogPath,
		Resources:  &cri.ContainerResources{Linux: linuxResources(c.Resources)},
		StopSignal: stopSignal(c.StopSignal),
	}
	groups := make([]int64, len(c.User.Groups))
	for i, g := range c.User.Groups {
		groups[i] = int64(g)
	}
	st.User = &cri.ContainerUser{Linux: &cri.LinuxContainerUser{Uid: int64(c.User.UID), Gid: int64(c.User.GID), SupplementalGroups: groups}}
	for _, m := range c.Mounts {
		o := &cri.Mount{
			ContainerPath: m.To, HostPath: m.Host, Readonly: m.ReadOnly, RecursiveReadOnly: m.Recursive, SelinuxRelabel: m.Relabel,
			Propagation: cri.MountPropagation(m.Propagation), ImageSubPath: m.SubPath, MountOptions: m.Options,
		}
		if m.Image != "" {
			o.Image = &cri.ImageSpec{Image: m.Image, UserSpecifiedImage: m.UserImage, ImageRef: m.ImageRef}
		}
		if m.IDMapped != 0 {
			if p, err := s.store.Pod(c.Pod); err == nil {
				o.UidMappings, o.GidMappings = idMapsIf(m.IDMapped&store.MapsUIDs, p.UIDs), idMapsIf(m.IDMapped&store.MapsGIDs, p.GIDs)
			}
		}
		st.Mounts = append(st.Mounts, o)
	}
	return st
}

func stopSignal(n uint8) cri.Signal {
	if n == 0 {
		n = 15
	}
	return container.SignalEnum(n)
}

func linuxResources(r *plan.Resources) *cri.LinuxContainerResources {
	if r == nil {
		return nil
	}
	o := &cri.LinuxContainerResources{
		CpuPeriod: int64(r.CPUPeriod), CpuQuota: r.CPUQuota, CpuShares: int64(r.CPUShares), MemoryLimitInBytes: r.Memory,
		MemorySwapLimitInBytes: r.MemorySwap, OomScoreAdj: int64(r.OOMScoreAdj), CpusetCpus: r.CPUSetCPUs, CpusetMems: r.CPUSetMems,
	}
	for _, h := range r.Hugepages {
		o.HugepageLimits = append(o.HugepageLimits, &cri.HugepageLimit{PageSize: h.PageSize, Limit: h.Bytes})
	}
	for _, u := range r.Unified {
		if o.Unified == nil {
			o.Unified = map[string]string{}
		}
		o.Unified[u.Key] = u.Value
	}
	return o
}

// mergeResources puts an update over what holds: in CRI a zero means unchanged.
func mergeResources(old *plan.Resources, n plan.Resources) plan.Resources {
	if old == nil {
		return n
	}
	r := *old
	set(&r.CPUShares, n.CPUShares)
	set(&r.CPUQuota, n.CPUQuota)
	set(&r.CPUPeriod, n.CPUPeriod)
	set(&r.CPUSetCPUs, n.CPUSetCPUs)
	set(&r.CPUSetMems, n.CPUSetMems)
	set(&r.Memory, n.Memory)
	set(&r.MemorySwap, n.MemorySwap)
	set(&r.OOMScoreAdj, n.OOMScoreAdj)
	set(&r.PIDs, n.PIDs)
	set(&r.OOMScoreAdj, n.OOMScoreAdj)
	if n.Hugepages != nil {
		r.Hugepages = n.Hugepages
	}
	if n.Unified != nil {
		r.Unified = n.Unified
	}
	return r
}

func set[T comparable](at *T, v T) {
	var zero T
	if v != zero {
		*at = v
	}
}

func hostnameOf(p *store.Pod) string {
	if p.Hostname != "" {
		return p.Hostname
	}
	h, _ := os.Hostname()
	return h
}

// info is the verbose part of an answer: one JSON object under "info".
func info(m map[string]any) map[string]string {
	b, err := json.Marshal(m)
	if err != nil {
		return nil
	}
	return map[string]string{"info": string(b)}
}
