package main

import (
	"encoding/json"
	"fmt"

	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// stats prints what the summary says of one container, and fails where a number
// that autoscalers and eviction live on is missing or nought.
func (k *kubelet) stats(pod, container string) error {
	b, err := k.get("/stats/summary")
	if err != nil {
		return err
	}
	var s stats.Summary
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	for _, p := range s.Pods {
		if p.PodRef.Namespace+"/"+p.PodRef.Name != pod {
			continue
		}
		for _, c := range p.Containers {
			if c.Name == container {
				return numbers(p, c)
			}
		}
	}
	return fmt.Errorf("the summary has no container %s in %s", container, pod)
}

func numbers(p stats.PodStats, c stats.ContainerStats) error {
	n := map[string]*uint64{}
	if c.CPU != nil {
		n["cpu-ns"] = c.CPU.UsageCoreNanoSeconds
	}
	if c.Memory != nil {
		n["memory"] = c.Memory.WorkingSetBytes
	}
	if c.Rootfs != nil {
		n["rootfs"] = c.Rootfs.UsedBytes
	}
	if p.Memory != nil {
		n["pod-memory"] = p.Memory.WorkingSetBytes
	}
	if p.Network != nil {
		n["pod-rx"] = p.Network.RxBytes
	}
	for _, name := range []string{"cpu-ns", "memory", "rootfs", "pod-memory", "pod-rx"} {
		v := n[name]
		if v == nil || *v == 0 && name != "rootfs" {
			return fmt.Errorf("no %s", name)
		}
		fmt.Printf("%s=%d ", name, *v)
	}
	fmt.Println()
	return nil
}
