package cri

import "github.com/postern-cri/postern/privsep/gate"

// where says who asks policy about a method.
type where uint8

const (
	here    where = iota + 1 // this package, first thing in the handler
	helper                   // the privileged side, with the bytes that will run
	fetcher                  // the process that pulls, before and after it knows the image
)

// rule is how one method is decided.
type rule struct {
	class gate.Class
	where where
}

// rules is every method of both CRI services. A method that is not in it is
// answered Unimplemented by gRPC before any code of ours runs.
var rules = map[string]rule{
	"RunPodSandbox":            {gate.ClassCreate, helper},
	"CreateContainer":          {gate.ClassCreate, helper},
	"StartContainer":           {gate.ClassCreate, helper},
	"ExecSync":                 {gate.ClassExec, helper},
	"Exec":                     {gate.ClassExec, helper}, // when its client arrives
	"PortForward":              {gate.ClassExec, helper}, // likewise
	"UpdateContainerResources": {gate.ClassUpdate, helper},
	"StopContainer":            {gate.ClassTeardown, helper},
	"StopPodSandbox":           {gate.ClassTeardown, helper},
	"RemoveContainer":          {gate.ClassTeardown, helper},
	"ReopenContainerLog":       {gate.ClassTeardown, helper},
	"PullImage":                {gate.ClassImage, fetcher},

	"Attach":                    {gate.ClassExec, here},
	"RemovePodSandbox":          {gate.ClassTeardown, here}, // and each container of it at the helper
	"RemoveImage":               {gate.ClassTeardown, here},
	"UpdateRuntimeConfig":       {gate.ClassAdmin, here},
	"UpdatePodSandboxResources": {gate.ClassUpdate, here},
	"CheckpointContainer":       {gate.ClassAdmin, here},
	"CheckpointPod":             {gate.ClassAdmin, here},
	"RestorePod":                {gate.ClassAdmin, here},

	"Version":                 {gate.ClassRead, here},
	"Status":                  {gate.ClassRead, here},
	"RuntimeConfig":           {gate.ClassRead, here},
	"PodSandboxStatus":        {gate.ClassRead, here},
	"ListPodSandbox":          {gate.ClassRead, here},
	"StreamPodSandboxes":      {gate.ClassRead, here},
	"ListContainers":          {gate.ClassRead, here},
	"StreamContainers":        {gate.ClassRead, here},
	"ContainerStatus":         {gate.ClassRead, here},
	"ContainerStats":          {gate.ClassRead, here},
	"ListContainerStats":      {gate.ClassRead, here},
	"StreamContainerStats":    {gate.ClassRead, here},
	"PodSandboxStats":         {gate.ClassRead, here},
	"ListPodSandboxStats":     {gate.ClassRead, here},
	"StreamPodSandboxStats":   {gate.ClassRead, here},
	"GetContainerEvents":      {gate.ClassRead, here},
	"ListMetricDescriptors":   {gate.ClassRead, here},
	"ListPodSandboxMetrics":   {gate.ClassRead, here},
	"StreamPodSandboxMetrics": {gate.ClassRead, here},
	"ListImages":              {gate.ClassRead, here},
	"StreamImages":            {gate.ClassRead, here},
	"ImageStatus":             {gate.ClassRead, here},
	"ImageFsInfo":             {gate.ClassRead, here},
}
