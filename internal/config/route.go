package config

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// routeName keeps names fit for URLs, tables and database keys.
var routeName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// source reads one entry of sources.
func (l *loader) source(n *yaml.Node, path string) {
	var s Source
	l.mapping(n, path, fields{
		"name": func(n *yaml.Node, path string) {
			l.value(n, path, func(v string) error { s.Name = v; return l.checkSourceName(v) })
		},
		"path": func(n *yaml.Node, path string) {
			l.value(n, path, func(v string) error { s.Path = v; return l.checkSourcePath(v) })
		},
		"secrets": func(n *yaml.Node, path string) {
			s.Secrets = l.absolute(l.some(n, path, `["file:/etc/orchestrate/acme"]`, checkReference))
		},
	}, "name: acme", "path: /webhooks/acme", `secrets: ["file:/etc/orchestrate/acme"]`)
	l.c.Sources = append(l.c.Sources, s)
}

func (l *loader) checkSourceName(s string) error {
	if s == GitHub {
		return fmt.Errorf("%s always exists, at %s, with the secrets of the top level; choose another name", quote(s), GitHubPath)
	}
	for i, other := range l.c.Sources {
		if other.Name == s {
			return fmt.Errorf("%s is the name of the source on line %d, too; give each its own", quote(s), l.entry("sources", i))
		}
	}
	return checkIdentifier(s, "source")
}

// sourcePath keeps paths fit for a URL: no escapes, no dots that a client
// would resolve.
var sourcePath = regexp.MustCompile(`^(/[A-Za-z0-9_-][A-Za-z0-9._-]*){1,10}$`)

func (l *loader) checkSourcePath(s string) error {
	if len(s) > 200 || !sourcePath.MatchString(s) {
		return fmt.Errorf("%s is no path for a source; use /words of letters, digits, dot, - and _, as in /webhooks/acme", quote(s))
	}
	if s == GitHubPath {
		return fmt.Errorf("%s is the path of source %s, which always exists; choose another", quote(s), GitHub)
	}
	for i, other := range l.c.Sources {
		if other.Path == s {
			return fmt.Errorf("%s is the path of the source on line %d, too; give each its own", quote(s), l.entry("sources", i))
		}
	}
	return nil
}

// route reads one entry of routes. The global retry is known by then.
func (l *loader) route(n *yaml.Node, path string) {
	r := Route{Retry: l.c.Retry}
	f := fields{
		"name": func(n *yaml.Node, path string) {
			l.value(n, path, func(s string) error { r.Name = s; return l.checkName(s) })
		},
		"on": func(n *yaml.Node, path string) {
			r.On = l.some(n, path, `[push, pull_request.opened], or ["*"] for all events`, checkNotEmpty)
		},
		"filter": func(n *yaml.Node, path string) { r.Filter = l.filter(n, path) },
		"if":     l.text(&r.If, checkNotEmpty),
		"concurrency": func(n *yaml.Node, path string) {
			l.value(n, path, func(s string) (err error) {
				r.Concurrency, err = parseInt(s, 1, maxConcurrency, "leave it out for no bound of its own")
				return err
			})
		},
		"run":     func(n *yaml.Node, path string) { r.Run = l.run(n, path) },
		"forward": func(n *yaml.Node, path string) { r.Forward = l.forward(n, path) },
		"retry":   func(n *yaml.Node, path string) { r.Retry = l.retry(n, path) },
	}
	l.mapping(n, path, f, "name: deploy", "on: [push]")
	switch v := follow(n); {
	case v != nil && v.Kind != yaml.MappingNode: // which has been told
	case r.Run != nil && r.Forward != nil:
		l.add(l.c.Mistake(path+".forward", 0, 0, errors.New("stands beside run; make two routes of it")))
	case r.Run == nil && r.Forward == nil:
		l.failAt(n, path+".run", "missing, and so is forward: the route would do nothing; add one of them")
	}
	l.c.Routes = append(l.c.Routes, r)
}

func checkIdentifier(s, of string) error {
	if !routeName.MatchString(s) {
		return fmt.Errorf("%s is no name for a %s; use 1 to 64 of a-z, 0-9, dot, - and _, and start with a letter or digit", quote(s), of)
	}
	return nil
}

func (l *loader) checkName(s string) error {
	if err := checkIdentifier(s, "route"); err != nil {
		return err
	}
	for i, r := range l.c.Routes {
		if r.Name == s {
			return fmt.Errorf("%s is the name of the route on line %d, too; give each its own", quote(s), l.entry("routes", i))
		}
	}
	return nil
}

// entry is the line on which one of a list begins.
func (l *loader) entry(list string, i int) int {
	return l.positions[fmt.Sprintf("%s[%d]", list, i)].line
}

func (l *loader) filter(n *yaml.Node, path string) Filter {
	var f Filter
	values := func(p *[]string, example string) func(*yaml.Node, string) {
		return func(n *yaml.Node, path string) {
			*p = l.some(n, path, example+", or leave it out to let everything pass", checkNotEmpty)
		}
	}
	l.mapping(n, path, fields{
		"repository":         values(&f.Repository, `["acme/*"]`),
		"base_branch":        values(&f.BaseBranch, "[main]"),
		"skip_forks":         l.bool(&f.SkipForks),
		"labels":             values(&f.Labels, "[agent]"),
		"author":             values(&f.Author, `["dependabot[bot]"]`),
		"paths":              values(&f.Paths, `["src/**"]`),
		"conclusion":         values(&f.Conclusion, "[failure]"),
		"author_association": values(&f.AuthorAssociation, "[OWNER, MEMBER]"),
		"sender_type":        values(&f.SenderType, "[User]"),
		"draft": func(n *yaml.Node, path string) {
			f.Draft = new(bool)
			l.bool(f.Draft)(n, path)
		},
	})
	return f
}

func (l *loader) run(n *yaml.Node, path string) *Run {
	r := &Run{Timeout: defaultTimeout, Grace: defaultGrace}
	l.mapping(n, path, fields{
		"command": func(n *yaml.Node, path string) { r.Command = l.command(n, path) },
		"dir": func(n *yaml.Node, path string) {
			l.value(n, path, func(s string) (err error) {
				if err = errors.Join(checkNotEmpty(s), checkPath(s)); err == nil {
					r.Dir, err = l.beside(s)
				}
				return err
			})
		},
		"env": func(n *yaml.Node, path string) {
			r.Env = l.pairsOf(n, path, "{STAGE: production}", checkVariable)
		},
		"pass_env":           func(n *yaml.Node, path string) { r.PassEnv = l.strings(n, path, "[PATH, HOME]", checkVariable) },
		"allow_leading_dash": l.bool(&r.AllowLeadingDash),
		"stdin":              l.text(&r.Stdin, checkNotEmpty),
		"exit_codes":         func(n *yaml.Node, path string) { r.ExitCodes = l.exitCodes(n, path) },
		"timeout":            l.duration(&r.Timeout, time.Millisecond), // none can't be set
		"grace":              l.duration(&r.Grace, 0),
	}, "command: [make, deploy]")
	return r
}

func (l *loader) exitCodes(n *yaml.Node, path string) ExitCodes {
	var c ExitCodes
	codes := func(p *[]int) func(*yaml.Node, string) {
		return func(n *yaml.Node, path string) {
			*p = []int{}
			l.list(n, path, "[0, 3]", func(n *yaml.Node, path string) {
				l.value(n, path, func(s string) error {
					code, err := parseInt(s, 0, 255, "exit statuses are one byte")
					*p = append(*p, code)
					return err
				})
			})
		}
	}
	l.mapping(n, path, fields{"done": codes(&c.Done), "unavailable": codes(&c.Unavailable), "permanent": codes(&c.Permanent)})
	return c
}

func (l *loader) forward(n *yaml.Node, path string) *Forward {
	f := &Forward{Timeout: defaultForwardTimeout}
	l.mapping(n, path, fields{
		"url": l.text(&f.URL, func(s string) error {
			if !IsReference(s) {
				return checkNotEmpty(s)
			}
			f.URL = l.absolute([]string{s})[0]
			return checkReference(s)
		}),
		"secret": func(n *yaml.Node, path string) {
			l.value(n, path, func(s string) error {
				err := checkReference(s)
				if err == nil {
					f.Secret = l.absolute([]string{s})[0]
				}
				return err
			})
		},
		"headers": func(n *yaml.Node, path string) {
			f.Headers = l.pairsOf(n, path, "{X-Team: ops}", checkNotEmpty)
			for _, name := range slices.Sorted(maps.Keys(f.Headers)) {
				v := f.Headers[name]
				if secretHeader.MatchString(name) && !IsReference(v) {
					l.add(l.c.Mistake(join(path, name), 0, 0, errors.New("a secret by its name; "+writeReference)))
				}
				f.Headers[name] = l.absolute([]string{v})[0]
			}
		},
		"timeout": l.duration(&f.Timeout, time.Millisecond),
		"allow_private": func(n *yaml.Node, path string) {
			f.AllowPrivate = l.strings(n, path, "[10.0.0.0/8]", checkNotEmpty)
		},
	}, "url: https://mirror.example/hook")
	return f
}

// secretHeader are names of headers whose values are secrets.
var secretHeader = regexp.MustCompile(`(?i)auth|token|secret|password|cookie|api-?key`)

func (l *loader) text(p *string, check func(string) error) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		l.value(n, path, func(s string) error { *p = s; return check(s) })
	}
}

func (l *loader) bool(p *bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		l.value(n, path, func(s string) error {
			if *p = s == "true"; *p || s == "false" {
				return nil
			}
			return fmt.Errorf("%s is neither true nor false", quote(s))
		})
	}
}

func (l *loader) duration(p *time.Duration, low time.Duration) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		l.value(n, path, func(s string) (err error) {
			*p, err = parseDuration(s, low)
			return err
		})
	}
}

func (l *loader) command(n *yaml.Node, path string) []string {
	argv := l.some(n, path, "[make, deploy]", checkNoNUL)
	if len(argv) > 0 && strings.TrimSpace(argv[0]) == "" {
		l.failAt(n, path+"[0]", "%s names no program; want one as in [make, deploy]", quote(argv[0]))
	}
	return argv
}

// pairsOf reads a mapping of names and values that the configuration chooses.
func (l *loader) pairsOf(n *yaml.Node, path, example string, checkName func(string) error) map[string]string {
	var all map[string]string
	l.pairs(n, path, "as in "+example, func(name string, k, v *yaml.Node) {
		if err := checkName(name); err != nil {
			l.failAt(k, join(path, name), "can't be a name here; want one as in %s", example)
			return
		}
		l.value(v, join(path, name), func(s string) error {
			if all == nil {
				all = map[string]string{}
			}
			all[name] = s
			return checkNoNUL(s)
		})
	})
	return all
}

// retry reads what a route says of retries over the global ones.
func (l *loader) retry(n *yaml.Node, path string) Retry {
	c := Config{Retry: l.c.Retry}
	keys := retryKeys("", func(c *Config) *Retry { return &c.Retry })
	l.mapping(n, path, l.group(keys, "", func(k Key, n *yaml.Node, path string) {
		l.value(n, path, func(s string) error { return k.set(&c, s) })
	}))
	l.checkRetry(c.Retry, func(sub string, err error) {
		if err != nil {
			field := strings.TrimSuffix(path, "retry") + sub
			m := l.c.Mistake(field, 0, 0, err)
			if _, set := l.positions[field+".base"]; set {
				m.Line, m.Column = l.positions[field+".base"].line, l.positions[field+".base"].column
			}
			l.add(m)
		}
	})
	return c.Retry
}

// checkPassed keeps our own secrets from commands: one that has a secret can
// forge events. All routes are known by then.
func (l *loader) checkPassed() {
	secret := l.c.SecretVariables()
	for i, r := range l.c.Routes {
		if r.Run == nil {
			continue
		}
		for j, name := range r.Run.PassEnv {
			if slices.Contains(secret, name) {
				path := fmt.Sprintf("routes[%d].run.pass_env[%d]", i, j)
				l.add(l.c.Mistake(path, 0, 0, fmt.Errorf("%s holds a secret of this program, which no command gets; remove it", quote(name))))
			}
		}
	}
}

// SecretVariables names the variables whose values no command may see.
func (c *Config) SecretVariables() []string {
	refs := slices.Clone(c.Secrets)
	for _, s := range c.Sources {
		refs = append(refs, s.Secrets...)
	}
	for _, r := range c.Routes {
		if r.Forward != nil {
			refs = append(refs, r.Forward.URL, r.Forward.Secret)
			refs = slices.AppendSeq(refs, maps.Values(r.Forward.Headers))
		}
	}
	names := []string{SecretVariable}
	for _, ref := range refs {
		if name, ok := strings.CutPrefix(ref, envPrefix); ok {
			names = append(names, name)
		}
	}
	return names
}

func checkVariable(name string) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '=' || r == '*' }) {
		return fmt.Errorf("%s is no name of a variable; want one as in DEPLOY_ENV", quote(name))
	}
	return nil
}

func checkNotEmpty(s string) error {
	if strings.TrimSpace(s) == "" {
		return fmt.Errorf("%s is empty; write a value", quote(s))
	}
	return nil
}

func checkNoNUL(s string) error {
	if strings.ContainsRune(s, 0) {
		return fmt.Errorf("%s holds a NUL byte, which no argument or variable can", quote(s))
	}
	return nil
}
