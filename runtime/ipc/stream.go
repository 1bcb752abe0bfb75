package ipc

// What posternd and the streaming server say to one another.

// MintRequest asks the streaming server for a URL (op "mint").
type MintRequest struct {
	Op     string  `json:"op"`
	Grant  string  `json:"grant"` // to be redeemed when a client comes
	Kind   string  `json:"kind"`  // exec, attach or portforward
	TTY    bool    `json:"tty"`
	Stdin  bool    `json:"stdin"`
	Stdout bool    `json:"stdout"`
	Stderr bool    `json:"stderr"`
	Ports  []int32 `json:"ports"`
}

// MintAnswer is the URL.
type MintAnswer struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	URL   string `json:"url,omitempty"`
}

// RedeemRequest comes back when a client has arrived (op "redeem"), and for
// each port that is forwarded after the first.
type RedeemRequest struct {
	Op    string `json:"op"`
	Grant string `json:"grant,omitempty"`
	Port  int32  `json:"port,omitempty"`
}

// RedeemAnswer comes with the fds that it names.
type RedeemAnswer struct {
	OK    bool     `json:"ok"`
	Error string   `json:"error,omitempty"`
	Names []string `json:"names,omitempty"`
}

// ExitMessage is how a command's end is reported.
type ExitMessage struct {
	Exit Exit `json:"exit"`
}

// Exit is an exit code, or why there is none.
type Exit struct {
	Code  int32  `json:"code"`
	Error string `json:"error,omitempty"`
}
