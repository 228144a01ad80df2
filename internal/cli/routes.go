package cli

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
	"orchestrate/internal/route"
	"orchestrate/internal/webhook"
)

func newRoutesCmd(a *App) *cobra.Command {
	cmd := newGroup("routes", "Try the routes of the configuration",
		"A route is a rule of the configuration: which events start which command.")
	cmd.AddCommand(newRoutesTestCmd(a))
	return cmd
}

type routesTestOptions struct {
	id, payload, event, action string
}

func newRoutesTestCmd(a *App) *cobra.Command {
	o := &routesTestOptions{}
	cmd := &cobra.Command{
		Use:   "test (ID | --payload FILE --event TYPE)",
		Short: "Tell which routes want an event, and why the others do not",
		Long: `test asks every route of the configuration about an event: one that is stored, or
a payload from a file (- is standard input). Nothing is started or changed, and
for a payload the database stays closed.
` + idHelp,
		Example: `  orchestrate routes test 1842
  orchestrate routes test 1842 --config new.yaml
  orchestrate routes test --payload push.json --event push
  orchestrate routes test --payload pr.json --event pull_request.closed`,
		Args: args(0, 1, "the ID of an event"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) > 0 {
				o.id = args[0]
			}
			if err := o.check(cmd); err != nil {
				return err
			}
			return runRoutesTest(cmd.Context(), a, o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.payload, "payload", "", "`file` with a payload as JSON; - is standard input")
	f.StringVar(&o.event, "event", "", "`type` of the event, or type.action")
	f.StringVar(&o.action, "action", "", "`action`, instead of the payload's")
	must(cmd.RegisterFlagCompletionFunc("event", cobra.FixedCompletions(webhook.Examples(), cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (o *routesTestOptions) check(cmd *cobra.Command) (err error) {
	if err := notEmpty(cmd.Flags(), "payload", "event", "action"); err != nil {
		return err
	}
	switch {
	case o.id == "" && o.payload == "":
		return usagef("%s needs the ID of an event, or --payload FILE with --event TYPE; see: %s --help", cmd.Name(), cmd.CommandPath())
	case o.id != "" && (o.payload != "" || o.event != "" || o.action != ""):
		return usagef("an ID names a stored event with its payload; leave away --payload, --event and --action")
	case o.id == "" && o.event == "":
		return usagef("--event is missing: the payload does not tell its type; as in --event push")
	}
	o.event, o.action, err = splitEvent(o.event, o.action)
	return err
}

// verdict is what a route says of an event, with its conditions.
type verdict struct {
	Route      string            `json:"route"`
	Match      bool              `json:"match"`
	Error      queue.Text        `json:"error"`
	Conditions []route.Predicate `json:"conditions"`
}

func runRoutesTest(ctx context.Context, a *App, o *routesTestOptions) error {
	w, err := a.wire()
	if err != nil {
		return err
	}
	_, e, p, err := o.load(ctx, a, w)
	if err != nil {
		return err
	}
	l := newList(a, columns("ROUTE", "MATCH", "WHY"), func(v verdict) []string {
		match := map[bool]string{true: "yes", false: "no"}[v.Match]
		return []string{v.Route, match, v.why()}
	})
	for i, name := range w.queue.RouteNames() {
		v := verdict{Route: name, Conditions: w.matchers[i].Explain(e, p)}
		v.Match, _ = w.queue.Matcher.Wants(name, e, p)
		if err := l.Add(v); err != nil {
			return err
		}
	}
	if err := l.Close(); err != nil {
		return err
	}
	if l.n == 0 && a.output == formatTable {
		a.note("the configuration has no routes")
	}
	return nil
}

// why names the conditions that did not hold, or those that did.
func (v verdict) why() string {
	if v.Error != "" {
		return string(v.Error)
	}
	var told []string
	for _, c := range v.Conditions {
		if c.Held == v.Match {
			told = append(told, fmt.Sprintf("%s: %s %s %s", c.Name, printable(c.Actual),
				map[bool]string{true: "fits", false: "does not fit"}[c.Held], strings.Join(c.Wanted, ", ")))
		}
	}
	return strings.Join(told, "; ")
}

// load finds the event: in the database, or in a file.
func (o *routesTestOptions) load(ctx context.Context, a *App, w *wired) (*queue.Queue, *queue.Event, *queue.Payload, error) {
	if o.id == "" {
		e, p, err := o.read(ctx, a)
		return queue.New(nil, &w.queue, w.log), e, p, err
	}
	q, err := a.queue(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	id, err := q.Resolve(ctx, o.id)
	if err != nil {
		return nil, nil, nil, err
	}
	d, err := q.Show(ctx, id)
	if err != nil {
		return nil, nil, nil, err
	}
	p, err := q.Payload(ctx, id)
	return q, &d.Event, p, err
}

// read makes an event of a payload as the intake would of a delivery.
func (o *routesTestOptions) read(ctx context.Context, a *App) (*queue.Event, *queue.Payload, error) {
	body, err := a.readFile(ctx, "--payload", o.payload)
	if err != nil {
		return nil, nil, err
	}
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set(webhook.HeaderEvent, o.event)
	h.Set(webhook.HeaderDelivery, "test")
	e, p, err := webhook.Parse(webhook.Delivery{Source: source, Header: h, Body: body, ReceivedAt: queue.Now()})
	if err != nil {
		return nil, nil, usagef("--payload %s with --event %s: %s", o.payload, o.event, err.Error())
	}
	if o.action != "" {
		e.Action = queue.Clean(o.action)
	}
	return e, p, nil
}
