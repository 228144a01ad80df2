package route

import (
	"maps"
	"slices"
	"strings"
)

// fact is what a key of a filter looks at. An event has none, one or several
// values of it; docs/reference/filters.md shows this table.
type fact struct {
	key   string // of the filter
	names syntax // of the patterns
	from  map[string]reading
	any   *reading // where every type has it
}

// reading is where one type of event has a fact.
type reading struct {
	where string // for people
	read  func(*document) []string
}

// of is where a type of event has the fact, nil if it has not.
func (f *fact) of(eventType string) *reading {
	if r, ok := f.from[eventType]; ok {
		return &r
	}
	return f.any
}

// events are those that have the fact; none for every one.
func (f *fact) events() []string { return slices.Sorted(maps.Keys(f.from)) }

// The facts, in the order in which they are asked for: what is cheap, or likely
// to rule out, first. Who wrote a thing is told of the thing that the event is
// about: of a comment, not of the issue that it stands under.
var facts = []fact{
	{key: "repository", names: repositories, any: &reading{where: "repository.full_name"}}, // from the event's summary
	{key: "sender_type", names: oneOf("type of sender", "User", "Bot", "Organization", "Mannequin"), any: field("sender.type")},
	{key: "conclusion", names: conclusions, from: map[string]reading{
		"check_run":    *field("check_run.conclusion"),
		"check_suite":  *field("check_suite.conclusion"),
		"workflow_job": *field("workflow_job.conclusion"),
		"workflow_run": *field("workflow_run.conclusion"),
	}},
	{key: "base_branch", names: branches, from: map[string]reading{
		"check_run":                   *field("check_run.pull_requests[].base.ref"),
		"check_suite":                 *field("check_suite.pull_requests[].base.ref"),
		"create":                      *branchOf("ref"),
		"delete":                      *branchOf("ref"),
		"merge_group":                 *head("merge_group.base_ref"),
		"pull_request":                *field("pull_request.base.ref"),
		"pull_request_review":         *field("pull_request.base.ref"),
		"pull_request_review_comment": *field("pull_request.base.ref"),
		"pull_request_review_thread":  *field("pull_request.base.ref"),
		"push":                        *head("ref"),
		"workflow_run":                *field("workflow_run.pull_requests[].base.ref"),
	}},
	{key: "draft", names: oneOf("state of a draft", "true", "false"), from: map[string]reading{
		"issue_comment":               *field("issue.draft"),
		"issues":                      *field("issue.draft"),
		"pull_request":                *field("pull_request.draft"),
		"pull_request_review":         *field("pull_request.draft"),
		"pull_request_review_comment": *field("pull_request.draft"),
		"pull_request_review_thread":  *field("pull_request.draft"),
		"release":                     *field("release.draft"),
	}},
	{key: "skip_forks", names: oneOf("origin", sameRepository, fork), from: map[string]reading{
		"check_run":                   *origins("check_run.pull_requests[]", ""),
		"check_suite":                 *origins("check_suite.pull_requests[]", ""),
		"pull_request":                *origins("pull_request", ""),
		"pull_request_review":         *origins("pull_request", ""),
		"pull_request_review_comment": *origins("pull_request", ""),
		"pull_request_review_thread":  *origins("pull_request", ""),
		"workflow_run":                *origins("workflow_run.pull_requests[]", "workflow_run.head_repository"),
	}},
	{key: "author", names: logins, from: map[string]reading{
		"commit_comment":              *field("comment.user.login"),
		"deployment":                  *field("deployment.creator.login"),
		"deployment_status":           *field("deployment_status.creator.login"),
		"discussion":                  *field("discussion.user.login"),
		"discussion_comment":          *field("comment.user.login"),
		"issue_comment":               *field("comment.user.login"),
		"issues":                      *field("issue.user.login"),
		"milestone":                   *field("milestone.creator.login"),
		"pull_request":                *field("pull_request.user.login"),
		"pull_request_review":         *field("review.user.login"),
		"pull_request_review_comment": *field("comment.user.login"),
		"push":                        *field("sender.login"),
		"release":                     *field("release.author.login"),
		"workflow_run":                *field("workflow_run.actor.login"),
	}},
	{key: "author_association", names: associations, from: map[string]reading{
		"commit_comment":              *field("comment.author_association"),
		"discussion":                  *field("discussion.author_association"),
		"discussion_comment":          *field("comment.author_association"),
		"issue_comment":               *field("comment.author_association"),
		"issues":                      *field("issue.author_association"),
		"pull_request":                *field("pull_request.author_association"),
		"pull_request_review":         *field("review.author_association"),
		"pull_request_review_comment": *field("comment.author_association"),
	}},
	{key: "labels", names: labels, from: map[string]reading{
		"discussion":                  *field("discussion.labels[].name"),
		"discussion_comment":          *field("discussion.labels[].name"),
		"issue_comment":               *field("issue.labels[].name"),
		"issues":                      *field("issue.labels[].name"),
		"pull_request":                *field("pull_request.labels[].name"),
		"pull_request_review":         *field("pull_request.labels[].name"),
		"pull_request_review_comment": *field("pull_request.labels[].name"),
		"pull_request_review_thread":  *field("pull_request.labels[].name"),
	}},
	{key: "paths", names: paths, from: map[string]reading{
		"push": *fields("commits[].added[]", "commits[].modified[]", "commits[].removed[]"),
	}},
}

// The words that GitHub has for them (docs.github.com: "Webhook events and
// payloads", "CommentAuthorAssociation").
var (
	conclusions = oneOf("conclusion", "success", "failure", "neutral", "cancelled", "timed_out", "action_required",
		"stale", "skipped", "startup_failure")
	associations = oneOf("author association", "COLLABORATOR", "CONTRIBUTOR", "FIRST_TIMER", "FIRST_TIME_CONTRIBUTOR",
		"MANNEQUIN", "MEMBER", "NONE", "OWNER")
)

// field reads the texts, and what is true or false, at a place. A name with []
// behind it is a list, and each of its items is gone into.
func field(where string) *reading {
	path := strings.Split(where, ".")
	return &reading{where, func(d *document) []string { return words(d, nodesAt(d, path)) }}
}

func fields(where ...string) *reading {
	each := make([]*reading, len(where))
	for i := range where {
		each[i] = field(where[i])
	}
	return &reading{strings.Join(where, ", "), func(d *document) []string {
		var all []string
		for _, r := range each {
			all = append(all, r.read(d)...)
		}
		return all
	}}
}

// head reads the branch of a full ref. A tag is none.
func head(where string) *reading {
	whole := field(where)
	return &reading{where + " without refs/heads/", func(d *document) []string {
		var names []string
		for _, ref := range whole.read(d) {
			if name, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
				names = append(names, name)
			}
		}
		return names
	}}
}

// branchOf reads a short ref, where the payload says that it is a branch.
func branchOf(where string) *reading {
	name := field(where)
	return &reading{where + ", where ref_type is branch", func(d *document) []string {
		if kind, _ := d.string(d.at("ref_type")); kind != "branch" {
			return nil
		}
		return name.read(d)
	}}
}

// The values of skip_forks.
const (
	sameRepository = "same repository"
	fork           = "fork"
)

// origins reads whether a change comes out of another repository: of the pull
// requests at a place the heads against the bases, and the head repository, if
// there is a place for one, against the event's. A run that no pull request is
// known of may be one of a fork's, since GitHub leaves those out: with no head
// repository either there is no value.
func origins(requests, headRepository string) *reading {
	where := requests + ": head.repo.id against base.repo.id"
	var repository []string
	if headRepository != "" {
		where = headRepository + ".id against repository.id; " + where
		repository = strings.Split(headRepository, ".")
	}
	path := strings.Split(requests, ".")
	return &reading{where, func(d *document) []string {
		var told []string
		if repository != nil {
			o := origin(d, d.at(repository...), d.at("repository"))
			if o == nil {
				return nil
			}
			told = o
		}
		for _, pr := range nodesAt(d, path) {
			base := d.member(pr, "base")
			o := origin(d, d.member(d.member(pr, "head"), "repo"), d.member(base, "repo"))
			if o == nil {
				return nil
			}
			told = append(told, o...)
		}
		if slices.Contains(told, fork) {
			return []string{fork}
		}
		return slices.Compact(told)
	}}
}

// origin compares two repositories. A head that is null was deleted, and only a
// fork can be, while its base is there.
func origin(d *document, head, base int) []string {
	switch h, b := d.raw(d.member(head, "id")), d.raw(d.member(base, "id")); {
	case !isNumber(b):
		return nil
	case d.kind(head) == 'n':
		return []string{fork}
	case !isNumber(h):
		return nil
	case h != b:
		return []string{fork}
	default:
		return []string{sameRepository}
	}
}

func isNumber(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

func nodesAt(d *document, path []string) []int {
	nodes := []int{0}
	for _, name := range path {
		name, isList := strings.CutSuffix(name, "[]")
		var next []int
		for _, n := range nodes {
			n = d.member(n, name)
			switch {
			case n == none:
			case !isList:
				next = append(next, n)
			case d.kind(n) == '[':
				next = slices.AppendSeq(next, d.children(n))
			}
		}
		nodes = next
	}
	return nodes
}

func words(d *document, nodes []int) []string {
	var all []string
	for _, n := range nodes {
		switch d.kind(n) {
		case '"':
			s, _ := d.string(n)
			all = append(all, s)
		case 't', 'f':
			all = append(all, d.raw(n))
		}
	}
	return all
}
