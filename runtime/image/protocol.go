package image

// Request is what posternd asks of the fetching process, one a connection at a
// time.
type Request struct {
	Op        string `json:"op"` // pull, list, remove, usage, reverify
	Ref       string `json:"ref,omitempty"`
	Auth      *Auth  `json:"auth,omitempty"`
	Pod       *Pod   `json:"pod,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	ID        string `json:"id,omitempty"`       // remove
	After     string `json:"after,omitempty"`    // list: the last id of the page before
	Manifest  string `json:"manifest,omitempty"` // reverify
}

// Answer answers a Request. A pull sends any number with Progress first; the
// last one has Image or Error.
type Answer struct {
	Progress *Progress   `json:"progress,omitempty"`
	Image    *ImageInfo  `json:"image,omitempty"`
	Images   []ImageInfo `json:"images,omitempty"`
	More     bool        `json:"more,omitempty"` // list: ask again, after the last one
	Usage    *Usage      `json:"usage,omitempty"`
	OK       bool        `json:"ok,omitempty"`
	Error    *Error      `json:"error,omitempty"`
}
