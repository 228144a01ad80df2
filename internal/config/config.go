package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// ErrInvalid is wrapped by every error of this package that comes of what was
// configured.
var ErrInvalid = errors.New("invalid configuration")

// Config is the effective configuration.
type Config struct {
	File string `json:"-"` // where it was read from; "" if no file was found
	Hash string `json:"-"` // names this configuration: 12 hex digits

	Empty bool `json:"-"` // the file holds nothing

	origins   map[string]string // where each scalar comes from, by key
	values    map[string]string // and what it is, as text
	positions map[string]position

	databaseURL string // of a server, whole
	stateDir    string // where the database is on a server

	Listen       string
	AdminListen  string
	Database     string   // absolute path of the SQLite file, or URL of a server without its password; see DatabaseURL
	Secrets      []string // references: env:NAME, file:PATH; see ResolveSecrets
	Sources      []Source // beside GitHub, the one that always exists
	OnRedelivery string   // RequeueDead or Ignore
	Log          Log
	DrainTimeout time.Duration
	Processor    Processor
	Retry        Retry
	Routes       []Route
}

// What a redelivery of a known event does to its dead jobs.
const (
	RequeueDead = "requeue_dead"
	Ignore      = "ignore"
)

// Log says what is logged, and how.
type Log struct {
	Level  string // debug, info, warn, error
	Format string // auto, text, json
}

// Processor sizes the worker.
type Processor struct {
	Concurrency  int           // handlers at once
	BatchSize    int           // jobs a claim takes at most
	PollInterval time.Duration // between looks when nothing woke the worker
}

// Backoff is a growing wait.
type Backoff struct {
	Base   time.Duration // before the first retry
	Factor float64       // times this with each further one
	Cap    time.Duration // never longer than this
}

// Retry is what follows a failure.
type Retry struct {
	Max int // retries after the first attempt
	Backoff
	Jitter      float64 // up to this fraction of a wait is added
	Unavailable Unavailable
}

// Unavailable is the schedule for what is away.
type Unavailable struct {
	Backoff
	For time.Duration // since the streak began; 0 makes it an ordinary error
}

// Source is where deliveries come in: a path with its secrets.
type Source struct {
	Name    string
	Path    string
	Secrets []string // references
}

// GitHub is the source that always exists, with the secrets of the top level.
const (
	GitHub     = "github"
	GitHubPath = "/webhooks/github"
)

// Source finds a source by name, but for GitHub; nil if there is none.
func (c *Config) Source(name string) *Source {
	for i := range c.Sources {
		if c.Sources[i].Name == name {
			return &c.Sources[i]
		}
	}
	return nil
}

// SourceNames lists the sources, GitHub first.
func (c *Config) SourceNames() []string {
	names := []string{GitHub}
	for _, s := range c.Sources {
		names = append(names, s.Name)
	}
	return names
}

// Route says which events start which handler: one of Run and Forward is set.
type Route struct {
	Name        string
	On          []string // as written; their grammar belongs to the routes
	Filter      Filter
	If          string // likewise
	Concurrency int    // at once in one worker; 0: as many as it has slots
	Run         *Run
	Forward     *Forward
	Retry       Retry // the global one, where the route says nothing else
}

// Filter narrows a route; what is empty lets everything pass.
type Filter struct {
	Repository, BaseBranch, Labels, Author, Paths []string
	Conclusion, AuthorAssociation, SenderType     []string
	SkipForks                                     bool
	Draft                                         *bool
}

// Run starts a command.
type Run struct {
	Command          []string // argv; never a shell string
	Dir              string   // absolute; "" is the directory of the process
	Env              map[string]string
	PassEnv          []string
	AllowLeadingDash bool // of what a template opens
	Stdin            string
	ExitCodes        ExitCodes
	Timeout          time.Duration
	Grace            time.Duration // between the request to end and the kill
}

// ExitCodes says what exit statuses mean; a list that is nil has its default.
type ExitCodes struct {
	Done        []int
	Unavailable []int
	Permanent   []int
}

// Forward posts the event to a URL.
type Forward struct {
	URL          string            // or a reference, where it is a secret itself
	Secret       string            // a reference; "": the body is not signed
	Headers      map[string]string // literal values or references
	Timeout      time.Duration
	AllowPrivate []string // CIDRs
}

// The defaults of handlers.
const (
	defaultTimeout        = 30 * time.Minute
	defaultGrace          = 10 * time.Second
	defaultForwardTimeout = 30 * time.Second
)

// Options says where a configuration comes from, besides the environment.
type Options struct {
	File string // --config; "": ORCHESTRATE_CONFIG, or the usual places
	None bool   // no file is read
	// Scalars leaves sources and routes unread: what is wrong with those does not
	// keep an operator from the database.
	Scalars bool
	Flags   map[string]*pflag.Flag // by key; one that was not given is not looked at
}

// Load reads, resolves and validates. Its errors are ErrInvalid: *Mistakes, with
// all that were found.
func Load(o Options) (*Config, error) { return load(o, systemFile) }

func load(o Options, system string) (*Config, error) {
	path, err := "", error(nil)
	if !o.None {
		path, err = find(o.File, system)
	}
	if err != nil {
		return nil, (&Mistakes{}).With(plain("", err))
	}
	root, text, m := readFile(path)
	if m != nil {
		return nil, (&Mistakes{}).With(m)
	}
	l := newLoader(path, text)
	l.c.Empty = root == nil
	l.read(root, o)
	if err := (&Mistakes{Config: &l.c}).With(l.named()...); err != nil {
		return nil, err
	}
	if l.c.Hash, err = hash(&l.c); err != nil {
		return nil, fmt.Errorf("hash the configuration: %w", err)
	}
	return &l.c, nil
}

// loader carries a configuration from its sources to its struct.
type loader struct {
	reader
	c       Config
	scalars map[string]any // what the file sets, as text, by key
	sources *yaml.Node
	routes  *yaml.Node
}

func newLoader(file string, text []byte) *loader {
	l := &loader{
		reader: reader{file: file, text: bytes.Split(text, []byte("\n")), positions: map[string]position{}},
		c:      Config{File: file, origins: map[string]string{}, values: map[string]string{}}, scalars: map[string]any{},
	}
	l.c.positions = l.positions
	return l
}

// read fills the configuration. Routes come last: they inherit.
func (l *loader) read(root *yaml.Node, o Options) {
	l.top(root)
	l.resolve(o.Flags)
	l.database()
	l.secrets()
	l.check()
	if o.Scalars {
		return
	}
	l.list(l.sources, "sources", "[{name: acme, path: /webhooks/acme, …}]", l.source)
	l.list(l.routes, "routes", "[{name: deploy, on: [push], …}]", l.route)
	l.checkPassed()
}

// top reads what the file holds at its top level.
func (l *loader) top(root *yaml.Node) {
	f := l.group(Keys(), "", func(k Key, n *yaml.Node, path string) {
		// Tried here, too, since a variable or a flag may hide it later.
		l.value(n, path, func(s string) error {
			if err := k.set(new(Config), s); err != nil {
				return err
			}
			l.scalars[k.Name] = s
			return nil
		})
	})
	f["secrets"] = func(n *yaml.Node, path string) {
		l.c.Secrets = l.strings(n, path, `["file:/etc/orchestrate/secret"]`, checkReference)
	}
	f["sources"] = func(n *yaml.Node, _ string) { l.sources = n }
	f["routes"] = func(n *yaml.Node, _ string) { l.routes = n }
	l.mapping(root, "", f)
}

// resolve sets every scalar from where it comes.
func (l *loader) resolve(flags map[string]*pflag.Flag) {
	v := viper.NewWithOptions(viper.KeyDelimiter("/")) // no key has one: viper is to see them flat
	l.fail("", v.MergeConfigMap(l.scalars))
	for _, k := range Keys() {
		f := flags[k.Name]
		v.SetDefault(k.Name, k.Default)
		l.fail("", v.BindEnv(k.Name, k.Env()))
		if f != nil {
			l.fail("", v.BindPFlag(k.Name, f))
		}
		origin := l.origin(k.Name, f)
		l.c.origins[k.Name], l.c.values[k.Name] = origin, v.GetString(k.Name)
		if origin != byDefault || k.Default != "" {
			l.failKey(k.Name, k.set(&l.c, v.GetString(k.Name)))
		}
	}
}

// byDefault is the origin of what nobody has set.
const byDefault = "default"

// origin names where the value of a key comes from.
func (l *loader) origin(key string, f *pflag.Flag) string {
	_, inFile := l.scalars[key]
	switch env := (Key{Name: key}).Env(); {
	case f != nil && f.Changed:
		return "--" + f.Name
	case os.Getenv(env) != "":
		return env
	case inFile:
		return l.line(key)
	}
	return byDefault
}

// line is where a field of the file begins.
func (l *loader) line(field string) string {
	return fmt.Sprintf("%s:%d", l.file, l.positions[field].line)
}

// failKey tells what is wrong with a key where its value comes from. Field is
// what it is told of, if that is more than the key.
func (l *loader) failKey(key string, err error, field ...string) {
	about := append(field, key)[0]
	switch origin := l.c.origins[key]; {
	case err == nil:
	case origin == byDefault:
		l.fail(about, err)
	case origin == l.line(key):
		m := l.c.Mistake(key, 0, 0, err)
		m.Field, m.Subject = about, about
		l.add(m)
	default:
		l.fail(origin, err)
	}
}

// database makes its path absolute, so that no command depends on where it was
// started: one in the file is relative to the file.
func (l *loader) database() {
	const key = "database"
	var err error
	switch {
	case l.c.OnServer():
		l.c.stateDir, err = defaultDatabase()
		l.c.stateDir = filepath.Dir(l.c.stateDir)
	case l.c.origins[key] == byDefault:
		l.c.Database, err = defaultDatabase()
	case l.c.origins[key] == l.line(key):
		l.c.Database, err = l.beside(l.c.Database)
	default:
		l.c.Database, err = filepath.Abs(l.c.Database)
	}
	l.failKey(key, err)
}

// secrets lets the variable of secrets replace the file's.
func (l *loader) secrets() {
	if os.Getenv("ORCHESTRATE_SECRETS") != "" {
		l.fail("ORCHESTRATE_SECRETS", errors.New("no such variable; put the secrets, one a line, into "+SecretVariable))
	}
	l.c.origins["secrets"] = byDefault
	if _, set := os.LookupEnv(SecretVariable); set {
		l.c.Secrets = []string{envPrefix + SecretVariable}
		l.c.origins["secrets"] = SecretVariable
		return
	}
	if _, inFile := l.positions["secrets"]; inFile {
		l.c.origins["secrets"] = l.line("secrets")
	}
	l.c.Secrets = l.absolute(l.c.Secrets)
}

// check compares what stands in different places.
func (l *loader) check() {
	if l.c.Listen == l.c.AdminListen && l.c.Listen != "" && !anyPort(l.c.Listen) {
		key, other := "admin_listen", "listen"
		if l.c.origins[key] == byDefault {
			key, other = other, key
		}
		l.failKey(key, fmt.Errorf("%s is also %s; give each an address of its own", quote(l.c.Listen), other))
	}
	l.checkRetry(l.c.Retry, func(path string, err error) {
		key := path + ".cap"
		if l.c.origins[path+".base"] != byDefault {
			key = path + ".base"
		}
		l.failKey(key, err, path)
	})
}

func (l *loader) checkRetry(r Retry, fail func(path string, err error)) {
	fail("retry", r.check())
	fail("retry.unavailable", r.Unavailable.check())
}

// hash is taken over the effective values. Secrets are references here; where
// the file lies is no part of it.
func hash(c *Config) (string, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6]), nil
}
