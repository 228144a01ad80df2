//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"orchestrate/internal/store/pgtest"
)

// The users of these databases have passwords, which nothing may show.
const (
	keeper      = "keeper"
	password    = "s3cret-of-the-keeper"
	notPassword = "n0t-the-password"
)

// shown fails the test if a password is.
func shown(t *testing.T, what string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		for _, secret := range []string{password, notPassword} {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows a password: %s", what, text)
			}
		}
	}
}

// with runs a command in an environment that names a database, and returns what
// it printed and its exit code.
func (p *program) with(env []string, args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	cmd := p.command(args...)
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// file writes one that only its owner may read.
func (p *program) file(name, content string) string {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return p.path(name)
}

func databaseName(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// TestConnectionSettings reaches one database, whose user has a password, by
// each way that libpq knows.
func TestConnectionSettings(t *testing.T) {
	t.Parallel()
	server := pgtest.Private(t, pgtest.Settings{"fsync": "off", "ssl": "on"})
	db := databaseName(t, server.Database(t))
	server.Exec(t, "postgres", "CREATE ROLE "+keeper+" LOGIN PASSWORD '"+password+"'", "ALTER DATABASE "+db+" OWNER TO "+keeper)
	port := strconv.Itoa(server.Port)
	address := net.JoinHostPort("127.0.0.1", port)
	whole := "postgres://" + keeper + ":" + password + "@" + address + "/" + db
	p := newProgramOn(t, "postgres://", "routes: []\n")
	if _, stderr, code := p.with([]string{"ORCHESTRATE_DATABASE=" + whole}, "migrate"); code != 0 {
		t.Fatalf("migrate: exit code %d: %s", code, stderr)
	}
	service := fmt.Sprintf("[queue]\nhost=127.0.0.1\nport=%s\ndbname=%s\nuser=%s\npassword=%s\n", port, db, keeper, password)
	services := p.file("services", service)
	passwords := p.file("passwords", "127.0.0.1:*:"+db+":"+keeper+":"+password+"\n")
	home := func(name, content string) string { // with a file of libpq's
		dir := "home-" + name
		if err := os.Mkdir(p.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		p.file(dir+"/"+name, content)
		return "HOME=" + p.path(dir)
	}
	without := "postgres://" + keeper + "@" + address + "/" + db
	tests := []struct {
		name, database string
		env            []string
	}{
		{"all in the URL", whole, nil},
		{"the other scheme", "postgresql" + strings.TrimPrefix(whole, "postgres"), nil},
		{"password as a parameter", without + "?password=" + password, nil},
		{"variables", "postgres://", []string{"PGHOST=127.0.0.1", "PGPORT=" + port, "PGUSER=" + keeper, "PGDATABASE=" + db, "PGPASSWORD=" + password}},
		{"the URL goes before variables", without, []string{"PGHOST=192.0.2.1", "PGPORT=1", "PGUSER=x", "PGDATABASE=x", "PGPASSWORD=" + password}},
		{"PGPASSWORD", without, []string{"PGPASSWORD=" + password}},
		{"PGPASSFILE", without, []string{"PGPASSFILE=" + passwords}},
		{".pgpass", without, []string{home(".pgpass", "*:*:*:"+keeper+":"+password+"\n")}},
		{"PGSERVICE and PGSERVICEFILE", "postgres://", []string{"PGSERVICE=queue", "PGSERVICEFILE=" + services}},
		{".pg_service.conf", "postgres://?service=queue", []string{home(".pg_service.conf", service)}},
		{"the URL goes before a service", "postgres:///" + db, []string{"PGSERVICE=queue", "PGSERVICEFILE=" + p.file("wrong", strings.Replace(service, db, "x", 1))}},
		{"PGPASSFILE for a service", "postgres://?service=queue", []string{
			"PGPASSFILE=" + passwords, "PGSERVICEFILE=" + p.file("open", strings.Replace(service, "password", "# password", 1)),
		}},
		{"several hosts", strings.Replace(whole, "@", "@127.0.0.1:1,", 1) + "?target_session_attrs=read-write", nil},
		{"sslmode", whole + "?sslmode=verify-full&sslrootcert=" + server.Certificate(), nil},
		{"PGSSLMODE", whole, []string{"PGSSLMODE=verify-full", "PGSSLROOTCERT=" + server.Certificate()}},
		{"no TLS", whole + "?sslmode=disable", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			env := append([]string{"ORCHESTRATE_DATABASE=" + test.database}, test.env...)
			for _, args := range [][]string{{"status", "-o", "json"}, {"process", "--once", "--log-format", "json", "--log-level", "debug"}, {"config", "show", "--origins"}} {
				stdout, stderr, code := p.with(env, args...)
				if code != 0 {
					t.Errorf("%v: exit code %d: %s%s", args, code, stdout, stderr)
				}
				shown(t, args[0], stdout, stderr)
			}
		})
	}
}

// TestConnectionRefusals: what keeps this program from its database is told in
// one line, with the next step, whoever asks and in whatever form.
func TestConnectionRefusals(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	const user = "refused"
	server.Exec(t, "postgres", "CREATE ROLE "+user+" LOGIN PASSWORD '"+password+"'")
	owned := func(change string) string {
		name := databaseName(t, server.Database(t))
		server.Exec(t, "postgres", "ALTER DATABASE "+name+" OWNER TO "+user)
		if change != "" {
			server.Exec(t, "postgres", "ALTER DATABASE "+name+" "+change)
		}
		return name
	}
	at := func(secret, database string) string {
		return "postgres://" + user + ":" + secret + "@" + net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port)) + "/" + database
	}
	p := newProgramOn(t, "postgres://", "routes: []\n")
	good := owned("")
	foreign := databaseName(t, server.Database(t))
	server.Exec(t, foreign, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "GRANT USAGE ON SCHEMA public TO PUBLIC") // as from PostgreSQL 15 on
	services := p.file("services", "[other]\nhost=127.0.0.1\npassword="+password+"\n")
	tests := []struct {
		name, database string
		env            []string
		want           []string // what it is, and what to do
		code           int
	}{
		{"wrong password", at(notPassword, good), nil, []string{"password authentication failed", user, "check the user and the password"}, 6},
		{"wrong PGPASSWORD", strings.Replace(at("", good), ":@", "@", 1), []string{"PGPASSWORD=" + notPassword}, []string{"password authentication failed", "PGPASSWORD"}, 6},
		{"no such host", "postgres://" + user + ":" + password + "@nowhere.invalid/" + good, nil, []string{"nowhere.invalid", "is the server running"}, 6},
		{"nobody listens", "postgres://" + user + ":" + password + "@127.0.0.1:1/" + good, nil, []string{"127.0.0.1:1", "refused", "is the server running"}, 6},
		{"no socket", "postgres://", []string{"PGHOST=" + p.path("nowhere"), "PGPASSWORD=" + password}, []string{p.path("nowhere"), "is the server running"}, 6},
		{"missing database", at(password, "nowhere"), nil, []string{"nowhere", "does not exist", "createdb"}, 6},
		{"no privilege", at(password, foreign), nil, []string{"permission denied for schema public", "GRANT"}, 6},
		{"read-only", at(password, owned("SET default_transaction_read_only = on")), nil, []string{"read-only", "name the primary"}, 6},
		{"full", at(password, owned("CONNECTION LIMIT 0")), nil, []string{"too many connections", "max_connections"}, 6},
		{"no TLS there", at(password, good) + "?sslmode=require", nil, []string{"refused TLS", "TLS as it wants"}, 6},
		{"unknown sslmode", at(password, good) + "?sslmode=none", nil, []string{"sslmode is invalid", "correct the URL's parameters"}, 78},
		{"no such certificate", at(password, good) + "?sslmode=verify-ca&sslrootcert=" + p.path("nowhere"), nil, []string{p.path("nowhere"), "correct"}, 78},
		{"unknown service", "postgres://", []string{"PGSERVICE=nowhere", "PGSERVICEFILE=" + services}, []string{"service: nowhere", "PGSERVICE"}, 78},
		{"no service file", "postgres://", []string{"PGSERVICE=other", "PGSERVICEFILE=" + p.path("nowhere")}, []string{p.path("nowhere"), "service file"}, 78},
		{"a slash in the password", at("12/"+password, good), nil, []string{"percent-encoded"}, 78},
		{"one slash too few", strings.Replace(at(password, good), "//", "/", 1), nil, []string{"postgres://USER@HOST"}, 78},
		{"libpq's keywords", "host=127.0.0.1 password=" + password, nil, []string{"postgres://USER@HOST"}, 78},
		{"another engine", "mysql://" + user + ":" + password + "@127.0.0.1/q", nil, []string{"postgres://"}, 78},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := append([]string{
				"ORCHESTRATE_DATABASE=" + test.database, "ORCHESTRATE_LISTEN=127.0.0.1:0", "ORCHESTRATE_ADMIN_LISTEN=127.0.0.1:0",
			}, test.env...)
			for _, args := range [][]string{
				{"process", "--once"}, {"process", "--once", "--log-format", "json", "--log-level", "debug"}, {"serve", "-o", "json"}, {"migrate"}, {"status"},
			} {
				if args[0] == "status" && test.code == 6 && (test.name == "no privilege" || test.name == "read-only") {
					continue // which writes nothing
				}
				stdout, stderr, code := p.with(env, args...)
				shown(t, args[0], stdout, stderr)
				if code != test.code {
					t.Errorf("%v: exit code %d, want %d", args, code, test.code)
				}
				lines := strings.Split(strings.TrimSpace(stderr), "\n")
				last := lines[len(lines)-1]
				for _, want := range test.want {
					if !strings.Contains(last, want) {
						t.Errorf("%v: the last line is %q, want %q in it", args, last, want)
					}
				}
			}
			stdout, stderr, _ := p.with(env, "config", "show", "-o", "json")
			shown(t, "config show", stdout, stderr)
		})
	}
}
