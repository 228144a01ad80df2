package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"orchestrate/internal/config"
	"orchestrate/internal/handler"
	"orchestrate/internal/queue"
	"orchestrate/internal/route"
	"orchestrate/internal/store"
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

func (a *App) loadConfig() (*config.Config, error) { return a.load(config.Options{}) }

func (a *App) load(o config.Options) (*config.Config, error) {
	if err := notEmpty(a.flags, "config"); err != nil {
		return nil, err // another file would be a surprise: it names commands to run
	}
	o.File, o.Flags = a.config, a.configFlags()
	return config.Load(o)
}

// wired is a configuration with the parts that it asks for.
type wired struct {
	config   *config.Config
	queue    queue.Config
	routes   *route.Table
	handlers []handler.Handler // of the routes, in their order
	base
}

// base is what every configuration of a process shares.
type base struct {
	log         *slog.Logger
	level       *slog.LevelVar
	redact      *redactor // for the secrets that this process holds
	version     string
	commands    *handler.Running
	runs        func(route string) bool // nil: none
	containment *handler.Containment    // of a daemon's commands
}

// wire loads the configuration and compiles its routes, once. Nothing is
// opened.
func (a *App) wire() (*wired, error) {
	if a.wired != nil {
		return a.wired, nil
	}
	c, err := a.loadConfig()
	if err != nil {
		return nil, a.everything(err)
	}
	b := base{level: &slog.LevelVar{}, redact: &redactor{}, version: readVersion(a.Version).Version, commands: &a.commands}
	if b.log, err = a.logger(c, b.level, b.redact); err != nil {
		return nil, err
	}
	if a.daemon {
		slog.SetDefault(b.log) // what net/http has to say goes through log
		b.containment = handler.DetectContainment()
	}
	b.runs = a.runs
	w, found := b.build(c, a.live)
	if err := (&config.Mistakes{Config: c}).With(found...); err != nil {
		return nil, err
	}
	a.wired = w
	return w, nil
}

// everything adds to what is wrong with a file what else is wrong with the
// routes in it, so that all can be mended at once.
func (a *App) everything(err error) error {
	var told *config.Mistakes
	if !errors.As(err, &told) || told.Config == nil {
		return err
	}
	_, found := base{redact: &redactor{}, runs: a.runs}.build(told.Config, a.live)
	return told.With(found...)
}

// compile makes routes of a configuration. The error tells every mistake.
func (b base) compile(c *config.Config) (*wired, error) {
	w, found := b.build(c, false)
	if err := (&config.Mistakes{Config: c}).With(found...); err != nil {
		return nil, err
	}
	return w, nil
}

// build makes routes of a configuration, and tells what is wrong with it. Where
// they are to run, directories and the secrets of forwards must be there; where
// deliveries are to come in, those of the sources, too.
func (b base) build(c *config.Config, receive bool) (*wired, []*config.Mistake) {
	w := &wired{config: c, base: b, queue: queue.Config{
		RequeueDead: c.OnRedelivery == config.RequeueDead, Hash: c.Hash,
		Sizes: queue.Sizes{
			Concurrency: c.Processor.Concurrency, BatchSize: c.Processor.BatchSize, PollInterval: c.Processor.PollInterval,
			DrainTimeout: max(c.DrainTimeout, 1), // 0 would be the default
		},
	}}
	specs := make([]route.Spec, len(c.Routes))
	for i, r := range c.Routes {
		specs[i] = route.Spec{Name: r.Name, On: r.On, Filter: route.Filter(r.Filter), If: r.If}
	}
	var err error
	var found []*config.Mistake
	w.routes, err = route.Compile(specs)
	for _, err := range parts(err) {
		var of *route.RouteError
		if errors.As(err, &of) {
			found = append(found, located(c, of.Index, of.Err))
		}
	}
	for i, r := range c.Routes {
		h, err := w.handler(r, b.runsRoute(r.Name))
		for _, err := range parts(err) {
			found = append(found, located(c, i, err))
		}
		w.handlers = append(w.handlers, h)
		w.queue.Routes = append(w.queue.Routes, queue.Route{
			Name: r.Name, Handler: h, Concurrency: r.Concurrency, Retry: retryPolicy(r.Retry),
		})
	}
	if receive {
		_, unresolved := w.resolve()
		found = append(found, unresolved...)
	}
	w.queue.Matcher = w.routes
	return w, found
}

func (b base) runsRoute(name string) bool { return b.runs != nil && b.runs(name) }

// parts are the errors that were joined, and joined again.
func parts(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, err := range joined.Unwrap() {
		all = append(all, parts(err)...)
	}
	return all
}

// located is an error of a route with the place in the file that it is about.
func located(c *config.Config, i int, err error) *config.Mistake {
	path := fmt.Sprintf("routes[%d]", i)
	var at *queue.FieldError
	if errors.As(err, &at) {
		return c.Mistake(path+"."+at.Field, at.Line, at.Column, at.Err)
	}
	return c.Mistake(path, 0, 0, err)
}

// handler is that of a route; nil of one that has none, which the configuration
// has told.
func (w *wired) handler(r config.Route, live bool) (handler.Handler, error) {
	switch {
	case r.Forward != nil:
		return w.forward(r.Forward, live)
	case r.Run == nil:
		return nil, nil
	}
	return handler.NewRun(handler.Run{
		Command: r.Run.Command, AllowLeadingDash: r.Run.AllowLeadingDash, Stdin: r.Run.Stdin,
		Dir: r.Run.Dir, CheckDir: live, Env: r.Run.Env, PassEnv: r.Run.PassEnv, Secrets: w.config.SecretVariables(),
		ExitCodes: handler.ExitCodes(r.Run.ExitCodes),
		Timeout:   r.Run.Timeout, Grace: max(r.Run.Grace, 1), // 0 would be the default
		Running: w.commands, Containment: w.containment,
	}, w.attemptsPath(), w.log)
}

// forward reads the secrets that a forward needs only where it is to run: an
// operator's shell may not have them.
func (w *wired) forward(f *config.Forward, live bool) (handler.Handler, error) {
	var errs []error
	resolve := func(field, ref string) []byte {
		if !live || !config.IsReference(ref) {
			return nil
		}
		secret, err := config.ResolveSecret(ref)
		if err != nil {
			errs = append(errs, &queue.FieldError{Field: field, Err: unresolved(err)})
			return nil
		}
		w.redact.add(secret)
		// A receiver may send back a part of it: the token behind "Bearer", the path
		// of a URL.
		for _, part := range strings.FieldsFunc(string(secret.Bytes()), func(r rune) bool { return r == ' ' || r == '/' || r == '=' || r == '&' }) {
			if len(part) >= enoughToRedact {
				w.redact.add(config.NewSecret([]byte(part), ref))
			}
		}
		return secret.Bytes()
	}
	target, from := f.URL, ""
	if config.IsReference(f.URL) {
		target, from = string(resolve("forward.url", f.URL)), f.URL
	}
	spec := handler.Forward{
		URL: target, URLFrom: from, Secret: resolve("forward.secret", f.Secret), SecretFrom: f.Secret, Timeout: f.Timeout,
		AllowPrivate: f.AllowPrivate, Headers: map[string]handler.ForwardHeader{},
	}
	for name, value := range f.Headers {
		h := handler.ForwardHeader{Value: value}
		if config.IsReference(value) {
			h = handler.ForwardHeader{Value: string(resolve("forward.headers."+name, value)), From: value}
		}
		spec.Headers[name] = h
	}
	h, err := handler.NewForward(spec, w.log)
	return h, errors.Join(append(errs, err)...)
}

// enoughToRedact is from how many bytes on a part of a secret can't be an
// ordinary word.
const enoughToRedact = 12

// unresolved is what is wrong with a reference, without saying that it is one.
func unresolved(err error) error {
	var e *config.SecretError
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Ref, e.Err)
	}
	return err
}

// secrets are those of the sources, GitHub's first.
func (w *wired) secrets() ([][]config.Secret, error) {
	all, found := w.resolve()
	return all, (&config.Mistakes{Config: w.config}).With(found...)
}

// resolve reads the secrets, and tells of the references that yield none.
func (w *wired) resolve() (all [][]config.Secret, found []*config.Mistake) {
	add := func(field string, refs []string) {
		secrets, err := config.ResolveSecrets(refs)
		for _, err := range parts(err) {
			var e *config.SecretError
			if errors.As(err, &e) {
				found = append(found, w.config.Mistake(fmt.Sprintf("%s[%d]", field, e.Index), 0, 0, unresolved(err)))
			}
		}
		all = append(all, secrets)
	}
	add("secrets", w.config.Secrets)
	for i, s := range w.config.Sources {
		add(fmt.Sprintf("sources[%d].secrets", i), s.Secrets)
	}
	return all, found
}

// warnings tells what is odd in a configuration, though it may be meant, in the
// order of the file.
func (w *wired) warnings() []string {
	var all []*config.Mistake
	index := map[string]int{}
	for i, r := range w.config.Routes {
		index[r.Name] = i
		if r.Run == nil || !w.runsRoute(r.Name) {
			continue
		}
		program := r.Run.Command[0]
		if strings.Contains(program, "/") && !filepath.IsAbs(program) {
			program = filepath.Join(r.Run.Dir, program)
		}
		if _, err := exec.LookPath(program); err != nil {
			err = &queue.FieldError{Field: "run.command[0]", Err: fmt.Errorf("%w; attempts fail until it is there", err)}
			all = append(all, located(w.config, i, err))
		}
	}
	for _, odd := range w.routes.Warnings() {
		err := &queue.FieldError{Field: odd.Field, Err: errors.New(odd.Text)}
		all = append(all, located(w.config, index[odd.Route], err))
	}
	config.InOrder(all)
	texts := make([]string, len(all))
	for i, m := range all {
		texts[i] = m.Error()
	}
	return texts
}

// warn logs what is odd.
func (w *wired) warn(ctx context.Context) {
	for _, text := range w.warnings() {
		w.log.WarnContext(ctx, "odd in the configuration", "what", text)
	}
}

// containmentText says what ends together with a command, and why it is no
// more.
func (w *wired) containmentText() string {
	if why := w.containment.Why(); why != "" {
		return w.containment.String() + ": " + why
	}
	return w.containment.String()
}

// attemptsPath is where running attempts keep their files: beside the database,
// where whoever takes over a dead worker's jobs finds what it left.
func (w *wired) attemptsPath() string {
	return filepath.Join(w.config.StateDir(), "attempts")
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
func (a *App) logger(c *config.Config, level *slog.LevelVar, r *redactor) (*slog.Logger, error) {
	level.Set(a.logLevel(c))
	format := "text"
	switch {
	case a.daemon:
		format = c.Log.Format
	case a.documents():
		format = "json"
	}
	return newLogger(a.Err, logOptions{
		format: format, terminal: a.ErrTTY, colour: a.color.wanted(a.ErrTTY, a.Getenv), least: level, redactor: r,
	})
}

func (a *App) logLevel(c *config.Config) slog.Level {
	level := slog.LevelWarn
	switch {
	case a.verbose:
		level = slog.LevelDebug
	case a.quiet:
		level = slog.LevelError
	case a.daemon:
		must(level.UnmarshalText([]byte(c.Log.Level))) // the configuration knows the same words
	}
	return level
}

// storeOptions says which database a command opens. They read the
// configuration without its routes, so that a schema can be mended whatever
// those say.
func (a *App) storeOptions() (store.Options, error) {
	c, err := a.load(config.Options{Scalars: true})
	if err != nil {
		return store.Options{}, err
	}
	log, err := a.logger(c, &slog.LevelVar{}, nil)
	if err != nil {
		return store.Options{}, err
	}
	return a.storeOptionsOf(c, log)
}

func (a *App) storeOptionsOf(c *config.Config, log *slog.Logger) (store.Options, error) {
	if err := store.CheckURL(c.DatabaseURL()); err != nil { // as text: what is configured is no mistake of the command line
		return store.Options{}, fmt.Errorf("%w: database: %s", config.ErrInvalid, err.Error())
	}
	o := store.Options{Database: c.DatabaseURL(), Create: a.daemon, Log: log}
	if !a.daemon {
		o.Timeout = max(a.timeout, time.Millisecond) // 0 would be the default
	}
	return o, nil
}

// queueWithoutRoutes is for what looks at the database whatever the routes of the
// configuration say: they may be what is wrong.
func (a *App) queueWithoutRoutes(ctx context.Context) (*queue.Queue, error) {
	o, err := a.storeOptions()
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	a.store = s
	return queue.New(s, &queue.Config{}, o.Log), nil
}

// queue opens the database that is there for an operator's command; a daemon's
// is created or brought up to date.
func (a *App) queue(ctx context.Context) (*queue.Queue, error) {
	w, err := a.wire()
	if err != nil {
		return nil, err
	}
	o, err := a.storeOptionsOf(w.config, w.log)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, o)
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
			known = append(known, queue.Printable(r.Route))
		}
	}
	return queue.UnknownRoute(name, "there are", known)
}

// secretPath is where serve keeps the secret that it made.
func secretPath(c *config.Config) string {
	return filepath.Join(c.StateDir(), "webhook-secret")
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
