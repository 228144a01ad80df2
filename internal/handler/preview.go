package handler

import "orchestrate/internal/queue"

// Handler is a handler that can also tell what it would do.
type Handler interface {
	queue.Handler
	// Preview renders what Handle would do for a task, and does nothing. Its
	// errors are those that Handle would end with before it does anything.
	Preview(t *queue.Task) (Preview, error)
}

// Preview is what a handler would do for an event. One of its fields is set. It
// holds no secret: what comes from one is named by where it comes from.
type Preview struct {
	Run     *RunPreview     `json:"run,omitempty"`
	Forward *ForwardPreview `json:"forward,omitempty"`
}

// RunPreview is the command that would be started.
type RunPreview struct {
	Command []string   `json:"command"`
	Dir     queue.Text `json:"dir"`
	Env     []string   `json:"env"`   // names of the variables that it would get
	Stdin   string     `json:"stdin"` // what it would read
}

// ForwardPreview is the request that would be sent.
type ForwardPreview struct {
	Method    string            `json:"method"`
	URL       string            `json:"url"`
	Headers   map[string]string `json:"headers"`
	BodyBytes int               `json:"body_bytes"`
}
