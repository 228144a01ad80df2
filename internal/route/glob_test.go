package route

import (
	"regexp"
	"strings"
	"testing"

	"orchestrate/internal/queue"
)

func TestGlob(t *testing.T) {
	tests := []struct {
		pattern string
		yes, no []string
	}{
		{"acme/*", []string{"acme/api", "ACME/Api", "acme/"}, []string{"acme", "acme/a/b", "xacme/api"}},
		{"acme/api-*", []string{"acme/api-x", "acme/api-"}, []string{"acme/api", "acme/xapi-y"}},
		{"*/api", []string{"acme/api", "x/API"}, []string{"acme/api2", "a/b/api"}},
		{"*/*-api", []string{"a/b-api", "a/b-api-api"}, []string{"a/api", "a/b-apis"}},
		{"**", []string{"acme/api", "a/b/c", "x"}, nil},
		{"**api", []string{"acme/api", "api", "a/b/xapi"}, []string{"acme/apis"}},
		{"**/a*z", []string{"x/az", "x/y/abz", "az"}, []string{"x/ab/z"}},
		{"acme/ap?", []string{"acme/api"}, []string{"acme/ap", "acme/apis"}},
		{"acme?api**", nil, []string{"acme/api"}},
		{"acme/api", []string{"acme/api", "Acme/API"}, []string{"acme/apix", "acme/ap"}},
	}
	for _, tt := range tests {
		t.Run(tt.pattern, func(t *testing.T) {
			g, err := repositories.compile(tt.pattern)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range tt.yes {
				if !g.match(s) {
					t.Errorf("%q does not match %q, want a match", tt.pattern, s)
				}
			}
			for _, s := range tt.no {
				if g.match(s) {
					t.Errorf("%q matches %q, want none", tt.pattern, s)
				}
			}
		})
	}
}

// FuzzGlob compares with a regular expression that says the same.
func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{
		{"acme/*", "acme/api"},
		{"**", "a/b"},
		{"**/a*z", "x/y/abz"},
		{"*/*-api", "a/b-api-api"},
		{"**a*b?c", "xa/abxc"},
		{"*a/b*c**", "a/ba/bc"},
		{"***", "/"},
		{"acme/{a,b}", "acme/a"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Add("**/*.go", "a/b.go")
	f.Add("src/**/test/?é", "src/test/éé")
	f.Add("**a/**/b*", "x/a/a/y/b")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 100 || len(s) > queue.MaxText || strings.Contains(s, "\n") {
			return
		}
		for _, x := range []syntax{repositories, branches, paths, labels, logins} {
			g, err := x.compile(pattern)
			if err != nil {
				if x.what == "repository" && strings.Trim(pattern, "abcXYZ019._-*") == "/" && !strings.HasPrefix(pattern, "/") && !strings.HasSuffix(pattern, "/") {
					t.Fatalf("compile(%q): %v, want none", pattern, err)
				}
				continue
			}
			if x.fold && (!isASCII(pattern) || !isASCII(s)) {
				continue // a regular expression folds in another way
			}
			if got, want := g.match(s), expression(pattern, x.style).MatchString(s); got != want {
				t.Errorf("%s %q on %q = %v, want %v", x.what, pattern, s, got, want)
			}
		}
	})
}

// expression is a regular expression that says the same as a pattern.
func expression(pattern string, st style) *regexp.Regexp {
	one := "[^/]"
	if st.flat {
		one = "."
	}
	var re strings.Builder
	for p := 0; p < len(pattern); p++ {
		switch {
		case !st.flat && strings.HasPrefix(pattern[p:], "**/") && (p == 0 || pattern[p-1] == '/'):
			re.WriteString("(?:.*/)?")
			p += 2
		case strings.HasPrefix(pattern[p:], "**"):
			re.WriteString(".*")
			p++
		case pattern[p] == '*':
			re.WriteString(one + "*")
		case pattern[p] == '?':
			re.WriteString(one)
		default:
			n := width(pattern[p:])
			re.WriteString(regexp.QuoteMeta(pattern[p : p+n]))
			p += n - 1
		}
	}
	flags := "s"
	if st.fold {
		flags = "is"
	}
	return regexp.MustCompile("^(?" + flags + ":" + re.String() + ")$")
}

func TestGlobOfEachSyntax(t *testing.T) {
	tests := []struct {
		name    string
		syntax  syntax
		pattern string
		yes, no []string
	}{
		{"branch", branches, "release/*", []string{"release/1", "release/"}, []string{"release", "release/1/2", "Release/1"}},
		{"branch in depth", branches, "release/**", []string{"release/1", "release/1/2"}, []string{"release", "x/release/1"}},
		{"branch keeps its case", branches, "main", []string{"main"}, []string{"Main", "main2"}},
		{"branch beyond ASCII", branches, "übung/?", []string{"übung/ö", "übung/x"}, []string{"Übung/x", "übung/öö"}},
		{"path", paths, "src/**", []string{"src/a.go", "src/a/b.go"}, []string{"src", "xsrc/a.go", "Src/a.go"}},
		{"path of one level", paths, "*.go", []string{"a.go", ".go"}, []string{"src/a.go", "a.GO"}},
		{"path at any level", paths, "**/*.go", []string{"a.go", "src/a.go", "src/x/a.go"}, []string{"a.gox"}},
		{"no directory or several", paths, "src/**/test/*", []string{"src/test/a", "src/x/y/test/a"}, []string{"src/xtest/a", "src/x/test"}},
		{"directories after a deep wildcard", paths, "**a/**/b", []string{"xa/b", "x/a/y/b", "a/c/a/b"}, []string{"xa/yb", "ab"}},
		{"brackets are brackets", paths, "app/[id]/*", []string{"app/[id]/page.tsx"}, []string{"app/i/page.tsx"}},
		{"label", labels, "area/*", []string{"area/api", "Area/API", "area/a/b"}, []string{"area", "xarea/api"}},
		{"label with a blank", labels, "good first issue", []string{"Good First Issue"}, []string{"good-first-issue"}},
		{"every label", labels, "*", []string{"a", "a/b", "🐛 bug"}, nil},
		{"label beyond ASCII", labels, "ÄRGER ?", []string{"ärger 🐛", "Ärger x"}, []string{"ärger", "ärger 🐛🐛"}},
		{"one character may have four bytes", labels, "*??", []string{"🐛🐛", "x🐛b"}, []string{"🐛", "x"}},
		{"login", logins, "octocat", []string{"octocat", "OctoCat"}, []string{"octocat2"}},
		{"bot", logins, "dependabot[bot]", []string{"dependabot[bot]", "Dependabot[bot]"}, []string{"dependabot", "dependabotb", "dependabot[bot"}},
		{"every bot", logins, "*[bot]", []string{"x[bot]", "github-actions[bot]"}, []string{"bot", "xbot"}},
		{"word", conclusions, "timed_out", []string{"timed_out"}, []string{"TIMED_OUT", "timed_outs"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, err := tt.syntax.compile(tt.pattern)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range tt.yes {
				if !g.match(s) {
					t.Errorf("%q does not match %q, want a match", tt.pattern, s)
				}
			}
			for _, s := range tt.no {
				if g.match(s) {
					t.Errorf("%q matches %q, want none", tt.pattern, s)
				}
			}
		})
	}
}

func TestGlobRefuses(t *testing.T) {
	tests := []struct {
		name    string
		syntax  syntax
		pattern string
		want    string // part of the message
	}{
		{"empty pattern", repositories, "", `""`},
		{"braces", repositories, "acme/{a,b}", `"acme/{a,b}": '{'`},
		{"set", repositories, "acme/[ab]", `"acme/[ab]": '['`},
		{"escape", repositories, `acme/\*`, `'\\'`},
		{"negation", repositories, "!acme/x", `'!'`},
		{"blank in a name", repositories, "acme/api ", `"acme/api ": ' '`},
		{"beyond ASCII", repositories, "acmé/api", `'é'`},
		{"owner alone", repositories, "acme", `"acme" matches no repository`},
		{"star alone", repositories, "*", `"*" matches no repository`},
		{"too deep", repositories, "acme/*/x", `"acme/*/x" matches no repository`},
		{"no name", repositories, "acme/", `"acme/" matches no repository`},
		{"no owner", repositories, "/api", `"/api" matches no repository`},
		{"no branch", branches, "", `"" matches no branch`},
		{"full ref", branches, "refs/heads/main", `want the branch without refs/heads/: "main"`},
		{"tag", branches, "refs/tags/v1", "is a tag"},
		{"negated branch", branches, "!main", "there is no negation"},
		{"braces in a branch", branches, "{a,b}", `'{' can't stand in a pattern`},
		{"set in a branch", branches, "v[0-9]", `'[' can't stand in a pattern`},
		{"blank in a branch", branches, "my branch", `' ' can't stand`},
		{"branch with a slash at its end", branches, "release/", "matches no branch"},
		{"line break", branches, "a\nb", "control characters"},
		{"not in UTF-8", labels, "a\xff", "not in UTF-8"},
		{"long branch", branches, strings.Repeat("x", 256), "256 bytes long"},
		{"path from the root", paths, "/src/**", `without a slash: "src/**"`},
		{"path from here", paths, "./src/**", `without a slash: "src/**"`},
		{"directory", paths, "src/", `write "src/**"`},
		{"path upwards", paths, "a/../b", "without .. and //"},
		{"negated path", paths, "!docs/**", "there is no negation"},
		{"braces in a path", paths, "*.{js,ts}", `'{' can't stand`},
		{"empty label", labels, "", `"" matches no label`},
		{"blank before a label", labels, " bug", "has a blank"},
		{"long label", labels, strings.Repeat("é", 51), "at most 50 characters"},
		{"login with an at", logins, "@octocat", "want the login without @"},
		{"mail address", logins, "a@b.example", `'@' can't stand in a login`},
		{"brackets inside a login", logins, "a[bot]b", `'[' can't stand in a login`},
		{"bot alone", logins, "[bot]", `"*[bot]"`},
		{"wrong word", conclusions, "failed", `"failed" is no conclusion`},
		{"word with a wildcard", conclusions, "fail*", `"fail*" is no conclusion; want one of success, failure`},
		{"word near another", conclusions, "canceled", `did you mean cancelled?`},
		{"word in another case", associations, "member", `did you mean MEMBER?`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.syntax.compile(tt.pattern); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("compile(%q) = %v, want an error with %s", tt.pattern, err, tt.want)
			}
		})
	}
}
