package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// routeName keeps names fit for URLs, tables and database keys.
var routeName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// route reads one entry of routes. The global retry is known by then.
func (l *loader) route(n *yaml.Node, path string) {
	r := Route{Line: n.Line, Retry: l.c.Retry}
	f := fields{
		"name": func(n *yaml.Node, path string) {
			l.value(n, path, func(s string) error { r.Name = s; return l.checkName(s) })
		},
		"on": func(n *yaml.Node, path string) {
			r.On = l.some(n, path, `name events, as in [push, pull_request.opened], or ["*"]`, checkNotEmpty)
		},
		"filter": func(n *yaml.Node, path string) { r.Filter = l.filter(n, path) },
		"concurrency": func(n *yaml.Node, path string) {
			l.value(n, path, func(s string) (err error) {
				r.Concurrency, err = parseInt(s, 1, maxConcurrency, "leave it out for no bound of its own")
				return err
			})
		},
		"run":   func(n *yaml.Node, path string) { r.Run = l.run(n, path) },
		"retry": func(n *yaml.Node, path string) { r.Retry = l.retry(n, path) },
	}
	l.mapping(n, path, f, "name", "on", "run")
	l.c.Routes = append(l.c.Routes, r)
}

func (l *loader) checkName(s string) error {
	if !routeName.MatchString(s) {
		return fmt.Errorf("%s is no name for a route; use 1 to 64 of a-z, 0-9, dot, - and _, and start with a letter or digit", quote(s))
	}
	for i, r := range l.c.Routes {
		if r.Name == s {
			return fmt.Errorf("%s is the name of routes[%d]; give each its own", quote(s), i)
		}
	}
	return nil
}

func (l *loader) filter(n *yaml.Node, path string) Filter {
	var f Filter
	l.mapping(n, path, fields{
		"repository": func(n *yaml.Node, path string) {
			f.Repository = l.some(n, path, "leave it out to take every repository", checkNotEmpty)
		},
	})
	return f
}

func (l *loader) run(n *yaml.Node, path string) Run {
	r := Run{Timeout: defaultTimeout, Grace: defaultGrace}
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
		"env":      func(n *yaml.Node, path string) { r.Env = l.env(n, path) },
		"pass_env": func(n *yaml.Node, path string) { r.PassEnv = l.strings(n, path, l.checkPassed) },
		"timeout":  l.duration(&r.Timeout, time.Millisecond), // none can't be set
		"grace":    l.duration(&r.Grace, 0),
	}, "command")
	return r
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
	argv := l.some(n, path, "name a program and its arguments, as in [make, deploy]", checkNoNUL)
	if len(argv) > 0 && strings.TrimSpace(argv[0]) == "" {
		l.failAt(n, path+"[0]", "%s names no program", quote(argv[0]))
	}
	return argv
}

func (l *loader) env(n *yaml.Node, path string) map[string]string {
	var env map[string]string
	l.pairs(n, path, func(name string, k, v *yaml.Node) {
		if err := checkVariable(name); err != nil {
			l.failAt(k, path, "%w", err)
			return
		}
		l.value(v, join(path, name), func(s string) error {
			if env == nil {
				env = map[string]string{}
			}
			env[name] = s
			return checkNoNUL(s)
		})
	})
	return env
}

// retry reads what a route says of retries over the global ones.
func (l *loader) retry(n *yaml.Node, path string) Retry {
	c := Config{Retry: l.c.Retry}
	keys := retryKeys("", func(c *Config) *Retry { return &c.Retry })
	l.mapping(n, path, l.group(keys, "", func(k Key, n *yaml.Node, path string) {
		l.value(n, path, func(s string) error { return k.set(&c, s) })
	}))
	l.checkRetry(c.Retry, func(sub string) string {
		return l.at(n.Line, strings.TrimSuffix(path, "retry")+sub)
	})
	return c.Retry
}

// checkPassed refuses names, and the secrets that webhooks are verified with:
// a command that has one can forge events.
func (l *loader) checkPassed(name string) error {
	if name == SecretVariable || slices.Contains(l.c.Secrets, envPrefix+name) {
		return fmt.Errorf("%s holds a secret that webhooks are verified with; commands don't get it", quote(name))
	}
	return checkVariable(name)
}

func checkVariable(name string) error {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '=' || r == '*' }) {
		return fmt.Errorf("%s is no name of a variable", quote(name))
	}
	return nil
}

func checkNotEmpty(s string) error {
	if strings.TrimSpace(s) == "" {
		return fmt.Errorf("%s is empty", quote(s))
	}
	return nil
}

func checkNoNUL(s string) error {
	if strings.ContainsRune(s, 0) {
		return fmt.Errorf("%s holds a NUL byte, which no argument or variable can", quote(s))
	}
	return nil
}
