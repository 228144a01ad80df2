package webhook

import (
	"embed"
	"fmt"
	"strings"

	"orchestrate/internal/queue"
)

// The examples are written for this project: the shape is GitHub's, the people
// and repositories are invented.
//
//go:embed examples/*.json
var examples embed.FS

// Examples lists the event types that there is an example payload for, sorted.
func Examples() []string {
	files, err := examples.ReadDir("examples")
	if err != nil {
		panic(err) // it is embedded
	}
	types := make([]string, len(files))
	for i, f := range files {
		types[i] = strings.TrimSuffix(f.Name(), ".json")
	}
	return types
}

// Example is the payload of a typical event of a type, as JSON. ErrInvalid when
// there is none.
func Example(eventType string) ([]byte, error) {
	body, err := examples.ReadFile("examples/" + eventType + ".json")
	if err != nil {
		return nil, fmt.Errorf("%w event type %q: there are examples for %s; for another type give the payload",
			queue.ErrInvalid, queue.Clean(eventType), strings.Join(Examples(), ", "))
	}
	return body, nil
}
