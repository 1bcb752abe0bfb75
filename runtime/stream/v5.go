package stream

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	"k8s.io/utils/exec"
)

// channels are the numbers of version 5's channels.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelError
	channelResize
	channels
)

// serveV5 serves exec and attach by WebSocket version 5, which, unlike version 4,
// can end stdin alone. The library's channels know it; its server does not offer
// it yet.
func (s *Server) serveV5(w http.ResponseWriter, r *http.Request, n *session) {
	kinds := make([]wsstream.ChannelType, channels)
	kinds[channelError], kinds[channelResize] = wsstream.WriteChannel, wsstream.ReadChannel
	for channel, on := range map[int]bool{channelStdin: n.stdin, channelStdout: n.stdout, channelStderr: n.stderr} {
		switch {
		case !on:
			kinds[channel] = wsstream.IgnoreChannel
		case channel == channelStdin:
			kinds[channel] = wsstream.ReadChannel
		default:
			kinds[channel] = wsstream.WriteChannel
		}
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: kinds},
	})
	_, streams, err := conn.Open(w, r)
	if err != nil {
		s.opts.Printf("opening a websocket: %v", err)
		return
	}
	defer conn.Close()
	// Tells the client that the session is there.
	streams[channelError].Write(nil)
	resize := make(chan remotecommand.TerminalSize)
	go func() {
		defer close(resize)
		d := json.NewDecoder(streams[channelResize])
		for {
			var size remotecommand.TerminalSize
			if d.Decode(&size) != nil {
				return
			}
			select {
			case resize <- size:
			case <-n.gone:
				return
			}
		}
	}()
	c := client{in: streams[channelStdin], out: streams[channelStdout], err: streams[channelStderr], resize: resize}
	if n.kind == kindExec {
		err = s.exec(n, c)
	} else {
		err = s.attach(n, c)
	}
	writeStatus(streams[channelError], err)
}

// apiStatus is the part of a Kubernetes Status that says how a session ended.
type apiStatus struct {
	Status  string         `json:"status"`
	Message string         `json:"message,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Details *statusDetails `json:"details,omitempty"`
	Code    int            `json:"code,omitempty"`
}

type statusDetails struct {
	Causes []statusCause `json:"causes"`
}

type statusCause struct {
	Type    string `json:"reason"`
	Message string `json:"message"`
}

func writeStatus(w io.Writer, err error) {
	m := apiStatus{Status: "Success"}
	if exit, ok := err.(exec.ExitError); ok && exit.Exited() {
		m = apiStatus{
			Status: "Failure", Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &statusDetails{[]statusCause{{remotecommand.ExitCodeCauseType, strconv.Itoa(exit.ExitStatus())}}},
		}
	} else if err != nil {
		m = apiStatus{
			Status: "Failure", Reason: "InternalError", Code: http.StatusInternalServerError,
			Message: "Internal error occurred: " + err.Error(),
		}
	}
	if b, err := json.Marshal(m); err == nil {
		w.Write(b)
	}
}
