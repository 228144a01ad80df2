package cli

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"orchestrate/internal/config"
	"orchestrate/internal/handler"
	"orchestrate/internal/queue"
	"orchestrate/internal/route"
	"orchestrate/internal/webhook"
)

func newRoutesCmd(a *App) *cobra.Command {
	cmd := newGroup("routes", "List and try the routes of the configuration",
		"A route is a rule of the configuration: which events start what.")
	cmd.AddCommand(newRoutesListCmd(a), newRoutesTestCmd(a))
	return cmd
}

func newRoutesListCmd(a *App) *cobra.Command {
	return printsList(&cobra.Command{
		Use:   "list",
		Short: "List the routes of the configuration",
		Long: `list prints the routes of the configuration in their order: what they want, and
what they do. The database stays closed; how many jobs wait for each is told by
orchestrate status.`,
		Example: `  orchestrate routes list
  orchestrate routes list -o wide --config new.yaml`,
		Args: args(0, 0, ""),
		RunE: func(*cobra.Command, []string) error { return runRoutesList(a) },
	})
}

func runRoutesList(a *App) error {
	w, err := a.wire()
	if err != nil {
		return err
	}
	cols := columns("ROUTE", "ON", "FILTER", "DOES", "IF", "AT_ONCE", "TIMEOUT", "RETRIES")
	cols = onlyWide(narrow(cols, "ON", "FILTER", "DOES"), "IF", "AT_ONCE", "TIMEOUT", "RETRIES")
	l := newList(a, cols, func(r config.ShownRoute) []string {
		does, timeout := "", ""
		if r.Run != nil {
			does, timeout = "run "+strings.Join(r.Run.Command, " "), r.Run.Timeout
		} else {
			does, timeout = "forward to "+r.Forward.URL, r.Forward.Timeout
		}
		atOnce := ""
		if r.Concurrency != nil {
			atOnce = itoa(int64(*r.Concurrency))
		}
		return []string{
			r.Name, strings.Join(r.On, ", "), r.Filter.String(), does, strings.Join(strings.Fields(r.If), " "),
			atOnce, timeout, itoa(int64(r.Retry.Max)),
		}
	})
	for _, r := range w.config.Show().Routes {
		if err := l.Add(r); err != nil {
			return err
		}
	}
	if err := l.Close(); err != nil {
		return err
	}
	if len(w.handlers) == 0 && a.output == formatTable {
		a.note("the configuration has no routes")
	}
	return nil
}

type routesTestOptions struct {
	id, payload, event, action string
	explain                    bool
}

func newRoutesTestCmd(a *App) *cobra.Command {
	o := &routesTestOptions{}
	cmd := printsList(&cobra.Command{
		Use:   "test (ID | --payload FILE --event TYPE)",
		Short: "Tell which routes want an event, and why the others do not",
		Long: `test asks every route of the configuration about an event: one that is stored, or
a payload from a file (- is standard input). Nothing is started or changed, and
for a payload the database stays closed. With --explain every condition is told
with the value that it met, and the command or request that would follow, as it
would be, but for secrets.
` + idHelp,
		Example: `  orchestrate routes test 1842
  orchestrate routes test 1842 --config new.yaml --explain
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
	})
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.payload, "payload", "", "`file` with a payload as JSON; - is standard input")
	f.StringVar(&o.event, "event", "", "`type` of the event, or type.action")
	f.StringVar(&o.action, "action", "", "`action`, instead of the payload's")
	f.BoolVar(&o.explain, "explain", false, "tell every condition, and what would be done")
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

// verdict is what a route says of an event, with its conditions, and what it
// would do.
type verdict struct {
	Route      string            `json:"route"`
	Match      bool              `json:"match"`
	Error      queue.Text        `json:"error"` // why it can't be told
	Conditions []route.Predicate `json:"conditions"`
	Preview    *handler.Preview  `json:"preview"`       // of a route that matches
	Refused    queue.Text        `json:"preview_error"` // why it would do nothing
}

func runRoutesTest(ctx context.Context, a *App, o *routesTestOptions) error {
	w, err := a.wire()
	if err != nil {
		return err
	}
	e, p, err := o.load(ctx, a)
	if err != nil {
		return err
	}
	cols := onlyWide(narrow(columns("ROUTE", "MATCH", "WHY", "DOES"), "WHY"), "DOES")
	l := newList(a, cols, func(v verdict) []string {
		does := append(v.does(), "")
		return []string{v.Route, v.matches(), v.why(), does[0]}
	})
	for i, name := range w.queue.RouteNames() {
		v := w.verdict(i, name, e, p)
		if o.explain && a.output == formatTable {
			err = explain(a, v)
		} else {
			err = l.Add(v)
		}
		if err != nil {
			return err
		}
	}
	if err := l.Close(); err != nil {
		return err
	}
	if len(w.handlers) == 0 && a.output == formatTable {
		a.note("the configuration has no routes")
	}
	return nil
}

func (w *wired) verdict(i int, name string, e *queue.Event, p *queue.Payload) verdict {
	v := verdict{Route: name, Conditions: w.routes.Explain(name, e, p)}
	var err error
	if v.Match, err = w.routes.Wants(name, e, p); err != nil {
		v.Error = queue.Clean(err.Error())
	}
	if v.Match {
		preview, err := w.handlers[i].Preview(queue.NewTask(e, p, name, 1))
		if err != nil {
			v.Refused = queue.Clean(err.Error())
		} else {
			v.Preview = &preview
		}
	}
	return v
}

func (v verdict) matches() string {
	switch {
	case v.Error != "":
		return "unknown"
	case v.Match:
		return "yes"
	}
	return "no"
}

// why names the conditions that did not hold, or those that did.
func (v verdict) why() string {
	if v.Error != "" {
		return string(v.Error)
	}
	var told []string
	for _, c := range v.Conditions {
		if c.Held == v.Match {
			told = append(told, condition(c))
		}
	}
	return strings.Join(told, "; ")
}

func condition(c route.Predicate) string {
	fits := map[bool]string{true: "fits", false: "does not fit"}[c.Held]
	switch {
	case c.Error != "":
		return c.Name + ": " + strings.TrimPrefix(string(c.Error), c.Name+": ")
	case c.Name == "if":
		return fmt.Sprintf("if: %s is %t", strings.Join(strings.Fields(strings.Join(c.Wanted, " ")), " "), c.Held)
	}
	return fmt.Sprintf("%s: %s %s %s", c.Name, printable(c.Actual), fits, strings.Join(c.Wanted, ", "))
}

// does tells what a route that matches would do, in lines.
func (v verdict) does() []string {
	switch {
	case v.Refused != "":
		return []string{"nothing: a dead letter at once: " + string(v.Refused)}
	case v.Preview == nil:
		return nil
	case v.Preview.Forward != nil:
		f := v.Preview.Forward
		lines := []string{fmt.Sprintf("%s %s, %s", f.Method, f.URL, humanize.Bytes(uint64(max(0, f.BodyBytes))))}
		for _, name := range slices.Sorted(maps.Keys(f.Headers)) {
			lines = append(lines, name+": "+f.Headers[name])
		}
		return lines
	}
	r := v.Preview.Run
	words := make([]string, len(r.Command))
	for i, w := range r.Command {
		words[i] = config.ShellWord(w)
	}
	lines := []string{"run " + strings.Join(words, " ")}
	if r.Dir != "" {
		lines = append(lines, "in "+string(r.Dir))
	}
	reads := r.Stdin
	if strings.Contains(reads, "\n") || len(reads) > maxStdinLine {
		reads = fmt.Sprintf("%s: %s", humanize.Bytes(uint64(len(reads))), queue.Cut(queue.Printable(reads), maxStdinLine))
	}
	return append(lines, "reading "+reads, "with "+strings.Join(r.Env, " "))
}

// maxStdinLine is how much of a standard input is shown, in bytes; JSON has all
// of it.
const maxStdinLine = 200

// explain prints a verdict as a paragraph.
func explain(a *App, v verdict) error {
	head := map[string]string{"yes": "matches", "no": "does not match", "unknown": "can't be told; it would become a dead letter"}
	lines := []string{v.Route + " " + head[v.matches()]}
	for _, c := range v.Conditions {
		mark := map[bool]string{true: "+ ", false: "- "}[c.Held]
		lines = append(lines, "  "+mark+condition(c))
		for _, part := range c.Parts {
			lines = append(lines, "      "+part.Text+" = "+part.Value)
		}
	}
	for i, line := range v.does() {
		if i == 0 {
			line = "would " + line
		}
		lines = append(lines, "  "+strings.Repeat("  ", min(i, 1))+line)
	}
	for _, line := range lines {
		if err := a.printLine("%s", queue.Printable(line)); err != nil {
			return err
		}
	}
	return a.printLine("")
}

// load finds the event: in the database, or in a file.
func (o *routesTestOptions) load(ctx context.Context, a *App) (*queue.Event, *queue.Payload, error) {
	if o.id == "" {
		return o.read(ctx, a)
	}
	q, err := a.queue(ctx)
	if err != nil {
		return nil, nil, err
	}
	id, err := q.Resolve(ctx, o.id)
	if err != nil {
		return nil, nil, err
	}
	d, err := q.Show(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	p, err := q.Payload(ctx, id)
	return &d.Event, p, err
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
	e, p, err := webhook.Parse(webhook.Delivery{Source: config.GitHub, Header: h, Body: body, ReceivedAt: queue.Now()})
	if err != nil {
		return nil, nil, usagef("--payload %s with --event %s: %s", o.payload, o.event, err.Error())
	}
	if o.action != "" {
		e.Action = queue.Clean(o.action)
	}
	return e, p, nil
}
