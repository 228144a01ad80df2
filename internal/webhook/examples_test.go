package webhook

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"orchestrate/internal/queue"
)

func TestExampleHasWhatFiltersRead(t *testing.T) {
	for _, c := range []struct{ eventType, path string }{
		{"pull_request", "pull_request.base.ref"},
		{"pull_request", "pull_request.base.repo.id"},
		{"pull_request", "pull_request.head.repo.id"},
		{"pull_request", "pull_request.labels"},
		{"pull_request", "pull_request.author_association"},
		{"pull_request", "pull_request.user.login"},
		{"pull_request", "pull_request.draft"},
		{"pull_request_review", "pull_request.base.ref"},
		{"pull_request_review", "pull_request.head.repo.id"},
		{"pull_request_review", "review.author_association"},
		{"pull_request_review", "review.state"},
		{"check_run", "check_run.conclusion"},
		{"check_run", "check_run.pull_requests"},
		{"check_run", "check_run.check_suite.head_branch"},
		{"check_suite", "check_suite.conclusion"},
		{"check_suite", "check_suite.pull_requests"},
		{"push", "commits"},
		{"push", "head_commit.modified"},
		{"issues", "issue.labels"},
		{"issues", "issue.author_association"},
	} {
		body, err := Example(c.eventType)
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		if err := json.Unmarshal(body, &doc); err != nil {
			t.Fatal(err)
		}
		if walk(doc, strings.Split(c.path, ".")) == nil {
			t.Errorf("example %s has no %s", c.eventType, c.path)
		}
	}
}

func TestExampleUnknown(t *testing.T) {
	for _, eventType := range []string{"", "moon_landing", "../github", "push.json"} {
		body, err := Example(eventType)
		if body != nil || !errors.Is(err, queue.ErrInvalid) || !strings.Contains(err.Error(), "push") {
			t.Errorf("%q: got %q, %v, want ErrInvalid that lists the examples", eventType, body, err)
		}
	}
}
