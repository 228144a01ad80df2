package cli

import (
	"errors"
	"strings"
	"testing"

	"orchestrate/internal/queue"
)

const question = "Requeue 4 dead jobs (deploy 2, mirror 2) of 2 events? Their handlers will run again. [y/N] "

func TestPrompt(t *testing.T) {
	for _, tt := range []struct {
		name, reply string
		args        []string
		code        int
		out, stderr string
	}{
		{"yes", "y\n", nil, 0, "requeued 4\n", question},
		{"the word", "Yes\n", nil, 0, "requeued 4\n", question},
		{"no", "n\n", nil, 5, "", question + "orchestrate: refused: not confirmed, nothing was changed\n"},
		{"nothing", "\n", nil, 5, "", question},
		{"end of input", "", nil, 5, "", question + "\norchestrate: refused"},
		{"not asked", "", []string{"--yes"}, 0, "requeued 4\n", ""},
		{"no input", "y\n", []string{"--no-input"}, 5, "", "there is no terminal to ask on"},
		{"nothing to ask", "", []string{"--repo", "none/none"}, 0, "requeued 0\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, 2, "deploy", "mirror")
			f.kill()
			f.width, f.reply = 100, tt.reply
			args := append([]string{"events", "requeue-dead"}, tt.args...)
			if tt.name != "nothing to ask" {
				args = append(args, "--all")
			}
			f.run(args...).want(t, tt.code, tt.out, tt.stderr)
		})
	}
}

func TestHintsAreForTerminals(t *testing.T) {
	f := newFixture(t, 2, "deploy")
	f.kill()
	if r := f.run("events", "list"); r.stderr != "" {
		t.Errorf("in a pipe: %q, want nothing", r.stderr)
	}
	f.width = 100
	for args, want := range map[string]string{
		"":                               "2 events. Requeue: orchestrate events requeue-dead --all --config ",
		"--status dead_letter":           "Requeue: orchestrate events requeue-dead --all --config ",
		"--repo acme/api --limit 1":      "1 event. Requeue: orchestrate events requeue-dead --repo acme/api --config ",
		"--event pull_request.opened -q": "",
	} {
		r := f.run(append([]string{"events", "list"}, strings.Fields(args)...)...)
		r.want(t, 0, "*", want)
	}
	f.run("events", "list").want(t, 0, "*", "Why: orchestrate events show 2 --config ")
}

func TestPartlyDone(t *testing.T) {
	for _, tt := range []struct {
		name string
		bulk queue.Bulk
		err  error
		code int
		out  string
		msg  string
	}{
		{"all", queue.Bulk{Matched: 3, Changed: 3}, nil, 0, "requeued 3\n", ""},
		{
			"moved meanwhile",
			queue.Bulk{Matched: 3, Changed: 2, Failed: 1},
			nil, 3, "requeued 2\n",
			"partly done: requeued 2; 1 job moved meanwhile; look again and repeat",
		},
		{
			"broken off",
			queue.Bulk{Matched: 3, Changed: 2, Failed: 1},
			queue.ErrUnavailable, 3, "requeued 2\n",
			"partly done: requeued 2; database unavailable",
		},
		{"failed", queue.Bulk{Matched: 1, Failed: 1}, queue.ErrUnavailable, 6, "", "database unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, out := newOutput(formatTable)
			err := endBulk(t.Context(), a, tt.bulk, tt.err, bulkVerb{done: "requeued"})
			must(a.Out.Flush())
			if out.String() != tt.out || exitCodeOf(err) != tt.code {
				t.Errorf("printed %q and ended with %d, want %q and %d", out, exitCodeOf(err), tt.out, tt.code)
			}
			if err != nil && err.Error() != tt.msg {
				t.Errorf("got %q, want %q", err, tt.msg)
			}
			if tt.code == 3 && errors.Is(err, queue.ErrUnavailable) {
				t.Error("the cause decides the exit code")
			}
		})
	}
}

func TestPageIsColoured(t *testing.T) {
	f := newFixture(t, 1, "deploy")
	f.kill()
	f.width = 120
	r := f.run("events", "show", "1")
	if want := "Status      \x1b[31mdead_letter\x1b[0m\n"; !strings.Contains(r.out, want) {
		t.Errorf("got\n%q\nwant %q in it", r.out, want)
	}
}
