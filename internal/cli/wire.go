package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"orchestrate/internal/config"
	"orchestrate/internal/handler"
	"orchestrate/internal/queue"
	"orchestrate/internal/route"
	"orchestrate/internal/store"
)

// Where deliveries of GitHub's come in.
const (
	source     = "github"
	sourcePath = "/webhooks/github"
)

// keyAnnotation marks a flag that sets a key of the configuration.
const keyAnnotation = "configuration_key"

// addKeyFlag defines the flag of a key of the configuration, with the checks
// and the default that the configuration has for it.
func addKeyFlag(f *pflag.FlagSet, key, name string) {
	for _, k := range config.Keys() {
		if k.Name == key {
			k.AddFlag(f, name)
			must(f.SetAnnotation(name, keyAnnotation, []string{key}))
			return
		}
	}
	panic("no configuration key " + key)
}

// configFlags are the flags of the running command that set keys.
func (a *App) configFlags() map[string]*pflag.Flag {
	flags := map[string]*pflag.Flag{}
	a.flags.VisitAll(func(f *pflag.Flag) {
		if key := f.Annotations[keyAnnotation]; len(key) == 1 {
			flags[key[0]] = f
		}
	})
	return flags
}

func (a *App) loadConfig() (*config.Config, error) {
	if err := notEmpty(a.flags, "config"); err != nil {
		return nil, err // another file would be a surprise: it names commands to run
	}
	return config.Load(config.Options{File: a.config, Flags: a.configFlags()})
}

// wired is the configuration with the parts that it asks for.
type wired struct {
	config   *config.Config
	queue    queue.Config
	matchers []*route.Matcher // of the routes, in their order
	log      *slog.Logger
	redact   *redactor // for the secrets that this process holds
	version  string
	commands *handler.Running
}

// wire loads the configuration and compiles its routes, once. Nothing is
// opened.
func (a *App) wire() (*wired, error) {
	if a.wired != nil {
		return a.wired, nil
	}
	c, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	w := &wired{
		config: c, version: readVersion(a.Version).Version, redact: &redactor{}, commands: &a.commands,
		queue: queue.Config{
			RequeueDead: c.OnRedelivery == config.RequeueDead, Hash: c.Hash,
			Sizes: queue.Sizes{
				Concurrency: c.Processor.Concurrency, BatchSize: c.Processor.BatchSize, PollInterval: c.Processor.PollInterval,
				DrainTimeout: max(c.DrainTimeout, 1), // 0 would be the default
			},
		},
	}
	if w.log, err = a.logger(c, w.redact); err != nil {
		return nil, err
	}
	for i, r := range c.Routes {
		compiled, m, err := w.compile(r)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: route %q: %w", config.ErrInvalid, c.Where(fmt.Sprintf("routes[%d]", i), 0, 0), r.Name, err)
		}
		w.queue.Routes = append(w.queue.Routes, compiled)
		w.matchers = append(w.matchers, m)
	}
	w.queue.Matcher = byName{w.queue.RouteNames(), w.matchers}
	a.wired = w
	return w, nil
}

type byName struct {
	names    []string
	matchers []*route.Matcher
}

func (t byName) Match(e *queue.Event, p *queue.Payload) (all []queue.Match) {
	for i, m := range t.matchers {
		if ok, err := m.Match(e, p); ok || err != nil {
			all = append(all, queue.Match{Route: t.names[i], Err: err})
		}
	}
	return all
}

func (t byName) Wants(name string, e *queue.Event, p *queue.Payload) (bool, error) {
	return t.matchers[slices.Index(t.names, name)].Match(e, p)
}

func (w *wired) compile(r config.Route) (queue.Route, *route.Matcher, error) {
	m, err := route.Compile(route.Spec{On: r.On, Filter: route.Filter{Repository: r.Filter.Repository}})
	if err != nil {
		return queue.Route{}, nil, err
	}
	h, err := handler.NewRun(handler.Run{
		Command: r.Run.Command, Dir: r.Run.Dir, Env: r.Run.Env, PassEnv: r.Run.PassEnv,
		Secrets: w.config.SecretVariables(), Timeout: r.Run.Timeout, Grace: max(r.Run.Grace, 1), // 0 would be the default
		Running: w.commands,
	}, w.attemptsPath(), w.log)
	if err != nil {
		return queue.Route{}, nil, fmt.Errorf("run: %w", err)
	}
	return queue.Route{Name: r.Name, Handler: h, Concurrency: r.Concurrency, Retry: retryPolicy(r.Retry)}, m, nil
}

// attemptsPath is where running attempts keep their files: beside the database,
// where whoever takes over a dead worker's jobs finds what it left.
func (w *wired) attemptsPath() string {
	return filepath.Join(filepath.Dir(w.config.Database), "attempts")
}

func retryPolicy(r config.Retry) queue.Retry {
	return queue.Retry{
		Max:     r.Max,
		Backoff: queue.Backoff{Base: r.Base, Factor: r.Factor, Cap: r.Cap, Jitter: r.Jitter},
		Unavailable: queue.Unavailable{
			Backoff: queue.Backoff{
				Base: r.Unavailable.Base, Factor: r.Unavailable.Factor, Cap: r.Unavailable.Cap, Jitter: r.Jitter,
			},
			For: r.Unavailable.For,
		},
	}
}

// logger is what the service of a command logs to. What an operator's verb
// does is told by its result, so that of those only warnings are logged, in the
// form that its other messages have.
func (a *App) logger(c *config.Config, r *redactor) (*slog.Logger, error) {
	level, format := "warn", "text"
	switch {
	case a.daemon:
		level, format = c.Log.Level, c.Log.Format
	case a.output != formatTable:
		format = "json"
	}
	switch {
	case a.verbose:
		level = "debug"
	case a.quiet:
		level = "error"
	}
	return newLogger(a.Err, format, level, a.ErrTTY, r)
}

// storeOptions says which database a command opens. They read the
// configuration without its routes, so that a schema can be mended whatever
// those say.
func (a *App) storeOptions() (store.Options, error) {
	c, err := a.loadConfig()
	if err != nil {
		return store.Options{}, err
	}
	log, err := a.logger(c, nil)
	return a.storeOptionsOf(c, log), err
}

func (a *App) storeOptionsOf(c *config.Config, log *slog.Logger) store.Options {
	o := store.Options{Path: c.Database, Create: a.daemon, Log: log}
	if !a.daemon {
		o.Timeout = max(a.timeout, time.Millisecond) // 0 would be the default
	}
	return o
}

// queue opens the database that is there for an operator's command; a daemon's
// is created or brought up to date.
func (a *App) queue(ctx context.Context) (*queue.Queue, error) {
	w, err := a.wire()
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, a.storeOptionsOf(w.config, w.log))
	if err != nil {
		return nil, err
	}
	a.store = s
	return queue.New(s, &w.queue, w.log), nil
}

// checkRoute refuses the name of a route that neither the configuration nor
// any job knows: it is a typing mistake, and an empty list would hide it.
func checkRoute(ctx context.Context, a *App, q *queue.Queue, name string) error {
	if name == "" || a.wired.queue.Route(name) != nil {
		return nil
	}
	stats, err := q.Stats(ctx)
	if err != nil {
		return err
	}
	known := a.wired.queue.RouteNames()
	for _, r := range stats.Routes {
		if r.Route == name {
			return nil
		}
		if a.wired.queue.Route(r.Route) == nil {
			known = append(known, r.Route)
		}
	}
	return queue.UnknownRoute(name, "there are", known)
}

// secretPath is where serve keeps the secret that it made.
func secretPath(c *config.Config) string {
	return filepath.Join(filepath.Dir(c.Database), "webhook-secret")
}

// maxFile bounds what is read from a file that an operator names: more than
// GitHub ever sends.
const maxFile = 32 << 20

// readFile reads the file of a flag; - is standard input.
func (a *App) readFile(ctx context.Context, flag, name string) ([]byte, error) {
	in := a.input(ctx)
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // the operator names it
		if err != nil {
			return nil, readError(flag, err)
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err == nil && len(b) > maxFile {
		return nil, usagef("%s %s: longer than %d bytes", flag, name, maxFile)
	}
	if err != nil {
		return nil, readError(flag, err)
	}
	return b, nil
}

func readError(flag string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return usagef("%s: %s", flag, err.Error())
	}
	return fmt.Errorf("%s: %w", flag, err)
}

// completeRoutes offers the routes of the configuration; the database stays
// closed.
func completeRoutes(a *App) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		a.flags = cmd.Flags()
		c, err := a.loadConfig()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := make([]string, len(c.Routes))
		for i, r := range c.Routes {
			names[i] = r.Name
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
