package cli

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"orchestrate/internal/config"
	"orchestrate/internal/handler"
)

// TestEnvironmentIsComplete reads the variables out of the program's text.
func TestEnvironmentIsComplete(t *testing.T) {
	known := map[string]bool{}
	for _, v := range variables() {
		if known[v.name] {
			t.Errorf("%s is told twice", v.name)
		}
		known[v.name] = true
	}
	read := regexp.MustCompile(`(?:[gG]etenv|LookupEnv)\("([A-Z_]+)"\)`)
	found := 0
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if d != nil && (d.Name() == "pgtest" || d.Name() == "chaos") { // for tests
			return filepath.SkipDir
		}
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range read.FindAllSubmatch(text, -1) {
			found++
			// Set to anything it is refused, and the message says what to use.
			if name := string(m[1]); !known[name] && name != "ORCHESTRATE_SECRETS" {
				t.Errorf("%s reads %s, which help environment does not tell", path, name)
			}
		}
		return err
	})
	if err != nil || found < 4 {
		t.Errorf("%d variables were found, %v", found, err)
	}
}

// TestFiltersAreComplete compares with the fields of a filter.
func TestFiltersAreComplete(t *testing.T) {
	var told, want []string
	for _, k := range filterKeys() {
		told = append(told, k.key)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[config.Filter]()) {
		want = append(want, snake(f.Name))
	}
	slices.Sort(told)
	slices.Sort(want)
	if !slices.Equal(told, want) {
		t.Errorf("help filters tells %q, a filter has %q", told, want)
	}
}

func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func TestTemplatesCompile(t *testing.T) {
	for _, f := range templateFunctions() {
		if _, err := handler.NewRun(handler.Run{Command: []string{"x", f.example}}, t.TempDir(), slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
}

func TestTopicsFitATerminal(t *testing.T) {
	for _, topic := range newTopics() {
		for line := range strings.Lines(topic.Long) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 90 {
				t.Errorf("help %s: %d columns: %s", topic.Name(), n, line)
			}
		}
	}
}
