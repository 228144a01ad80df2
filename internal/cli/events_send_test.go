package cli

import (
	"strings"
	"testing"

	"orchestrate/internal/webhook"
)

func TestReachable(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:9000": "127.0.0.1:9000", ":9000": "127.0.0.1:9000", "0.0.0.0:80": "127.0.0.1:80",
		"[::]:9000": "127.0.0.1:9000", "[::1]:9000": "[::1]:9000", "hooks.example:80": "hooks.example:80",
	} {
		if got := reachable(listen); got != want {
			t.Errorf("reachable(%q) = %q, want %q", listen, got, want)
		}
	}
}

func TestSentBody(t *testing.T) {
	example, err := webhook.Example("push")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    eventsSendOptions
		in   string
		want string
	}{
		{"example", eventsSendOptions{event: "push"}, "", string(example)},
		{"as it is", eventsSendOptions{event: "x", payload: "-"}, "{ }\n", "{ }\n"},
		{"action", eventsSendOptions{event: "x", payload: "-", action: "opened"}, `{"n": 1e400, "action":"closed"}`, `{"action":"opened","n":1e400}`},
	} {
		got, err := tt.o.body(t.Context(), &App{In: strings.NewReader(tt.in)})
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: got %s, %v; want %s", tt.name, got, err, tt.want)
		}
	}
}
