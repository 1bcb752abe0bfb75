package cri

import (
	"context"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// samples are the values that a field is set to, where the first that its type
// suggests ("x1", 1, true) is none that anybody could mean.
var samples = map[string]any{
	"RunPodSandbox.config.log_directory":                                                        "/var/log/pods/ns_x1_uid-other",
	"RunPodSandbox.config.dns_config.servers":                                                   "10.0.0.9",
	"RunPodSandbox.config.port_mappings.container_port":                                         81,
	"RunPodSandbox.config.port_mappings.host_port":                                              8081,
	"RunPodSandbox.config.port_mappings.host_ip":                                                "127.0.0.1",
	"RunPodSandbox.config.linux.cgroup_parent":                                                  "/x1",
	"RunPodSandbox.config.linux.security_context.namespace_options.network":                     2,
	"RunPodSandbox.config.linux.security_context.namespace_options.ipc":                         2,
	"RunPodSandbox.config.linux.security_context.namespace_options.userns_options.uids.host_id": 1 << 21,
	"RunPodSandbox.config.linux.security_context.namespace_options.userns_options.uids.length":  1 << 17,
	"RunPodSandbox.config.linux.security_context.namespace_options.userns_options.gids.host_id": 1 << 21,
	"RunPodSandbox.config.linux.security_context.namespace_options.userns_options.gids.length":  1 << 17,
	"RunPodSandbox.config.linux.sysctls":                                                        "net.core.somaxconn=10",
	"RunPodSandbox.runtime_handler":                                                             "test-handler",

	"CreateContainer.config.working_dir":                                                          "/x1",
	"CreateContainer.config.mounts.container_path":                                                "/x1",
	"CreateContainer.config.mounts.host_path":                                                     "/x1",
	"CreateContainer.config.mounts.mount_options":                                                 "noexec",
	"CreateContainer.config.devices.container_path":                                               "/dev/x1",
	"CreateContainer.config.devices.host_path":                                                    "/dev/null",
	"CreateContainer.config.devices.permissions":                                                  "rw",
	"CreateContainer.config.CDI_devices.name":                                                     "postern.test/thing=one",
	"CreateContainer.config.stop_signal":                                                          8,
	"CreateContainer.config.linux.security_context.capabilities.add_capabilities":                 "NET_ADMIN",
	"CreateContainer.config.linux.security_context.capabilities.drop_capabilities":                "KILL",
	"CreateContainer.config.linux.security_context.capabilities.add_ambient_capabilities":         "KILL",
	"CreateContainer.config.linux.security_context.run_as_user.value":                             6,
	"CreateContainer.config.linux.security_context.run_as_group.value":                            6,
	"CreateContainer.config.linux.security_context.run_as_username":                               "five",
	"CreateContainer.config.linux.security_context.supplemental_groups":                           9,
	"CreateContainer.config.linux.security_context.masked_paths":                                  "/x1",
	"CreateContainer.config.linux.security_context.readonly_paths":                                "/x1",
	"CreateContainer.config.linux.security_context.apparmor_profile":                              "unconfined",
	"CreateContainer.config.linux.security_context.seccomp_profile_path":                          "runtime/default",
	"CreateContainer.config.linux.security_context.namespace_options.network":                     2,
	"CreateContainer.config.linux.security_context.namespace_options.ipc":                         2,
	"CreateContainer.config.linux.security_context.namespace_options.userns_options.uids.host_id": 1 << 20,
	"CreateContainer.config.linux.security_context.namespace_options.userns_options.uids.length":  1 << 16,

	"ListContainers.filter.state.state":                          2,
	"StreamContainers.filter.state.state":                        2,
	"StopContainer.timeout":                                      10,
	"PortForward.port":                                           80,
	"RemoveImage.image.image":                                    "reg/app:1",
	"ListImages.filter.image.image":                              "reg/none:1",
	"StreamImages.filter.image.image":                            "reg/none:1",
	"ImageStatus.image.image":                                    "reg/none:1",
	"PullImage.image.image":                                      "reg/none:1",
	"UpdateRuntimeConfig.runtime_config.network_config.pod_cidr": "10.1.0.0/16",
}

// elements says which entry of a list is meant, where it is not the first.
var elements = map[string]int{
	"CreateContainer.config.mounts.image.image":                1,
	"CreateContainer.config.mounts.image.annotations":          1,
	"CreateContainer.config.mounts.image.user_specified_image": 1,
	"CreateContainer.config.mounts.image.runtime_handler":      1,
	"CreateContainer.config.mounts.image.image_ref":            1,
	"CreateContainer.config.mounts.image_sub_path":             1,
}

// failing are the honoured fields whose new value the request fails for: a name of
// nothing, or a limit that is reached.
var failing = map[string]string{
	"PodSandboxStatus.pod_sandbox_id":           "not found",
	"CreateContainer.pod_sandbox_id":            "not found",
	"CreateContainer.config.image.image":        `image "x1" is not there`,
	"CreateContainer.config.mounts.image.image": `image "x1" is not there`,
	"StartContainer.container_id":               "not found",
	"ContainerStatus.container_id":              "not found",
	"UpdateContainerResources.container_id":     "not found",
	"ReopenContainerLog.container_id":           "not found",
	"ExecSync.container_id":                     "not found",
	"Exec.container_id":                         "not found",
	"Attach.container_id":                       "not found",
	"PortForward.pod_sandbox_id":                "not found",
	"ContainerStats.container_id":               "not found",
	"PodSandboxStats.pod_sandbox_id":            "not found",
	"UpdatePodSandboxResources.pod_sandbox_id":  "not found",
	"ExecSync.timeout":                          "timed out and was killed",
	"RemoveImage.image.image":                   "in use by container",
}

// resources completes samples, for every place where limits stand.
func init() {
	for _, at := range []string{"RunPodSandbox.config.linux.overhead", "RunPodSandbox.config.linux.resources", "CreateContainer.config.linux.resources",
		"UpdateContainerResources.linux", "UpdatePodSandboxResources.overhead", "UpdatePodSandboxResources.resources"} {
		for name, v := range map[string]any{
			"cpu_period": 50000, "cpu_quota": 20000, "cpuset_cpus": "0", "cpuset_mems": "0", "hugepage_limits.page_size": "1GB",
			"unified": "memory.high=1000000", "memory_limit_in_bytes": 64 << 20, "memory_swap_limit_in_bytes": 96 << 20,
		} {
			samples[at+"."+name] = v
		}
		givens[at+".hugepage_limits.page_size"] = func(_ *walkWorld, r proto.Message) {
			h := []*cri.HugepageLimit{{PageSize: "2MB", Limit: 5}}
			switch r := r.(type) {
			case *cri.RunPodSandboxRequest:
				r.Config.Linux.Overhead, r.Config.Linux.Resources = &cri.LinuxContainerResources{HugepageLimits: h}, &cri.LinuxContainerResources{HugepageLimits: h}
			case *cri.CreateContainerRequest:
				r.Config.Linux.Resources = &cri.LinuxContainerResources{HugepageLimits: h}
			case *cri.UpdateContainerResourcesRequest:
				r.Linux = &cri.LinuxContainerResources{HugepageLimits: h}
			case *cri.UpdatePodSandboxResourcesRequest:
				r.Overhead, r.Resources = &cri.LinuxContainerResources{HugepageLimits: h}, &cri.LinuxContainerResources{HugepageLimits: h}
			}
		}
		givens[at+".hugepage_limits.limit"] = givens[at+".hugepage_limits.page_size"]
	}
	idMapped := func(w *walkWorld, r proto.Message) { // in a pod with a user namespace
		w.podFor(r, w.base("RunPodSandbox").(*cri.RunPodSandboxRequest).Config)
	}
	for _, f := range []string{"host_id", "container_id", "length"} {
		for _, l := range []string{"uid", "gid"} {
			givens["CreateContainer.config.mounts."+l+"Mappings."+f] = idMapped
			changes["CreateContainer.config.mounts."+l+"Mappings."+f] = func(_ *walkWorld, r proto.Message) {
				m := r.(*cri.CreateContainerRequest).Config.Mounts[0]
				maps := []*cri.IDMapping{{HostId: 1 << 20, Length: 1 << 16}}
				if l == "uid" {
					m.UidMappings = maps
				} else {
					m.GidMappings = maps
				}
			}
		}
	}
}

// podFor puts the container of r into another pod.
func (w *walkWorld) podFor(r proto.Message, cfg *cri.PodSandboxConfig) {
	p, err := w.runtime.RunPodSandbox(context.Background(), &cri.RunPodSandboxRequest{Config: cfg})
	must(err)
	r.(*cri.CreateContainerRequest).PodSandboxId = p.PodSandboxId
}

func create(r proto.Message) *cri.ContainerConfig { return r.(*cri.CreateContainerRequest).Config }

func security(r proto.Message) *cri.LinuxContainerSecurityContext {
	return create(r).Linux.SecurityContext
}

// givens change the request, or the world, with and without the field set.
var givens = map[string]func(*walkWorld, proto.Message){
	"RunPodSandbox.config.linux.security_context.namespace_options.network": noUserNS,
	"RunPodSandbox.config.linux.security_context.namespace_options.ipc":     noUserNS,
	"Exec.stdin": func(_ *walkWorld, r proto.Message) {
		r.(*cri.ExecRequest).Stdin, r.(*cri.ExecRequest).Stdout = false, true
	},
	"Attach.stdin": func(_ *walkWorld, r proto.Message) {
		r.(*cri.AttachRequest).Stdin, r.(*cri.AttachRequest).Stdout = false, true
	},
	"CreateContainer.config.mounts.recursive_read_only": func(_ *walkWorld, r proto.Message) { create(r).Mounts[0].Readonly = true },
	"CreateContainer.config.stdin_once":                 func(_ *walkWorld, r proto.Message) { create(r).Stdin = true },
	"CreateContainer.config.linux.security_context.privileged": func(w *walkWorld, r proto.Message) {
		cfg := podRequest("priv").Config
		cfg.Linux = &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{Privileged: true}}
		w.podFor(r, cfg)
	},
	"CreateContainer.config.linux.security_context.namespace_options.target_id": func(w *walkWorld, r proto.Message) {
		ctx := context.Background()
		c, err := w.runtime.CreateContainer(ctx, containerRequest(w.pod, "second"))
		must(err)
		_, err = w.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId})
		must(err)
		w.second = c.ContainerId
		security(r).NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: w.ctr}
	},
	"CreateContainer.config.linux.security_context.run_as_username": func(_ *walkWorld, r proto.Message) { security(r).RunAsUser = nil },
	"CreateContainer.config.linux.security_context.seccomp.profile_type": func(_ *walkWorld, r proto.Message) {
		security(r).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	},
	"CreateContainer.config.linux.security_context.seccomp.localhost_ref": func(_ *walkWorld, r proto.Message) {
		security(r).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "a"}
	},
	"CreateContainer.config.linux.security_context.apparmor.localhost_ref": func(_ *walkWorld, r proto.Message) {
		security(r).Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "a"}
	},
}

// noUserNS is a pod that can share a namespace of the host.
func noUserNS(_ *walkWorld, r proto.Message) {
	r.(*cri.RunPodSandboxRequest).Config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = nil
}

// changes set a field that cannot be set alone.
var changes = map[string]func(*walkWorld, proto.Message){
	"RunPodSandbox.config.linux.security_context.namespace_options.userns_options.mode": func(_ *walkWorld, r proto.Message) {
		r.(*cri.RunPodSandboxRequest).Config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}
	},
	"CreateContainer.config.linux.security_context.namespace_options.target_id": func(w *walkWorld, r proto.Message) {
		security(r).NamespaceOptions.TargetId = w.second
	},
	"ExecSync.timeout": func(_ *walkWorld, r proto.Message) {
		e := r.(*cri.ExecSyncRequest)
		e.Cmd, e.Timeout = []string{"forever"}, 1
	},
}
