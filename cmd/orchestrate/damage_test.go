//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServeEndsOnDamage that it meets at work, with a code that no restart mends,
// and says which file it is.
func TestServeEndsOnDamage(t *testing.T) {
	t.Parallel()
	p := newProgram(t, manyConfig)
	d := p.serve("--no-process")
	for i := range 20 {
		body := fmt.Appendf(nil, `{"here":%d,"pad":"%s"}`, i, strings.Repeat("x", 2000))
		if code, _, err := p.post(delivery{id: fmt.Sprint("d", i), event: "push", body: body}); err != nil || code != 200 {
			t.Fatalf("delivery %d: %d, %v", i, code, err)
		}
	}
	if code := d.stop(syscall.SIGTERM); code != 0 {
		t.Fatalf("serve ended with %d", code)
	}
	database := p.path("state/q.db")
	b, err := os.ReadFile(database)
	at := bytes.Index(b, []byte(`{"here":10`))
	if err != nil || at < 0 {
		t.Fatalf("no body in it, %v", err)
	}
	const page = 8192
	copy(b[at/page*page:][:page], bytes.Repeat([]byte{0xff}, page))
	if err := os.WriteFile(database, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d = p.start("serve")
	tooLong := time.AfterFunc(time.Minute, func() { _ = d.cmd.Process.Kill() })
	defer tooLong.Stop()
	_ = d.cmd.Wait() // the code tells
	if code := d.cmd.ProcessState.ExitCode(); code != 8 || !strings.Contains(p.errors(), database+": ") || !strings.Contains(p.errors(), "orchestrate restore BACKUP") {
		t.Errorf("serve ended with %d, want 8, and the file and what to do in\n%s", code, p.errors())
	}
}
