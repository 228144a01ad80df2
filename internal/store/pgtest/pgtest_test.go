//go:build unix

package pgtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// helper is the process of the test below, which leaves its server running.
const helper = "PGTEST_HELPER"

// TestServerEndsWithItsTests however they end.
func TestServerEndsWithItsTests(t *testing.T) {
	if way := os.Getenv(helper); way != "" {
		s := Shared(t)
		_, _ = fmt.Fprintf(os.Stdout, "\n%s %d %s\n", helper, s.Port, s.dir)
		if way == "panic" {
			panic("as a test that takes too long ends")
		}
		select {}
	}
	_, err := findBin()
	require(t, err)
	for way, end := range map[string]func(*exec.Cmd) error{
		"kill":  func(cmd *exec.Cmd) error { return cmd.Process.Kill() },
		"panic": func(*exec.Cmd) error { return nil },
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestServerEndsWithItsTests$")
			cmd.Env = append(os.Environ(), helper+"="+way)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var port, dir string
			for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
				if words := strings.Fields(lines.Text()); len(words) == 3 && words[0] == helper {
					port, dir = words[1], words[2]
				}
			}
			if dir == "" {
				t.Fatalf("the helper started no server: %v", cmd.Wait())
			}
			if err := end(cmd); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("the helper ended well")
			}
			tick, tooLong := time.NewTicker(20*time.Millisecond), time.After(30*time.Second)
			defer tick.Stop()
			for {
				_, stat := os.Stat(dir)
				conn, dial := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
				if dial == nil {
					_ = conn.Close()
				}
				if os.IsNotExist(stat) && dial != nil {
					return
				}
				select {
				case <-tick.C:
				case <-tooLong:
					t.Fatalf("30 s after its tests the server still has its directory (%v) or answers (%v)", stat, dial)
				}
			}
		})
	}
}
