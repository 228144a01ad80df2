package cli

import (
	"bufio"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"orchestrate/internal/config"
)

const docs = "../../docs/"

func readDoc(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(docs + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantWords holds a page to words that it must have.
func wantWords(t *testing.T, page string, words ...string) {
	t.Helper()
	text := readDoc(t, page)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("docs/%s does not have %q", page, w)
		}
	}
}

func TestDocsHaveEveryCommandAndFlag(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || !c.IsAvailableCommand() && c.HasParent() {
			return
		}
		if c.HasParent() {
			wantWords(t, "reference/cli.md", strings.TrimPrefix(c.CommandPath(), "orchestrate "))
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" {
				wantWords(t, "reference/cli.md", "--"+f.Name)
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRootCmd(&App{Out: bufio.NewWriter(io.Discard), Err: io.Discard, Getenv: os.Getenv}))
}

func TestDocsHaveEveryExitCode(t *testing.T) {
	for _, e := range exits() {
		wantWords(t, "reference/cli.md", "| "+itoa(int64(e.code))+" |")
	}
}

func TestDocsHaveEveryKey(t *testing.T) {
	for _, k := range config.Keys() {
		words := []string{"`" + k.Name + "`", "`" + k.Env() + "`"}
		if k.Default != "" {
			words = append(words, "`"+k.Default+"`")
		}
		wantWords(t, "reference/configuration.md", words...)
		leaf := k.Name[strings.LastIndexByte(k.Name, '.')+1:]
		wantWords(t, "examples/config.yaml", leaf+":")
	}
}

// TestExampleHasEveryKey of the tables of sources and routes, too.
func TestExampleHasEveryKey(t *testing.T) {
	_, lists, _ := strings.Cut(readDoc(t, "reference/configuration.md"), "\n## sources\n")
	rows := regexp.MustCompile("(?m)^\\| (`.*?`) \\|").FindAllStringSubmatch(lists, -1)
	if len(rows) < 25 {
		t.Fatalf("%d keys were found", len(rows))
	}
	for _, row := range rows {
		for _, key := range regexp.MustCompile("`([a-z_.]+)`").FindAllStringSubmatch(row[1], -1) {
			leaf := key[1][strings.LastIndexByte(key[1], '.')+1:]
			wantWords(t, "examples/config.yaml", leaf+":")
		}
	}
}

// TestDocsHaveEveryColumn reads the names out of the schema.
func TestDocsHaveEveryColumn(t *testing.T) {
	steps, err := filepath.Glob("../../migrations/sqlite/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	var schema []byte
	for _, step := range steps {
		b, err := os.ReadFile(step)
		if err != nil {
			t.Fatal(err)
		}
		schema = append(schema, b...)
	}
	columns := regexp.MustCompile(`(?m)^(?:    |ALTER TABLE \w+ ADD COLUMN )([a-z_0-9]+) +(?:INTEGER|TEXT|BLOB)`).FindAllSubmatch(schema, -1)
	if len(columns) < 60 {
		t.Fatalf("%d columns were found in the schema", len(columns))
	}
	for _, c := range columns {
		wantWords(t, "reference/schema.md", "`"+string(c[1])+"`")
	}
}

// TestDocsLinksLead somewhere.
func TestDocsLinksLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	for _, page := range docPages(t) {
		for _, m := range link.FindAllStringSubmatch(readDoc(t, page), -1) {
			if _, err := os.Stat(filepath.Join(docs, filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
			}
		}
	}
}

// TestDocsConfigurationsAreValid: what a page shows as a whole configuration
// can be used as one.
func TestDocsConfigurationsAreValid(t *testing.T) {
	t.Setenv("GITHUB_WEBHOOK_SECRET", "")
	must(os.Unsetenv("GITHUB_WEBHOOK_SECRET"))
	block := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	found := 0
	for _, page := range docPages(t) {
		for _, m := range block.FindAllStringSubmatch(readDoc(t, page), -1) {
			if !regexp.MustCompile(`(?m)^routes:`).MatchString(m[1]) {
				continue // a part of one
			}
			found++
			if !strings.Contains(m[1], "run:") && !strings.Contains(m[1], "forward:") {
				m[1] += "    run: {command: [handle]}\n" // a page about matching leaves it out
			}
			path := filepath.Join(t.TempDir(), "config.yaml")
			must(os.WriteFile(path, []byte(m[1]), 0o600))
			c, err := config.Load(config.Options{File: path})
			if err == nil {
				_, err = base{log: slog.New(slog.DiscardHandler), redact: &redactor{}}.compile(c)
			}
			if err != nil {
				t.Errorf("%s: %v in\n%s", page, err, m[1])
			}
		}
	}
	if found < 5 {
		t.Errorf("%d configurations were found", found)
	}
}

// docPages are those of docs, and the README.
func docPages(t *testing.T) []string {
	t.Helper()
	pages := []string{"../README.md"}
	err := filepath.WalkDir(docs, func(path string, _ os.DirEntry, err error) error {
		if filepath.Ext(path) == ".md" {
			pages = append(pages, strings.TrimPrefix(path, docs))
		}
		return err
	})
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	return pages
}
