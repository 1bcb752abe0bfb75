// Command kubeletctl asks a kubelet itself, at its own port and without an API
// server, for what kubectl would ask it for through one.
//
//	kubeletctl pods                             a line a pod, then a line a container: state, reason and message
//	kubeletctl logs    NS/POD CONTAINER [previous]
//	kubeletctl exec    [flags] NS/POD CONTAINER COMMAND...   ends with the command's exit status
//	kubeletctl attach  [flags] NS/POD CONTAINER
//	kubeletctl fetch   NS/POD PORT PATH         one GET through a forwarded port
//	kubeletctl stats   NS/POD CONTAINER         cpu, memory and file system, as the summary has them
//
// Flags of exec and attach: -spdy (not WebSocket), -i (stdin), -t (terminal).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	utilexec "k8s.io/client-go/util/exec"
)

// failed is the status for what is wrong with the asking, not with the command.
const failed = 125

func main() {
	err := run(os.Args[1:])
	var code utilexec.CodeExitError
	if errors.As(err, &code) {
		os.Exit(code.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubeletctl:", err)
		os.Exit(failed)
	}
}

var errUsage = errors.New("usage: kubeletctl pods | logs | exec | attach | fetch | stats ... (see the source)")

func run(args []string) error {
	k, err := connect()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return errUsage
	}
	verb, args := args[0], args[1:]
	switch {
	case verb == "pods":
		return k.pods()
	case verb == "logs" && len(args) >= 2:
		query := ""
		if len(args) == 3 {
			query = "?previous=true"
		}
		b, err := k.get("/containerLogs/" + args[0] + "/" + args[1] + query)
		os.Stdout.Write(b)
		return err
	case verb == "exec" || verb == "attach":
		return k.stream(verb, args)
	case verb == "fetch" && len(args) == 3:
		return k.fetch(args[0], args[1], args[2])
	case verb == "stats" && len(args) == 2:
		return k.stats(args[0], args[1])
	}
	return errUsage
}

// kubelet is where the questions go.
type kubelet struct {
	config *rest.Config
	client *http.Client
}

// connect takes the address from KUBELET_URL. The kubelet of the test made its
// certificate itself, on loopback: there is nothing to check it against.
func connect() (*kubelet, error) {
	url := os.Getenv("KUBELET_URL")
	if url == "" {
		url = "https://127.0.0.1:10250"
	}
	c := &rest.Config{Host: url, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	h, err := rest.HTTPClientFor(c)
	return &kubelet{config: c, client: h}, err
}

func (k *kubelet) get(path string) ([]byte, error) {
	r, err := k.client.Get(k.config.Host + path)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, r.Status, b)
	}
	return b, err
}

func (k *kubelet) pods() error {
	b, err := k.get("/pods")
	if err != nil {
		return err
	}
	var list v1.PodList
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	for _, p := range list.Items {
		ready := "not-ready"
		for _, c := range p.Status.Conditions {
			if c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
				ready = "ready"
			}
		}
		fmt.Printf("pod %s/%s %s %s ip=%s %s\n", p.Namespace, p.Name, p.Status.Phase, ready, p.Status.PodIP, p.Status.Message)
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			fmt.Printf("  %s restarts=%d %s\n", c.Name, c.RestartCount, state(c.State))
			if c.LastTerminationState.Terminated != nil {
				fmt.Printf("  %s before: %s\n", c.Name, state(c.LastTerminationState))
			}
		}
	}
	return nil
}

func state(s v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("exited=%d %s %s", s.Terminated.ExitCode, s.Terminated.Reason, flat(s.Terminated.Message))
	case s.Waiting != nil:
		return fmt.Sprintf("waiting %s: %s", s.Waiting.Reason, flat(s.Waiting.Message))
	}
	return "unknown"
}

func flat(s string) string { return strings.Join(strings.Fields(s), " ") }
