package webhook

import (
	"slices"
	"strconv"

	"github.com/tidwall/gjson"

	"orchestrate/internal/queue"
)

// path leads from the payload to one of its fields.
type path []string

// What an event's columns are read from, as GitHub's payloads have it. Of
// several paths the first that holds a value of the right type counts; the
// shape of the payload decides, not the type of the event, which is a header
// and not signed.
//
//	Action      action
//	Repository  repository.full_name
//	Sender      sender.login
//	Ref         ref                                 push, create, delete, workflow_dispatch, code_scanning_alert
//	            pull_request.head.ref               pull_request, pull_request_review and its comments and threads
//	            check_run.check_suite.head_branch   check_run
//	            check_suite.head_branch             check_suite
//	            workflow_job.head_branch            workflow_job
//	            deployment.ref                      deployment, deployment_status, deployment_protection_rule
//	            workflow_run.head_branch            workflow_run, deployment_review
//	            merge_group.head_ref                merge_group
//	            branch                              repository_dispatch
//	Number      number                              pull_request
//	            pull_request.number                 pull_request_review and its comments and threads
//	            issue.number                        issues, issue_comment
//	            discussion.number                   discussion, discussion_comment
//
// A ref stands as the payload has it, so a push says refs/heads/main and a
// check run main. Numbers are those of pull requests, issues and discussions,
// which a repository counts in one sequence; milestones and alerts count apart
// and are left out, and so are check runs, which may be for several requests.
var (
	actionPath     = path{"action"}
	repositoryPath = path{"repository", "full_name"}
	senderPath     = path{"sender", "login"}
	refPaths       = []path{
		{"ref"},
		{"pull_request", "head", "ref"},
		{"check_run", "check_suite", "head_branch"},
		{"check_suite", "head_branch"},
		{"workflow_job", "head_branch"},
		{"deployment", "ref"},
		{"workflow_run", "head_branch"},
		{"merge_group", "head_ref"},
		{"branch"},
	}
	numberPaths = []path{
		{"number"},
		{"pull_request", "number"},
		{"issue", "number"},
		{"discussion", "number"},
	}
	topNames = firstNames(slices.Concat([]path{actionPath, repositoryPath, senderPath}, refPaths, numberPaths))
)

func firstNames(paths []path) []string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = p[0]
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// summarise fills in what the payload says of itself, without decoding it. The
// reading is strict, as that of the parsers which handlers use: the last of
// members with one name counts, names are compared with case, and a value of
// another type is none.
func summarise(e *queue.Event, doc []byte) {
	top := members(gjson.ParseBytes(doc), topNames...)
	e.Action = text(top, actionPath)
	e.Repository = text(top, repositoryPath)
	e.Sender = text(top, senderPath)
	e.Ref = first(top, refPaths, text)
	e.Number = first(top, numberPaths, number)
}

// members returns the members of an object that have one of the names, the last
// of each.
func members(o gjson.Result, names ...string) map[string]gjson.Result {
	if !o.IsObject() {
		return nil
	}
	found := make(map[string]gjson.Result, len(names))
	o.ForEach(func(key, value gjson.Result) bool {
		if slices.Contains(names, key.Str) {
			found[key.Str] = value
		}
		return true
	})
	return found
}

func at(top map[string]gjson.Result, p path) gjson.Result {
	v := top[p[0]]
	for _, name := range p[1:] {
		v = members(v, name)[name]
	}
	return v
}

func text(top map[string]gjson.Result, p path) queue.Text {
	v := at(top, p)
	if v.Type != gjson.String {
		return ""
	}
	return queue.Clean(v.Str)
}

func number(top map[string]gjson.Result, p path) queue.Int {
	n, err := strconv.ParseInt(at(top, p).Raw, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return queue.Int(n)
}

func first[T comparable](top map[string]gjson.Result, paths []path, read func(map[string]gjson.Result, path) T) (v T) {
	var none T
	for _, p := range paths {
		if v = read(top, p); v != none {
			break
		}
	}
	return v
}
