package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
)

type eventsShowOptions struct {
	ids                             []string
	payload, headers, attempts, raw bool
}

func newEventsShowCmd(a *App) *cobra.Command {
	o := &eventsShowOptions{}
	cmd := &cobra.Command{
		Use:   "show ID...",
		Short: "Show an event, its jobs and attempts",
		Long: `show prints all that is known of an event: what came in, its jobs, every attempt,
and what the last failed attempt printed. --payload and --headers print what
was received instead; with -o json they add the keys payload and headers.
` + idHelp,
		Example: `  orchestrate events show 1842
  orchestrate events show 72d3162e --attempts
  orchestrate events show 1842 --payload | jq .repository.full_name
  orchestrate events show 1842 --raw | sha256sum`,
		Args: args(1, -1, "the ID of an event"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			o.ids = ids
			switch {
			case o.raw && (o.headers || o.attempts || a.documents()):
				return usagef("--raw prints the signed bytes and nothing else; leave the other flags away")
			case o.raw && len(ids) > 1:
				return usagef("--raw takes one ID, got %d: their bytes could not be told apart", len(ids))
			}
			return runEventsShow(cmd.Context(), a, o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&o.payload, "payload", false, "print the payload as JSON")
	f.BoolVar(&o.headers, "headers", false, "print the headers that were kept")
	f.BoolVar(&o.attempts, "attempts", false, "print the output of every attempt")
	f.BoolVar(&o.raw, "raw", false, "print the exact bytes that were signed, and nothing else")
	return cmd
}

// shown is an event as show prints it in JSON.
type shown struct {
	*queue.Detail
	Headers map[string]string `json:"headers,omitempty"`
	Payload json.RawMessage   `json:"payload,omitempty"`
}

func runEventsShow(ctx context.Context, a *App, o *eventsShowOptions) error {
	q, err := a.queue(ctx)
	if err != nil {
		return err
	}
	ids, err := resolve(ctx, q, o.ids)
	if err != nil {
		return err
	}
	if a.output == formatTable || len(ids) == 1 {
		for i, id := range ids {
			if err := o.show(ctx, a, q, id, i > 0); err != nil {
				return err
			}
		}
		return nil
	}
	l := newList[*shown](a, nil, nil)
	for _, id := range ids {
		s, err := o.load(ctx, q, id)
		if err != nil {
			return err
		}
		if err := l.Add(s); err != nil {
			return err
		}
	}
	return l.Close()
}

// show prints one event; another says that one stands before it.
func (o *eventsShowOptions) show(ctx context.Context, a *App, q *queue.Queue, id int64, another bool) error {
	if another {
		if err := a.printLine(""); err != nil {
			return err
		}
	}
	switch {
	case o.raw:
		p, err := q.Payload(ctx, id)
		if err != nil {
			return err
		}
		_, err = a.Out.Write(p.Body)
		return err
	case a.output == formatTable && (o.payload || o.headers):
		p, err := q.Payload(ctx, id)
		if err != nil {
			return err
		}
		return o.message(a, p)
	}
	s, err := o.load(ctx, q, id)
	if err != nil {
		return err
	}
	if a.output == formatTable {
		return page(a, s.Detail, o.attempts)
	}
	return a.printJSON(s)
}

func (o *eventsShowOptions) load(ctx context.Context, q *queue.Queue, id int64) (*shown, error) {
	d, err := q.Show(ctx, id)
	if err != nil {
		return nil, err
	}
	s := &shown{Detail: d}
	if !o.payload && !o.headers {
		return s, nil
	}
	p, err := q.Payload(ctx, id)
	if err != nil {
		return nil, err
	}
	if o.headers {
		s.Headers = p.Headers
	}
	if o.payload {
		if s.Payload, err = p.JSON(); err != nil {
			return nil, fmt.Errorf("payload of event %d: %w", id, err)
		}
	}
	return s, nil
}

// message prints what was received: headers, then the payload, indented.
func (o *eventsShowOptions) message(a *App, p *queue.Payload) error {
	var b bytes.Buffer
	if o.headers {
		for _, name := range sortedKeys(p.Headers) {
			fmt.Fprintf(&b, "%s: %s\n", printable(name), printable(p.Headers[name]))
		}
	}
	if o.payload {
		body, err := p.JSON()
		if err != nil {
			return err
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		if !json.Valid(body) {
			return errors.New("payload: no valid JSON; --raw prints what is stored")
		}
		b.Write(escapeControls(indented(bytes.TrimSpace(body), "")))
		b.WriteByte('\n')
	}
	_, err := a.Out.Write(b.Bytes())
	return err
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// page prints an event for a reader.
func page(a *App, d *queue.Detail, allOutput bool) error {
	now := a.now()
	var b strings.Builder
	for _, f := range facts(a, d, now) {
		if f[1] != "" {
			value := queue.Printable(f[1])
			if f[0] == "Status" && a.colored() {
				value = statusColor(value)
			}
			fmt.Fprintf(&b, "%-12s%s\n", f[0], value)
		}
	}
	if err := a.printLine("%s", strings.TrimSuffix(b.String(), "\n")); err != nil {
		return err
	}
	if d.PurgedAt != 0 {
		return a.printLine("\nIts payload, jobs and attempts are gone; the delivery id is remembered.")
	}
	if err := pageJobs(a, d.ID, d.Jobs, now); err != nil {
		return err
	}
	if err := pageAttempts(a, d.Attempts, now); err != nil {
		return err
	}
	return pageOutput(a, d.Attempts, allOutput)
}

// facts are the lines at the top of the page; those without a value are left
// away.
func facts(a *App, d *queue.Detail, now queue.Time) [][2]string {
	optional := func(t queue.Time) string {
		if t == 0 {
			return ""
		}
		return a.moment(t, now)
	}
	counted := func(n int, last queue.Time) string {
		switch {
		case n == 0:
			return ""
		case last == 0:
			return itoa(int64(n))
		}
		return fmt.Sprintf("%d, the last %s", n, a.moment(last, now))
	}
	pull := number(d.Number)
	if pull != "" {
		pull = "#" + pull
	}
	return [][2]string{
		{"Event", itoa(d.ID)},
		{"Status", string(d.Status)},
		{"Error", string(d.ErrorMessage)},
		{"Type", d.Kind()},
		{"Repository", string(d.Repository)},
		{"Number", pull},
		{"Ref", string(d.Ref)},
		{"Sender", string(d.Sender)},
		{"Delivery", d.DeliveryID},
		{"Source", d.Source},
		{"Hook", number(d.HookID)},
		{"Received", a.moment(d.ReceivedAt, now)},
		{"Processed", optional(d.ProcessedAt)},
		{"Next retry", optional(d.NextRetryAt)},
		{"Requeued", optional(d.RequeuedAt)},
		{"Purged", optional(d.PurgedAt)},
		{"Duplicates", counted(d.DuplicateCount, d.LastDuplicateAt)},
		{"Conflicts", counted(d.ConflictCount, 0)},
		{"Body", fmt.Sprintf("%s, sha256 %s", humanize.Bytes(uint64(max(0, d.BodySize))), d.BodySHA256)},
	}
}

func pageJobs(a *App, id int64, jobs []queue.Job, now queue.Time) error {
	if len(jobs) == 0 {
		return a.printLine("\nNo route wanted it. Why not: orchestrate routes test %d", id)
	}
	if err := a.printLine("\nJobs"); err != nil {
		return err
	}
	cols := columns("ROUTE", "STATUS", "RETRIES", "CRASHES", "DUE", "STARTED", "FINISHED", "WORKER", "ERROR")
	cols = onlyWide(narrow(cols, "ROUTE", "WORKER", "ERROR"), "CRASHES", "STARTED")
	cols[1].color = statusColor
	l := newList(a, cols, func(j queue.Job) []string {
		due := queue.Time(0)
		if j.Status == queue.StatusPending || j.Status == queue.StatusFailed {
			due = j.DueAt
		}
		return []string{
			j.Route, string(j.Status), fmt.Sprintf("%d/%d", j.RetryCount, j.MaxRetries), itoa(int64(j.CrashCount)),
			a.due(due, now), a.when(j.StartedAt, now), a.when(j.FinishedAt, now), string(j.WorkerID), string(j.ErrorMessage),
		}
	})
	for _, j := range jobs {
		if err := l.Add(j); err != nil {
			return err
		}
	}
	return l.Close()
}

func pageAttempts(a *App, attempts []queue.Attempt, now queue.Time) error {
	if len(attempts) == 0 {
		return nil
	}
	if err := a.printLine("\nAttempts"); err != nil {
		return err
	}
	cols := columns("ROUTE", "ATTEMPT", "OUTCOME", "STARTED", "TOOK", "EXIT", "WORKER", "VERSION", "CONFIG", "ERROR")
	cols = onlyWide(narrow(cols, "ROUTE", "ERROR"), "WORKER", "VERSION", "CONFIG")
	cols[2].color = statusColor
	l := newList(a, cols, func(t queue.Attempt) []string {
		return []string{
			t.Route, itoa(t.Seq), string(t.Ending), a.when(t.StartedAt, now), t.FinishedAt.Sub(t.StartedAt).String(),
			exitOf(t), string(t.WorkerID), string(t.Version), string(t.ConfigHash), string(t.ErrorMessage),
		}
	})
	for _, t := range attempts {
		if err := l.Add(t); err != nil {
			return err
		}
	}
	return l.Close()
}

func exitOf(t queue.Attempt) string {
	switch {
	case t.ExitCode != nil:
		return itoa(int64(*t.ExitCode))
	case t.HTTPStatus != 0:
		return itoa(int64(t.HTTPStatus))
	}
	return ""
}

// pageOutput prints what attempts printed: of the last failed one, or of all.
func pageOutput(a *App, attempts []queue.Attempt, all bool) error {
	if !all {
		attempts = lastFailed(attempts)
	}
	for _, t := range attempts {
		if t.Output == "" {
			continue
		}
		if err := a.printLine("\nOutput of attempt %d of %s", t.Seq, printable(t.Route)); err != nil {
			return err
		}
		for line := range strings.Lines(string(t.Output)) {
			if err := a.printLine("%s", strings.TrimRight("    "+queue.Printable(strings.TrimRight(line, "\r\n")), " ")); err != nil {
				return err
			}
		}
	}
	return nil
}

func lastFailed(attempts []queue.Attempt) []queue.Attempt {
	var last *queue.Attempt
	for i, t := range attempts {
		failed := t.Ending == queue.EndFailed || t.Ending == queue.EndUnavailable || t.Ending == queue.EndDeadLetter
		if failed && (last == nil || t.FinishedAt >= last.FinishedAt) {
			last = &attempts[i]
		}
	}
	if last == nil {
		return nil
	}
	return []queue.Attempt{*last}
}
