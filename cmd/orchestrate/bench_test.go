//go:build unix

package main

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

// BenchmarkServeLatency is the time from the post of a webhook to an idle serve
// until the command it starts has run its first instruction of use: it writes
// to a pipe. With and without another process that does the work.
func BenchmarkServeLatency(b *testing.B) {
	for _, test := range []struct {
		name  string
		serve []string
		other []string
	}{{"serve", nil, nil}, {"serve and process", []string{"--no-process"}, []string{"process"}}} {
		b.Run(test.name, func(b *testing.B) {
			p := newProgram(b, `
log: {level: warn}
routes:
  - name: tell
    on: [push]
    run: {command: [sh, -c, 'echo > "$PIPE"'], env: {PIPE: "%DIR%/pipe"}}
`)
			if err := syscall.Mkfifo(p.path("pipe"), 0o600); err != nil {
				b.Fatal(err)
			}
			pipe, err := os.OpenFile(p.path("pipe"), os.O_RDWR, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = pipe.Close() }()
			daemons := []*daemon{p.serve(test.serve...)}
			if test.other != nil {
				daemons = append(daemons, p.start(test.other...))
			}
			var took []time.Duration
			buf := make([]byte, 1)
			for n := 0; b.Loop(); n++ {
				at := time.Now()
				status, _, err := p.post(delivery{id: fmt.Sprint(n), event: "push", body: []byte(`{}`)})
				if err != nil || status != http.StatusOK {
					b.Fatal(status, err)
				}
				if _, err := pipe.Read(buf); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(at))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[(len(took)-1)*99/100].Microseconds())/1000, "p99-ms")
			for _, d := range daemons {
				if code := d.stop(syscall.SIGTERM); code != 0 {
					b.Errorf("%v ended with %d\n%s", d.cmd.Args, code, p.errors())
				}
			}
		})
	}
}
