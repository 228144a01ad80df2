package config

import (
	"errors"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
)

// DatabaseURL is what to open: Database, with the password that it may have.
func (c *Config) DatabaseURL() string {
	if c.databaseURL != "" {
		return c.databaseURL
	}
	return c.Database
}

// ParseDatabase reads what --database takes: a path, sqlite://PATH or postgres://…
// It returns what to open, with the password that it may have.
func ParseDatabase(s string) (string, error) {
	var c Config
	if err := setDatabase(&c, s); err != nil {
		return "", err
	}
	return c.DatabaseURL(), nil
}

// OnServer tells whether the database is one that other machines use, too.
func (c *Config) OnServer() bool { return c.databaseURL != "" }

// StateDir is where a process keeps files of its own: beside the SQLite file,
// else in the state directory.
func (c *Config) StateDir() string {
	if c.OnServer() {
		return c.stateDir
	}
	return filepath.Dir(c.Database)
}

// likeServer is libpq's other form, or a URL with a slash missing. Taken as a
// path it would make a file of that name, and show the password that it may have.
var likeServer = regexp.MustCompile(`(?i)^postgres(ql)?:|(^|\s)(host|hostaddr|port|dbname|user|password|passfile|service|sslmode)\s*=`)

func isServer(scheme string) bool { return scheme == "postgres" || scheme == "postgresql" }

// setServer refuses a URL whose parts can't be told apart with certainty: of
// such a one the password could not be hidden either.
func setServer(c *Config, s string) error {
	shown := WithoutPassword(s)
	if shown == "" {
		return errors.New("the URL can't be read; write postgres://USER@HOST:PORT/DATABASE, with special characters " +
			"percent-encoded, or leave the password to PGPASSWORD or ~/.pgpass")
	}
	c.Database, c.databaseURL = shown, s
	return nil
}

// WithoutPassword is the URL of a server as it may be shown, and any other
// database as it is; "" for a URL that can't be read.
func WithoutPassword(database string) string {
	scheme, _, isURL := strings.Cut(database, "://")
	if !isURL || !isServer(scheme) {
		return database
	}
	u, err := url.Parse(database)
	if err != nil || u.Fragment != "" || strings.Count(database, "@") > 1 || strings.ContainsAny(u.Path, "@&=") || u.User == nil && strings.Contains(database, "@") {
		return ""
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return ""
	}
	for _, name := range []string{"password", "sslpassword"} {
		if q.Has(name) {
			q.Del(name)
			u.RawQuery = q.Encode()
		}
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	if u.Host == "" && u.User == nil { // all of it, or the host, from elsewhere
		return scheme + "://" + strings.TrimPrefix(strings.TrimPrefix(u.String(), scheme+":"), "//")
	}
	return u.String()
}
