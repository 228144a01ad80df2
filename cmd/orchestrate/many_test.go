//go:build unix

package main

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const manyConfig = `
log: {level: warn}
processor: {concurrency: 4}
routes:
  - name: work
    on: [push]
    run: {command: ["true"]}
`

// TestManyProcessesOneFile runs everything at once on one database; nobody is
// told that it is locked.
func TestManyProcessesOneFile(t *testing.T) {
	p := newProgram(t, manyConfig)
	daemons := []*daemon{p.serve(), p.start("process"), p.start("process")}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var sent, ran atomic.Int64
	for s := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				d := delivery{id: fmt.Sprintf("s%d-%d", s, n), event: "push", body: []byte(`{}`)}
				if status, _, err := p.post(d); err != nil || status != http.StatusOK {
					t.Errorf("%s: got %d, %v", d.id, status, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	for _, args := range [][]string{
		{"events", "list", "-o", "json"},
		{"status"},
		{"events", "requeue-dead", "--all", "--yes"},
		{"cleanup", "--older-than", "1ms"},
		{"process", "--once", "--limit", "5"},
	} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				out, err := p.command(args...).Output()
				if err != nil {
					t.Errorf("orchestrate %s: %v\n%s", strings.Join(args, " "), err, out)
					return
				}
				ran.Add(1)
			}
		})
	}
	<-time.After(8 * time.Second)
	close(stop)
	wg.Wait()
	p.eventually("everything has ended", p.settled)
	for _, d := range daemons {
		if code := d.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("%v ended with %d", d.cmd.Args, code)
		}
	}
	if sent.Load() == 0 || ran.Load() == 0 {
		t.Errorf("%d deliveries, %d commands: want some of both", sent.Load(), ran.Load())
	}
	t.Logf("%d deliveries beside %d commands", sent.Load(), ran.Load())
	for _, word := range []string{"locked", "SQLITE_BUSY", "busy"} {
		if said := p.stderr.String(); strings.Contains(said, word) {
			t.Errorf("somebody was told %q:\n%s", word, said)
		}
	}
	if left, err := exec.Command("pgrep", "-f", p.bin).Output(); err == nil {
		t.Errorf("processes are left: %s", left)
	}
}

// TestManyStartAtOnce on a database that is not there yet: one makes it, under a
// lock, and the others wait.
func TestManyStartAtOnce(t *testing.T) {
	p := newProgram(t, manyConfig)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if out, err := p.command("process", "--once").Output(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	if out := p.run("migrate", "status", "--exit-code"); !strings.Contains(string(out), "00001_events.sql") {
		t.Errorf("migrate status printed\n%s", out)
	}
}
