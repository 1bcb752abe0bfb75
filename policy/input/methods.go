package input

import "github.com/postern-cri/postern/privsep/gate"

// methods is every CRI method with its class. The class decides what a failure
// of policy means, so it comes from this table and never from the asker.
var methods = map[string]gate.Class{
	"RunPodSandbox": gate.ClassCreate, "CreateContainer": gate.ClassCreate, "StartContainer": gate.ClassCreate,
	"Exec": gate.ClassExec, "ExecSync": gate.ClassExec, "Attach": gate.ClassExec, "PortForward": gate.ClassExec,
	"PullImage":                gate.ClassImage,
	"UpdateContainerResources": gate.ClassUpdate, "UpdatePodSandboxResources": gate.ClassUpdate,
	"UpdateRuntimeConfig": gate.ClassAdmin, "CheckpointContainer": gate.ClassAdmin,
	"CheckpointPod": gate.ClassAdmin, "RestorePod": gate.ClassAdmin,
	"StopPodSandbox": gate.ClassTeardown, "RemovePodSandbox": gate.ClassTeardown,
	"StopContainer": gate.ClassTeardown, "RemoveContainer": gate.ClassTeardown,
	"RemoveImage": gate.ClassTeardown, "ReopenContainerLog": gate.ClassTeardown,
	"Version": gate.ClassRead, "Status": gate.ClassRead, "RuntimeConfig": gate.ClassRead,
	"PodSandboxStatus": gate.ClassRead, "ListPodSandbox": gate.ClassRead, "StreamPodSandboxes": gate.ClassRead,
	"ListContainers": gate.ClassRead, "StreamContainers": gate.ClassRead, "ContainerStatus": gate.ClassRead,
	"ContainerStats": gate.ClassRead, "ListContainerStats": gate.ClassRead, "StreamContainerStats": gate.ClassRead,
	"PodSandboxStats": gate.ClassRead, "ListPodSandboxStats": gate.ClassRead, "StreamPodSandboxStats": gate.ClassRead,
	"GetContainerEvents": gate.ClassRead, "ListMetricDescriptors": gate.ClassRead,
	"ListPodSandboxMetrics": gate.ClassRead, "StreamPodSandboxMetrics": gate.ClassRead,
	"ListImages": gate.ClassRead, "StreamImages": gate.ClassRead, "ImageStatus": gate.ClassRead,
	"ImageFsInfo": gate.ClassRead,
}

// ClassOf returns the class of a CRI method; ok is false for an unknown one.
func ClassOf(method string) (class gate.Class, ok bool) {
	class, ok = methods[method]
	return class, ok
}

// Methods returns every known method.
func Methods() []string {
	out := make([]string, 0, len(methods))
	for m := range methods {
		out = append(out, m)
	}
	return out
}
