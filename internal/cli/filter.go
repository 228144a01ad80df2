package cli

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
)

// filterOptions are the flags that choose events, the same for the list and
// for the verbs over many.
type filterOptions struct {
	status, event, action, repo, sender, route, delivery, source string
	since, until                                                 string
	limit                                                        int
	cursor                                                       int64
	all                                                          bool
}

const filterHelp = `
Filters are ANDed. --event takes an event with or without its action
(pull_request, pull_request.opened). --repo and --sender ignore case. --since
and --until compare the time of receipt and take a duration back from now (90m,
12h, 7d, 2w) or a time as RFC 3339 (2026-10-24T03:00:00Z).`

// addFilterFlags defines the flags; all says what --all means here.
func addFilterFlags(a *App, cmd *cobra.Command, o *filterOptions, limit int, limitHelp, allHelp string) {
	o.define(cmd.Flags(), limit, limitHelp, allHelp)
	must(cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(statusNames(), cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("route", completeRoutes(a)))
}

func (o *filterOptions) define(f *pflag.FlagSet, limit int, limitHelp, allHelp string) {
	f.SortFlags = false
	f.StringVar(&o.status, "status", "", "`status` of the event: "+strings.Join(statusNames(), ", "))
	f.StringVar(&o.event, "event", "", "event `type`, or type.action")
	f.StringVar(&o.action, "action", "", "`action` of the event")
	f.StringVar(&o.repo, "repo", "", "repository, as `owner/name`")
	f.StringVar(&o.sender, "sender", "", "`login` of who caused it")
	f.StringVar(&o.route, "route", "", "events with a job of this `route`")
	f.StringVar(&o.delivery, "delivery", "", "delivery `id`, or the start of one")
	f.StringVar(&o.source, "source", "", "`source` that it came in by")
	f.StringVar(&o.since, "since", "", "received since this `time`, or so long ago")
	f.StringVar(&o.until, "until", "", "received before this `time`, or so long ago")
	f.IntVar(&o.limit, "limit", limit, limitHelp)
	f.Int64Var(&o.cursor, "cursor", 0, "only ids below this `id`, where the last page ended")
	f.BoolVar(&o.all, "all", false, allHelp)
}

func statusNames() []string {
	var names []string
	for _, s := range queue.Statuses() {
		names = append(names, string(s))
	}
	return names
}

// parse checks the flags and makes what the queue takes of them.
func (o *filterOptions) parse(f *pflag.FlagSet, now queue.Time) (queue.Filter, error) {
	q := queue.Filter{
		Status: queue.Status(o.status), Repository: o.repo, Sender: o.sender, Route: o.route,
		Delivery: o.delivery, Source: o.source, Before: o.cursor,
	}
	if err := o.check(f); err != nil {
		return q, err
	}
	var err error
	if q.EventType, q.Action, err = splitEvent(o.event, o.action); err != nil {
		return q, err
	}
	q.Since, q.Until, err = o.window(now)
	return q, err
}

// window is the time of receipt that is asked for. It is checked before the
// database is opened, and told again by the clock of that.
func (o *filterOptions) window(now queue.Time) (since, until queue.Time, err error) {
	if since, err = parseTime("--since", o.since, now); err != nil {
		return 0, 0, err
	}
	if until, err = parseTime("--until", o.until, now); err != nil {
		return 0, 0, err
	}
	if since != 0 && until != 0 && since >= until {
		return 0, 0, usagef("--since %s is not before --until %s: nothing can match", o.since, o.until)
	}
	return since, until, nil
}

func (o *filterOptions) check(f *pflag.FlagSet) error {
	if err := notEmpty(f, append(filterFlags(), "status")...); err != nil {
		return err
	}
	for _, name := range filterFlags() {
		if v := f.Lookup(name).Value.String(); v != queue.Printable(v) {
			return usagef("--%s %q: no event has that: what is invisible, or not UTF-8, is not stored", name, v)
		}
	}
	switch {
	case o.status != "" && !slices.Contains(queue.Statuses(), queue.Status(o.status)):
		return usagef("unknown status %q: want one of %s", o.status, strings.Join(statusNames(), ", "))
	case f.Changed("limit") && o.limit < 1:
		return usagef("--limit %d: want at least 1", o.limit)
	case f.Changed("cursor") && o.cursor < 1:
		return usagef("--cursor %d: want the id of an event", o.cursor)
	}
	return nil
}

// splitEvent takes an event type with or without its action, and an action
// apart.
func splitEvent(event, action string) (eventType, act string, err error) {
	eventType, act, dotted := strings.Cut(event, ".")
	switch {
	case dotted && (eventType == "" || act == ""):
		return "", "", usagef("event %q: want a type, or type.action", event)
	case dotted && action != "" && action != act:
		return "", "", usagef("event %q and action %q contradict each other", event, action)
	case dotted:
		return eventType, act, nil
	}
	return eventType, action, nil
}

// parseTime takes a duration back from now, or RFC 3339; empty is no time.
func parseTime(flag, s string, now queue.Time) (queue.Time, error) {
	if s == "" {
		return 0, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		if t.UnixMilli() <= 0 || t.UTC().Year() > 9999 { // which could not be told
			return 0, usagef("%s %q: want a time after 1970 and before 10000, in UTC", flag, s)
		}
		return queue.At(t), nil
	}
	d, err := config.ParseDuration(s)
	if err != nil {
		return 0, usagef("%s: %s; or a time as 2026-10-24T03:00:00Z", flag, err.Error())
	}
	if t := now.Add(-d); t > 0 {
		return t, nil
	}
	return 0, usagef("%s %q: that is before 1970", flag, s)
}

// filterFlags names the flags that choose by what an event is, without its
// status, which a verb implies.
func filterFlags() []string {
	return []string{"event", "action", "repo", "sender", "route", "delivery", "source", "since", "until"}
}

// wordsOf rebuilds flags of a command line for another one, those named;
// wordsExcept all but those. Times are fixed, so that the other command means
// the same events.
func wordsOf(flags *pflag.FlagSet, q queue.Filter, names ...string) []string {
	return words(flags, q, func(name string) bool { return slices.Contains(names, name) })
}

func wordsExcept(flags *pflag.FlagSet, q queue.Filter, names ...string) []string {
	return words(flags, q, func(name string) bool { return !slices.Contains(names, name) })
}

func words(flags *pflag.FlagSet, q queue.Filter, wanted func(name string) bool) []string {
	var words []string
	flags.Visit(func(f *pflag.Flag) {
		value := f.Value.String()
		switch {
		case !wanted(f.Name):
			return
		case f.Name == "since":
			value = q.Since.String()
		case f.Name == "until":
			value = q.Until.String()
		case f.Name == "database":
			value = config.WithoutPassword(value) // these words are shown
		case f.Value.Type() == "bool" && value == "false":
			words = append(words, "--"+f.Name+"=false")
			return
		case f.Value.Type() == "bool":
			words = append(words, "--"+f.Name)
			return
		}
		words = append(words, "--"+f.Name, config.ShellWord(value))
	})
	return words
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
