// Package pgtest starts a private PostgreSQL for the tests of a package, and
// gives each test a database of its own. The product does not import it.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a PostgreSQL of our own, with a directory that goes when it does.
type Server struct {
	Port int

	dir   string
	bin   string // where initdb, pg_ctl and postgres are
	made  atomic.Int64
	alive io.Closer // its end, also by the death of this process, ends the server

	templates sync.Mutex
	prepared  map[string]bool
}

// Settings of a server, as in postgresql.conf. By default nothing is synced. With
// ssl on, Certificate is what it shows.
type Settings map[string]string

// Durable syncs as a server should.
var Durable = Settings{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Shared is the server of this test binary, which Main stops. Without
// PostgreSQL the test is skipped, saying what is missing; in CI it fails.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.once.Do(func() { shared.server, shared.err = Start(nil) })
	require(t, shared.err)
	return shared.server
}

// Private is a server of one test.
func Private(t testing.TB, s Settings) *Server {
	t.Helper()
	server, err := Start(s)
	require(t, err)
	t.Cleanup(func() {
		if err := server.Remove(); err != nil {
			t.Errorf("remove the server: %v", err)
		}
	})
	return server
}

// Main runs the tests of a binary and stops its server.
func Main(m *testing.M) int {
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.Remove(); err != nil {
			fmt.Fprintln(os.Stderr, "remove the test server:", err)
			return max(code, 1)
		}
	}
	return code
}

// ErrMissing says that there is no PostgreSQL to start.
var ErrMissing = errors.New("initdb, pg_ctl and postgres are needed: install postgresql (Debian, Ubuntu: apt-get install " +
	"postgresql), and put its bin directory into PATH if it is not below /usr/lib/postgresql")

func require(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrMissing) && os.Getenv("CI") != "true":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// Start makes a cluster and starts it on a free port of the loopback. As root it
// runs as another user: PostgreSQL refuses to be root.
func Start(settings Settings) (s *Server, err error) {
	bin, err := findBin()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgtest-")
	if err != nil {
		return nil, err
	}
	s = &Server{dir: dir, bin: bin, prepared: map[string]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Remove())
		}
	}()
	if err := own(dir); err != nil {
		return nil, err
	}
	if s.alive, err = s.watch(); err != nil {
		return nil, err
	}
	if out, err := s.run("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	if s.Port, err = freePort(); err != nil {
		return nil, err
	}
	conf := []string{
		"listen_addresses = '127.0.0.1'", "port = " + strconv.Itoa(s.Port), "unix_socket_directories = ''",
		"max_connections = 200", "shared_buffers = 64MB", "max_wal_size = 2GB", "log_min_messages = warning",
	}
	if settings == nil {
		settings = Settings{"fsync": "off", "full_page_writes": "off"}
	}
	for name, value := range settings {
		conf = append(conf, name+" = "+value)
	}
	if err := s.rewrite("postgresql.conf", os.O_APPEND, conf); err != nil {
		return nil, err
	}
	if settings["ssl"] == "on" {
		if err := s.certify(); err != nil {
			return nil, err
		}
	}
	if err := s.rewrite("pg_hba.conf", os.O_TRUNC, access); err != nil {
		return nil, err
	}
	return s, s.Start()
}

// access: the superuser comes in without a password, everybody else with theirs.
var access = []string{"host all postgres 127.0.0.1/32 trust", "host all all 0.0.0.0/0 scram-sha-256"}

// rewrite changes a file that initdb made; it stays its owner's.
func (s *Server) rewrite(name string, how int, lines []string) error {
	f, err := os.OpenFile(filepath.Join(s.data(), name), how|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("\n" + strings.Join(lines, "\n") + "\n")
	return errors.Join(err, f.Close())
}

// Start starts a server that was stopped, and returns once it answers.
func (s *Server) Start() error {
	out, err := s.run("pg_ctl", "-D", s.data(), "-l", filepath.Join(s.dir, "log"), "-w", "-t", "60", "start")
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		return fmt.Errorf("start PostgreSQL: %w: %s%s", err, out, log)
	}
	return nil
}

// Stop stops it: "fast", or "immediate", which leaves recovery to the next start.
func (s *Server) Stop(mode string) error {
	if out, err := s.run("pg_ctl", "-D", s.data(), "-m", mode, "-w", "-t", "60", "stop"); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w: %s", err, out)
	}
	return nil
}

// Remove stops it, if it runs, and deletes its directory.
func (s *Server) Remove() error {
	var stop error
	if _, err := os.Stat(filepath.Join(s.data(), "postmaster.pid")); err == nil {
		stop = s.Stop("immediate")
	}
	err := errors.Join(stop, os.RemoveAll(s.dir))
	if s.alive != nil {
		err = errors.Join(err, s.alive.Close())
	}
	return err
}

// URL names a database of the server.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)), Path: "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Database makes an empty database for a test and returns its URL. It goes with
// the server: dropping it would wait for a checkpoint.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	return s.copyOf(t, "template0")
}

// Copy makes a copy of a database that prepare filled when it was first asked
// for, and returns its URL.
func (s *Server) Copy(t testing.TB, template string, prepare func(url string) error) string {
	t.Helper()
	s.templates.Lock()
	defer s.templates.Unlock()
	if !s.prepared[template] {
		s.Exec(t, "postgres", "CREATE DATABASE "+template)
		if err := prepare(s.URL(template)); err != nil {
			t.Fatal(err)
		}
		s.prepared[template] = true
	}
	return s.copyOf(t, template)
}

func (s *Server) copyOf(t testing.TB, template string) string {
	t.Helper()
	name := fmt.Sprintf("t%d", s.made.Add(1))
	s.Exec(t, "postgres", "CREATE DATABASE "+name+" TEMPLATE "+template)
	return s.URL(name)
}

// Exec runs statements as the superuser.
func (s *Server) Exec(t testing.TB, database string, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // also in a cleanup
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// Rows reads as the superuser: each row's values as text, NULL as "".
func (s *Server) Rows(t testing.TB, database, query string, args ...any) [][]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]string, error) {
		values, err := row.Values()
		texts := make([]string, len(values))
		for i, v := range values {
			if v != nil {
				texts[i] = fmt.Sprint(v)
			}
		}
		return texts, err
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// run waits for the program, not for what it leaves running with its output.
func (s *Server) run(program string, args ...string) (string, error) {
	cmd := s.command(filepath.Join(s.bin, program), args...)
	out, err := os.CreateTemp("", "pgtest-out-")
	if err != nil {
		return "", err
	}
	defer func() { _ = errors.Join(out.Close(), os.Remove(out.Name())) }() // only read back
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, _ := os.ReadFile(out.Name())
	return string(bytes.TrimSpace(text)), err
}

// command runs as the server's user, in its directory and with none of libpq's
// variables.
func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = s.dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") }), "LC_ALL=C")
	asUser(cmd)
	return cmd
}

// findBin looks in PATH, then where Debian and its kin install the newest.
func findBin() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(real), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", ErrMissing
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
}

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	addr, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("listening on %v", ln.Addr())
	}
	return addr.Port, ln.Close()
}
