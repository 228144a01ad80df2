package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"orchestrate/internal/nearest"
)

// Key is a scalar of the configuration.
type Key struct {
	Name    string // as in the file, with dots between the levels
	Default string
	Usage   string // one line
	set     func(*Config, string) error
}

// Keys lists every scalar, in the order of the documentation.
func Keys() []Key {
	return append([]Key{
		{
			"listen", "127.0.0.1:9000", "address that receives webhooks",
			text(func(c *Config) *string { return &c.Listen }, checkAddress),
		},
		{
			"admin_listen", "127.0.0.1:9001", "address of the health checks",
			text(func(c *Config) *string { return &c.AdminListen }, checkAddress),
		},
		{"database", "", "SQLite file, or postgres://USER@HOST/NAME; by default a file in the state directory", setDatabase},
		{
			"on_redelivery", RequeueDead, "what a redelivery does to the dead jobs of its event: requeue_dead, ignore",
			text(func(c *Config) *string { return &c.OnRedelivery }, oneOf(RequeueDead, Ignore)),
		},
		{
			"log.level", "info", "least level that is logged: debug, info, warn, error",
			text(func(c *Config) *string { return &c.Log.Level }, oneOf("debug", "info", "warn", "error")),
		},
		{
			"log.format", "auto", "format of the log: text, json, auto (text on a terminal, else json)",
			text(func(c *Config) *string { return &c.Log.Format }, oneOf("auto", "text", "json")),
		},
		{
			"drain_timeout", "30s", "how long a stop waits for running handlers",
			duration(func(c *Config) *time.Duration { return &c.DrainTimeout }, 0),
		},
		{
			"processor.concurrency", "5", "handlers that run at once",
			number(func(c *Config) *int { return &c.Processor.Concurrency }, 1, maxConcurrency, "each is a process"),
		},
		{
			"processor.batch_size", "10", "jobs that one claim takes at most",
			number(func(c *Config) *int { return &c.Processor.BatchSize }, 1, 1000, "a claim is one transaction, and all other writers wait for it"),
		},
		{
			"processor.poll_interval", "5s", "how often to look for work when nothing announced any",
			duration(func(c *Config) *time.Duration { return &c.Processor.PollInterval }, 10*time.Millisecond),
		},
	}, retryKeys("retry.", func(c *Config) *Retry { return &c.Retry })...)
}

// retryKeys are the same for all routes together and for each.
func retryKeys(prefix string, r func(*Config) *Retry) []Key {
	return []Key{
		{
			prefix + "max", "3", "retries after the first attempt",
			number(func(c *Config) *int { return &r(c).Max }, 0, 100, "waits grow with each, and the last is long past use"),
		},
		{
			prefix + "base", "1s", "wait before the first retry",
			duration(func(c *Config) *time.Duration { return &r(c).Base }, time.Millisecond),
		},
		{
			prefix + "factor", "2", "growth of the wait from one retry to the next",
			fraction(func(c *Config) *float64 { return &r(c).Factor }, 1, 1000),
		},
		{
			prefix + "cap", "1h", "longest wait before a retry",
			duration(func(c *Config) *time.Duration { return &r(c).Cap }, time.Millisecond),
		},
		{
			prefix + "jitter", "0", "fraction of the wait, 0 to 1, up to which is added by chance",
			fraction(func(c *Config) *float64 { return &r(c).Jitter }, 0, 1),
		},
		{
			prefix + "unavailable.base", "5s", "wait before the first retry of what is unavailable",
			duration(func(c *Config) *time.Duration { return &r(c).Unavailable.Base }, time.Millisecond),
		},
		{
			prefix + "unavailable.factor", "2", "growth of that wait",
			fraction(func(c *Config) *float64 { return &r(c).Unavailable.Factor }, 1, 1000),
		},
		{
			prefix + "unavailable.cap", "5m", "longest such wait",
			duration(func(c *Config) *time.Duration { return &r(c).Unavailable.Cap }, time.Millisecond),
		},
		{
			prefix + "unavailable.for", "24h", "how long what is unavailable is retried; 0s: as any other failure",
			duration(func(c *Config) *time.Duration { return &r(c).Unavailable.For }, 0),
		},
	}
}

// maxConcurrency bounds handlers at once, in a worker and for a route.
const maxConcurrency = 10_000

// Env is the variable that sets the key.
func (k Key) Env() string {
	return "ORCHESTRATE_" + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

// AddFlag defines a flag for the key, for Options.Flags. It refuses what Load
// would refuse.
func (k Key) AddFlag(fs *pflag.FlagSet, name string) *pflag.Flag {
	return fs.VarPF(&flagValue{key: k, text: k.Default}, name, "", k.Usage)
}

type flagValue struct {
	key  Key
	text string
}

func (v *flagValue) String() string { return v.text }
func (v *flagValue) Type() string   { return "string" }
func (v *flagValue) Set(s string) error {
	v.text = s
	return v.key.set(new(Config), s)
}

// group makes the fields of a mapping from the keys that start with prefix.
func (r *reader) group(keys []Key, prefix string, take func(Key, *yaml.Node, string)) fields {
	f := fields{}
	for _, k := range keys {
		rest, ok := strings.CutPrefix(k.Name, prefix)
		if !ok {
			continue
		}
		name, _, nested := strings.Cut(rest, ".")
		if nested {
			f[name] = func(n *yaml.Node, path string) { r.mapping(n, path, r.group(keys, prefix+name+".", take)) }
		} else {
			f[name] = func(n *yaml.Node, path string) { take(k, n, path) }
		}
	}
	return f
}

func text(field func(*Config) *string, check func(string) error) func(*Config, string) error {
	return func(c *Config, s string) error {
		*field(c) = s
		return check(s)
	}
}

func number(field func(*Config) *int, low, high int, why string) func(*Config, string) error {
	return func(c *Config, s string) (err error) {
		*field(c), err = parseInt(s, low, high, why)
		return err
	}
}

func parseInt(s string, low, high int, why string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%s is not a whole number between %d and %d", quote(s), low, high)
	}
	if n < low || n > high {
		return 0, fmt.Errorf("%s is not between %d and %d: %s", quote(s), low, high, why)
	}
	return n, nil
}

func fraction(field func(*Config) *float64, low, high float64) func(*Config, string) error {
	return func(c *Config, s string) error {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || !(f >= low && f <= high) { // in this form NaN is refused, too
			return fmt.Errorf("%s is not a number between %g and %g", quote(s), low, high)
		}
		*field(c) = f
		return nil
	}
}

func duration(field func(*Config) *time.Duration, low time.Duration) func(*Config, string) error {
	return func(c *Config, s string) (err error) {
		*field(c), err = parseDuration(s, low)
		return err
	}
}

func parseDuration(s string, low time.Duration) (time.Duration, error) {
	d, err := ParseDuration(s)
	if err == nil && d < low {
		err = fmt.Errorf("%s is shorter than %s", quote(s), FormatDuration(low))
	}
	return d, err
}

func oneOf(values ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(values, s) {
			return fmt.Errorf("%s is not known here; %s", quote(s), nearest.Hint(s, values))
		}
		return nil
	}
}

// checkAddress wants host:port. An empty host is every interface, port 0 any
// that is free. Names of ports are refused: they differ between machines.
func checkAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsFunc(host, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return fmt.Errorf("%s is not host:port, as in 127.0.0.1:9000", quote(s))
	}
	return nil
}

func anyPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && strings.Trim(port, "0") == ""
}

// setDatabase takes a path, or a URL that names the engine. What it refuses is
// not printed whole: such a URL may hold a password.
func setDatabase(c *Config, s string) error {
	scheme, path, isURL := strings.Cut(s, "://")
	switch {
	case !isURL && likeServer.MatchString(s):
		return errors.New("a server is named by a URL: postgres://USER@HOST:PORT/DATABASE, or postgres:// to leave it to libpq's variables; " +
			"if it is a file, write sqlite://PATH")
	case !isURL:
		path = s
	case isServer(scheme):
		return setServer(c, s)
	case scheme != "sqlite":
		return fmt.Errorf("%s://… is no database that this program knows; give a path, sqlite://PATH or postgres://…", quote(scheme))
	}
	switch path {
	case "":
		return fmt.Errorf("%s names no file; give a path or sqlite://PATH", quote(s))
	case ":memory:":
		return fmt.Errorf("%s keeps nothing; give the path of a file", quote(s))
	}
	c.Database = path
	return checkPath(path)
}

// check compares the first wait with the longest. A zero is one that was
// refused already.
func (b Backoff) check() error {
	if b.Base > b.Cap && b.Cap > 0 {
		return fmt.Errorf("base %s is longer than cap %s; raise the cap or lower the base", FormatDuration(b.Base), FormatDuration(b.Cap))
	}
	return nil
}
