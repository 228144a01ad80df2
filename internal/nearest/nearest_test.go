package nearest

import (
	"strings"
	"testing"
)

func TestWord(t *testing.T) {
	known := []string{"success", "failure", "pull_request", "pull_request_review", "push", "if", "json"}
	for word, want := range map[string]string{
		"failures": "failure", "fialure": "failure", "pullrequest": "pull_request", "pull_requests": "pull_request",
		"pull_request_reviews": "pull_request_review", "SUCCESS": "success", "ifs": "if", "toJson": "json", "deploy": "", "": "",
		strings.Repeat("x", 1000): "", strings.Repeat("é", 60): "",
	} {
		got, ok := Word(word, known)
		if got != want || ok != (want != "") {
			t.Errorf("Word(%.30q) = %q, %t, want %q", word, got, ok, want)
		}
	}
	if got, ok := Word("push", nil); ok {
		t.Errorf("of none: %q", got)
	}
}

func TestHint(t *testing.T) {
	known := []string{"debug", "info"}
	for word, want := range map[string]string{"inof": "did you mean info?", "trace": "want one of debug, info"} {
		if got := Hint(word, known); got != want {
			t.Errorf("Hint(%q) = %q, want %q", word, got, want)
		}
	}
}
