package main

import (
	"context"
	"database/sql" //nolint:depguard // plays another program
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"orchestrate/internal/store/pgtest"

	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite" //nolint:depguard // plays another program
)

func TestMain(m *testing.M) {
	testscript.Main(tidy{m}, map[string]func(){"orchestrate": main})
}

// atExit removes what tests share.
var atExit = func() {}

type tidy struct{ *testing.M }

func (t tidy) Run() int {
	defer func() { atExit() }()
	return pgtest.Main(t.M)
}

// TestScripts runs the command lines of testdata against the program. What
// they use beside the commands of testscript:
//
//	exitcode N COMMAND...      run it and want this exit code
//	eventually REGEXP COMMAND...  run it until its output matches
//	freeports                  choose addresses for serve, through its environment
//	ready                      wait until serve is ready
//	signal TERM|INT            signal what runs in the background
//	unprivileged COMMAND...    run it as a user who may not write everywhere; as exitcode
//	schema VERSION DATABASE    pretend that another program migrated it
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireUniqueNames: true, Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exitcode": exitCode, "eventually": eventually, "freeports": freePorts, "ready": ready,
			"signal": signalAll, "unprivileged": unprivileged, "schema": setSchema,
		},
	})
}

// patience bounds every wait for a background process.
const patience = 30 * time.Second

// setup gives each script the built program, as an operator has it, and a home,
// with files that only it can write.
func setup(e *testscript.Env) error {
	bin, err := builtOnce()
	if err != nil {
		return err
	}
	e.Setenv("PATH", filepath.Dir(bin)+string(os.PathListSeparator)+e.Getenv("PATH"))
	e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
	if err := os.MkdirAll(e.Getenv("HOME"), 0o755); err != nil {
		return err
	}
	// Reachable for the user of unprivileged, too.
	if err := os.Chmod(filepath.Dir(e.WorkDir), 0o711); err != nil {
		return err
	}
	return filepath.WalkDir(e.WorkDir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return os.Chmod(path, 0o755)
		default:
			return os.Chmod(path, 0o644)
		}
	})
}

func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N command...")
	}
	checkCode(ts, args[0], ts.Exec(args[1], args[2:]...))
}

func checkCode(ts *testscript.TestScript, want string, err error) {
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, want %s", code, want)
	}
}

func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually regexp command...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	poll(ts, func() bool { return ts.Exec(args[1], args[2:]...) == nil && want.MatchString(ts.ReadFile("stdout")) })
}

// firstPause is that between two questions, most of which start the program;
// those after it are longer, so that who waits does not keep the machine busy.
const firstPause = 20 * time.Millisecond

func longer(pause time.Duration) time.Duration { return min(pause*5/4, 400*time.Millisecond) }

// poll asks until it is told yes.
func poll(ts *testscript.TestScript, ask func() bool) {
	tooLong := time.After(patience)
	for pause := firstPause; !ask(); pause = longer(pause) {
		select {
		case <-time.After(pause):
		case <-tooLong:
			ts.Fatalf("still not after %s", patience)
		}
	}
}

func freePorts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: freeports")
	}
	for _, name := range []string{"ORCHESTRATE_LISTEN", "ORCHESTRATE_ADMIN_LISTEN"} {
		address, err := freeAddress()
		ts.Check(err)
		ts.Setenv(name, address)
	}
}

// handedOut are the addresses that this run of the tests has given away.
var handedOut sync.Map

// freeAddress is below the ports that the kernel gives to connections, which
// could take it away before it is used, or between two daemons; and no other
// test gets it.
func freeAddress() (string, error) {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			return "", err
		}
		if _, given := handedOut.LoadOrStore(address, true); !given {
			return address, nil
		}
	}
	return "", errors.New("no free port found")
}

func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: ready")
	}
	poll(ts, func() bool {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+ts.Getenv("ORCHESTRATE_ADMIN_LISTEN")+"/readyz", nil)
		ts.Check(err)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		ts.Check(res.Body.Close())
		return res.StatusCode == http.StatusOK
	})
}

func signalAll(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": os.Interrupt}
	if neg || len(args) != 1 || signals[args[0]] == nil {
		ts.Fatalf("usage: signal TERM|INT")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(signals[args[0]]))
	}
}

// setSchema records a version as the migrations do.
func setSchema(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: schema version database")
	}
	db, err := sql.Open("sqlite", "file:"+ts.MkAbs(args[1])+"?_pragma=busy_timeout(10000)")
	ts.Check(err)
	_, err = db.ExecContext(context.Background(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, 1)", args[0])
	ts.Check(err)
	ts.Check(db.Close())
}
