package cli

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"orchestrate/internal/webhook"
)

// edits are values by their places in a payload.
type edits map[string]any

const zeros = "0000000000000000000000000000000000000000"

// made are payloads that the recorded ones lack: the examples with values
// replaced. The event stands before the slash.
var made = map[string]edits{
	"pull_request/opened":            {},
	"pull_request/reopened":          {"action": "reopened"},
	"pull_request/ready-for-review":  {"action": "ready_for_review"},
	"pull_request/synchronize":       {"action": "synchronize"},
	"pull_request/draft":             {"pull_request.draft": true},
	"pull_request/fork":              {"pull_request.head.repo.id": 7, "pull_request.author_association": "CONTRIBUTOR"},
	"pull_request/fork-of-a-member":  {"pull_request.head.repo.id": 7},
	"pull_request/fork-deleted":      {"pull_request.head.repo": nil},
	"pull_request/stranger":          {"pull_request.author_association": "NONE"},
	"pull_request/bot":               {"sender.type": "Bot", "sender.login": "renovate[bot]"},
	"pull_request/without-body":      {"pull_request.body": nil, "pull_request.labels": []any{}},
	"pull_request/closed":            {"action": "closed", "pull_request.state": "closed"},
	"pull_request/merged":            merged(nil),
	"pull_request/merged-fork":       merged(edits{"pull_request.head.repo.id": 7, "pull_request.author_association": "CONTRIBUTOR"}),
	"pull_request/merged-by-a-bot":   merged(edits{"sender.type": "Bot"}),
	"pull_request/merged-into-other": merged(edits{"pull_request.base.ref": "release/1"}),

	"pull_request_review/changes-requested": {},
	"pull_request_review/without-body":      {"review.body": nil},
	"pull_request_review/approved":          {"review.state": "approved"},
	"pull_request_review/commented":         {"review.state": "commented"},
	"pull_request_review/stranger":          {"review.author_association": "NONE"},
	"pull_request_review/bot":               {"sender.type": "Bot"},
	"pull_request_review/fork":              {"pull_request.head.repo.id": 7},
	"pull_request_review/dismissed":         {"action": "dismissed", "review.state": "dismissed"},

	"check_run/failure":           {},
	"check_run/timed-out":         {"check_run.conclusion": "timed_out"},
	"check_run/success":           {"check_run.conclusion": "success"},
	"check_run/cancelled":         {"check_run.conclusion": "cancelled"},
	"check_run/created":           {"action": "created", "check_run.conclusion": nil},
	"check_run/of-actions":        {"check_run.app.slug": "github-actions"},
	"check_run/of-a-named-app":    {"check_run.app.slug": "circleci-checks"},
	"check_run/no-pull-request":   {"check_run.pull_requests": []any{}},
	"check_run/bot":               {"sender.type": "Bot"},
	"check_run/output-of-nothing": {"check_run.output.title": nil, "check_run.output.summary": nil, "check_run.check_suite.head_branch": nil},

	"check_suite/failure":         {},
	"check_suite/of-actions":      {"check_suite.app.slug": "github-actions"},
	"check_suite/of-a-named-app":  {"check_suite.app.slug": "circleci-checks"},
	"check_suite/success":         {"check_suite.app.slug": "circleci-checks", "check_suite.conclusion": "success"},
	"check_suite/no-pull-request": {"check_suite.app.slug": "circleci-checks", "check_suite.pull_requests": []any{}},

	"workflow_run/failure":         {},
	"workflow_run/timed-out":       {"workflow_run.conclusion": "timed_out"},
	"workflow_run/success":         {"workflow_run.conclusion": "success"},
	"workflow_run/no-pull-request": {"workflow_run.pull_requests": []any{}, "workflow_run.event": "push", "workflow_run.head_branch": "main"},
	"workflow_run/fork":            {"workflow_run.pull_requests": []any{}, "workflow_run.head_repository.id": 7},
	"workflow_run/bot":             {"sender.type": "Bot"},

	"push/main":         {},
	"push/other-branch": {"ref": "refs/heads/export-limit"},
	"push/new-branch":   {"before": zeros, "created": true},
	"push/tag":          {"ref": "refs/tags/main", "created": true},
	"push/deleted":      {"deleted": true, "after": zeros, "head_commit": nil, "commits": []any{}},
	"push/bot":          {"sender.type": "Bot", "sender.login": "github-merge-queue[bot]"},

	"issues/opened":       {},
	"issues/labeled":      {"action": "labeled"},
	"issues/stranger":     {"issue.author_association": "NONE"},
	"issues/bot":          {"sender.type": "Bot", "issue.user.type": "Bot"},
	"issues/without-body": {"issue.body": nil, "issue.labels": []any{}},
}

func merged(more edits) edits {
	all := edits{
		"action": "closed", "pull_request.state": "closed", "pull_request.merged": true,
		"pull_request.merge_commit_sha": "4f0d6e2c1b3a59687788990011223344556677ab",
	}
	maps.Copy(all, more)
	return all
}

func madeEvents(t *testing.T) []delivered {
	t.Helper()
	var all []delivered
	for _, name := range slices.Sorted(maps.Keys(made)) {
		event, _, _ := strings.Cut(name, "/")
		doc := delivered{name, event, exampleBody(t, event)}.document(t)
		for place, value := range made[name] {
			put(t, doc, place, value)
		}
		body, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, delivered{"made/" + name, event, body})
	}
	return all
}

// exampleBody is the example of an event; that of a workflow_run is made of the
// check suite that it belongs to.
func exampleBody(t *testing.T, event string) []byte {
	t.Helper()
	of := event
	if event == "workflow_run" {
		of = "check_suite"
	}
	body, err := webhook.Example(of)
	if err != nil {
		t.Fatal(err)
	}
	if of == event {
		return body
	}
	doc := delivered{event, event, body}.document(t)
	run, _ := doc["check_suite"].(map[string]any)
	repository, _ := doc["repository"].(map[string]any)
	delete(doc, "check_suite")
	maps.Copy(run, map[string]any{
		"name": "Tests", "event": "pull_request", "run_number": 562, "run_attempt": 1, "workflow_id": 99120001, "check_suite_id": run["id"],
		"id": 98110001, "html_url": "https://github.com/acme/api/actions/runs/98110001", "actor": doc["sender"],
		"repository": repository, "head_repository": maps.Clone(repository),
	})
	doc["workflow_run"] = run
	body, err = json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// put replaces a value, which has to be there: the test would test less else.
func put(t *testing.T, doc map[string]any, place string, value any) {
	t.Helper()
	path := strings.Split(place, ".")
	last := path[len(path)-1]
	for _, key := range path[:len(path)-1] {
		doc, _ = doc[key].(map[string]any)
	}
	if _, ok := doc[last]; !ok {
		t.Fatalf("there is no %s", place)
	}
	doc[last] = value
}
