package config

import (
	"cmp"
	"fmt"
	"maps"
	"strings"
)

// Shown is a configuration as it is printed: the keys of the file, in their
// order, every one with its effective value. It holds no secret: references are
// shown as they stand, values that may be secret are masked.
type Shown struct {
	Listen       string         `json:"listen"`
	AdminListen  string         `json:"admin_listen"`
	Database     string         `json:"database"`
	Secrets      []string       `json:"secrets"`
	Sources      []ShownSource  `json:"sources"`
	OnRedelivery string         `json:"on_redelivery"`
	Log          ShownLog       `json:"log"`
	DrainTimeout string         `json:"drain_timeout"`
	Processor    ShownProcessor `json:"processor"`
	Retry        ShownRetry     `json:"retry"`
	Routes       []ShownRoute   `json:"routes"`
}

// ShownSource is a source as it is printed.
type ShownSource struct {
	Name    string   `json:"name"`
	Path    string   `json:"path"`
	Secrets []string `json:"secrets"`
}

// ShownLog is the log's part as it is printed.
type ShownLog struct {
	Level  string `json:"level"`
	Format string `json:"format"`
}

// ShownProcessor is the processor's part as it is printed.
type ShownProcessor struct {
	Concurrency  int    `json:"concurrency"`
	BatchSize    int    `json:"batch_size"`
	PollInterval string `json:"poll_interval"`
}

// ShownRetry is a policy of retries as it is printed.
type ShownRetry struct {
	Max         int              `json:"max"`
	Base        string           `json:"base"`
	Factor      float64          `json:"factor"`
	Cap         string           `json:"cap"`
	Jitter      float64          `json:"jitter"`
	Unavailable ShownUnavailable `json:"unavailable"`
}

// ShownUnavailable is the policy for what is away, as it is printed.
type ShownUnavailable struct {
	Base   string  `json:"base"`
	Factor float64 `json:"factor"`
	Cap    string  `json:"cap"`
	For    string  `json:"for"`
}

// ShownRoute is a route as it is printed; keys that a route does not have are
// left out.
type ShownRoute struct {
	Name        string        `json:"name"`
	On          []string      `json:"on"`
	Filter      ShownFilter   `json:"filter,omitzero"`
	If          string        `json:"if,omitempty"`
	Concurrency *int          `json:"concurrency,omitempty"`
	Run         *ShownRun     `json:"run,omitempty"`
	Forward     *ShownForward `json:"forward,omitempty"`
	Retry       ShownRetry    `json:"retry"`
}

// ShownFilter is a filter as it is printed.
type ShownFilter struct {
	Repository        []string `json:"repository,omitempty"`
	BaseBranch        []string `json:"base_branch,omitempty"`
	SkipForks         bool     `json:"skip_forks,omitempty"`
	Labels            []string `json:"labels,omitempty"`
	Author            []string `json:"author,omitempty"`
	Paths             []string `json:"paths,omitempty"`
	Conclusion        []string `json:"conclusion,omitempty"`
	AuthorAssociation []string `json:"author_association,omitempty"`
	SenderType        []string `json:"sender_type,omitempty"`
	Draft             *bool    `json:"draft,omitempty"`
}

// IsZero tells whether everything passes.
func (f ShownFilter) IsZero() bool { return f.String() == "" }

// IsZero tells whether all have their defaults.
func (c ShownExitCodes) IsZero() bool {
	return c.Done == nil && c.Unavailable == nil && c.Permanent == nil
}

// String is the filter in one line: key: values, key: values.
func (f ShownFilter) String() string {
	var parts []string
	add := func(key string, values ...string) {
		if len(values) > 0 {
			parts = append(parts, key+": "+strings.Join(values, " "))
		}
	}
	add("repository", f.Repository...)
	add("base_branch", f.BaseBranch...)
	if f.SkipForks {
		add("skip_forks", "true")
	}
	add("labels", f.Labels...)
	add("author", f.Author...)
	add("paths", f.Paths...)
	add("conclusion", f.Conclusion...)
	add("author_association", f.AuthorAssociation...)
	add("sender_type", f.SenderType...)
	if f.Draft != nil {
		add("draft", fmt.Sprint(*f.Draft))
	}
	return strings.Join(parts, ", ")
}

// ShownRun is a command as it is printed.
type ShownRun struct {
	Command          []string          `json:"command"`
	Dir              string            `json:"dir,omitempty"`
	Env              map[string]string `json:"env,omitempty"` // values masked
	PassEnv          *[]string         `json:"pass_env,omitempty"`
	AllowLeadingDash bool              `json:"allow_leading_dash,omitempty"`
	Stdin            string            `json:"stdin"`
	ExitCodes        ShownExitCodes    `json:"exit_codes,omitzero"`
	Timeout          string            `json:"timeout"`
	Grace            string            `json:"grace"`
}

// ShownExitCodes is what exit statuses mean, as it is printed.
type ShownExitCodes struct {
	Done        []int `json:"done,omitzero"`
	Unavailable []int `json:"unavailable,omitzero"`
	Permanent   []int `json:"permanent,omitzero"`
}

// ShownForward is a forward as it is printed.
type ShownForward struct {
	URL          string            `json:"url"` // user, password and query masked
	Secret       string            `json:"secret,omitempty"`
	Headers      map[string]string `json:"headers,omitempty"`
	Timeout      string            `json:"timeout"`
	AllowPrivate []string          `json:"allow_private,omitempty"`
}

const masked = "***"

// Show returns the configuration as it is printed.
func (c *Config) Show() Shown {
	s := Shown{
		Listen: c.Listen, AdminListen: c.AdminListen, Database: c.Database, Secrets: list(c.Secrets), Sources: []ShownSource{},
		OnRedelivery: c.OnRedelivery, Log: ShownLog(c.Log), DrainTimeout: FormatDuration(c.DrainTimeout),
		Processor: ShownProcessor{c.Processor.Concurrency, c.Processor.BatchSize, FormatDuration(c.Processor.PollInterval)},
		Retry:     c.Retry.show(), Routes: []ShownRoute{},
	}
	for _, src := range c.Sources {
		s.Sources = append(s.Sources, ShownSource(src))
	}
	for _, r := range c.Routes {
		s.Routes = append(s.Routes, r.show())
	}
	return s
}

func list(s []string) []string { return append([]string{}, s...) }

func (r Retry) show() ShownRetry {
	u := r.Unavailable
	return ShownRetry{
		r.Max, FormatDuration(r.Base), r.Factor, FormatDuration(r.Cap), r.Jitter,
		ShownUnavailable{FormatDuration(u.Base), u.Factor, FormatDuration(u.Cap), FormatDuration(u.For)},
	}
}

func (r Route) show() ShownRoute {
	f := r.Filter
	s := ShownRoute{
		Name: r.Name, On: r.On, If: r.If, Retry: r.Retry.show(),
		Filter: ShownFilter{
			f.Repository, f.BaseBranch, f.SkipForks, f.Labels, f.Author, f.Paths, f.Conclusion, f.AuthorAssociation, f.SenderType, f.Draft,
		},
	}
	if r.Concurrency > 0 {
		s.Concurrency = &r.Concurrency
	}
	if r.Run != nil {
		s.Run = r.Run.show()
	} else {
		s.Forward = r.Forward.show()
	}
	return s
}

func (r *Run) show() *ShownRun {
	s := &ShownRun{
		Command: r.Command, Dir: r.Dir, Env: maps.Clone(r.Env), AllowLeadingDash: r.AllowLeadingDash,
		Stdin: cmp.Or(r.Stdin, "payload"), Timeout: FormatDuration(r.Timeout), Grace: FormatDuration(r.Grace),
		ExitCodes: ShownExitCodes(r.ExitCodes),
	}
	for name := range s.Env {
		s.Env[name] = masked
	}
	if r.PassEnv != nil {
		s.PassEnv = &r.PassEnv
	}
	return s
}

func (f *Forward) show() *ShownForward {
	s := &ShownForward{
		URL: maskURL(f.URL), Secret: f.Secret, Headers: maps.Clone(f.Headers), Timeout: FormatDuration(f.Timeout), AllowPrivate: f.AllowPrivate,
	}
	return s
}

// maskURL hides where secrets like to stand: user, password and query.
func maskURL(raw string) string {
	if scheme, rest, ok := strings.Cut(raw, "://"); ok {
		if authority, _, _ := strings.Cut(rest, "/"); strings.Contains(authority, "@") {
			at := strings.LastIndexByte(authority, '@')
			raw = scheme + "://" + masked + rest[at:]
		}
	}
	base, _, found := strings.Cut(raw, "?")
	if found {
		base += "?" + masked
	}
	return base
}

// Setting is one key of the configuration with its value and where that comes
// from: "default", a flag, a variable, or FILE:LINE.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// Settings lists every scalar, and of the lists what each entry is called.
func (c *Config) Settings() []Setting {
	var all []Setting
	for _, k := range Keys() {
		value := c.values[k.Name]
		if k.Name == "database" {
			value = c.Database // the whole path
		}
		all = append(all, Setting{k.Name, value, c.origins[k.Name]})
	}
	for i, ref := range c.Secrets {
		all = append(all, Setting{fmt.Sprintf("secrets[%d]", i), ref, c.origins["secrets"]})
	}
	for i, s := range c.Sources {
		path := fmt.Sprintf("sources[%d]", i)
		all = append(all, Setting{path, s.Name + " at " + s.Path, c.Mistake(path, 0, 0, nil).Place()})
	}
	for i, r := range c.Routes {
		path := fmt.Sprintf("routes[%d]", i)
		all = append(all, Setting{path, r.Name, c.Mistake(path, 0, 0, nil).Place()})
	}
	return all
}
