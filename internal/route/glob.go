package route

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"orchestrate/internal/nearest"
	"orchestrate/internal/queue"
)

// glob is a pattern over names. It is written here because path.Match has no **
// and no comparison without case, and lowering the name first would allocate on
// each delivery.
//
//   - any run of characters but the slash
//     **   any run of characters
//     **/  any run of directories, none as well, at the start or behind a slash
//     ?    one character but the slash
//
// Nothing else is special: a list is the alternative, and logins end in [bot].
type glob struct {
	text string
	style
	literal bool // no wildcard in it
	ascii   bool
}

// style is how the names of one kind are compared.
type style struct {
	fold bool // without case, as GitHub does; the text is in lower case then
	flat bool // a slash is a character like any other
}

// match walks pattern and name once, going back only to the last * and, where
// that may not grow over a slash, to the last **. An earlier wildcard never has
// to be tried again: the later one takes in whatever it would have taken.
func (g *glob) match(s string) bool {
	if g.fold && !g.ascii {
		s = strings.ToLower(s)
	}
	if g.literal && (!g.fold || len(g.text) != len(s)) {
		return g.text == s
	}
	var p, i int
	star, starAt := -1, 0              // where the pattern goes on behind it, and what it has taken up to
	deep, deepAt, dirs := -1, 0, false // the same; and whether it takes whole directories
	for i < len(s) {
		switch {
		case !g.flat && strings.HasPrefix(g.text[p:], "**/") && (p == 0 || g.text[p-1] == '/'):
			p += 3
			deep, deepAt, dirs, star = p, i, true, -1
		case strings.HasPrefix(g.text[p:], "**"):
			p += 2
			deep, deepAt, dirs, star = p, i, false, -1
		case p < len(g.text) && g.text[p] == '*':
			p++
			star, starAt = p, i
		case p < len(g.text) && g.text[p] == '?' && g.wild(s[i]):
			p++
			i += width(s[i:])
		case p < len(g.text) && g.text[p] == g.lower(s[i]):
			p++
			i++
		case star >= 0 && g.wild(s[starAt]):
			starAt += width(s[starAt:])
			p, i = star, starAt
		case deep >= 0:
			deepAt += step(s[deepAt:], dirs)
			p, i, star = deep, deepAt, -1
		default:
			return false
		}
	}
	return strings.Trim(g.text[p:], "*") == ""
}

// wild tells whether a wildcard of one * may stand for c.
func (g *glob) wild(c byte) bool { return g.flat || c != '/' }

func (g *glob) lower(c byte) byte {
	if g.fold && 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// step is how much more a ** takes: a character, or all up to the next slash.
func step(s string, dirs bool) int {
	if !dirs {
		return width(s)
	}
	if i := strings.IndexByte(s, '/'); i >= 0 {
		return i + 1
	}
	return len(s)
}

// width is that of the first character, in bytes.
func width(s string) int {
	_, n := utf8.DecodeRuneInString(s)
	return n
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func anyGlob(globs []glob, values []string) bool {
	for _, v := range values {
		for i := range globs {
			if globs[i].match(v) {
				return true
			}
		}
	}
	return false
}

// syntax is what patterns of one kind may look like. What could never match is
// refused, since a route that silently wants nothing looks like lost events.
type syntax struct {
	style
	what  string             // what a pattern stands for, in messages
	check func(string) error // of the kind
}

var (
	repositories = syntax{style{fold: true}, "repository", checkRepository}
	branches     = syntax{style{}, "branch", checkBranch}
	paths        = syntax{style{}, "path", checkPath}
	labels       = syntax{style{fold: true, flat: true}, "label", checkLabel}
	logins       = syntax{style{fold: true, flat: true}, "login", checkLogin}
)

// oneOf is a syntax of words that GitHub has a list of. No wildcard: a list of
// words says which.
func oneOf(what string, words ...string) syntax {
	return syntax{style{}, what, func(s string) error {
		if slices.Contains(words, s) {
			return nil
		}
		return fmt.Errorf("%q is no %s; %s", s, what, nearest.Hint(s, words))
	}}
}

func (x syntax) compile(pattern string) (glob, error) {
	if err := x.check(pattern); err != nil {
		return glob{}, err
	}
	if x.fold {
		pattern = strings.ToLower(pattern)
	}
	return glob{pattern, x.style, !strings.ContainsAny(pattern, "*?"), isASCII(pattern)}, nil
}

// common refuses what is no pattern in any kind.
func common(pattern, what string) error {
	switch {
	case pattern == "":
		return fmt.Errorf("%q matches no %s", pattern, what)
	case pattern != queue.Printable(pattern):
		return fmt.Errorf("%q holds control characters or is not in UTF-8", pattern)
	case len(pattern) > queue.MaxText && what != "path":
		return fmt.Errorf("%d bytes long: no %s is longer than %d", len(pattern), what, queue.MaxText)
	case strings.TrimSpace(pattern) != pattern:
		return fmt.Errorf("%q has a blank at its start or end: no %s has", pattern, what)
	case pattern[0] == '!':
		return fmt.Errorf("%q: there is no negation in a pattern; leave out what is unwanted by an if (a name that begins with ! is matched by ?)", pattern)
	}
	return without(pattern, `{}\`)
}

// without refuses characters that look like a syntax which is not there.
func without(pattern, chars string) error {
	if i := strings.IndexAny(pattern, chars); i >= 0 {
		return fmt.Errorf("%q: %q can't stand in a pattern: there are *, ** and ?, alternatives are separate items of the list, "+
			"and ? matches the character itself", pattern, pattern[i])
	}
	return nil
}

func checkRepository(p string) error {
	if i := strings.IndexFunc(p, notInRepository); i >= 0 {
		return fmt.Errorf("%q: %q can't stand in a pattern: want owner/name in letters, digits and . _ -, with *, ** or ?; "+
			"alternatives are separate items of the list", p, []rune(p[i:])[0])
	}
	slashes := strings.Count(p, "/")
	if slashes > 1 || slashes == 0 && !strings.Contains(p, "**") || strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") {
		return fmt.Errorf(`%q matches no repository: want owner/name, as in "acme/*" or "*/api", or "**" for all`, p)
	}
	return nil
}

func notInRepository(c rune) bool { return !isLetterOrDigit(c) && !strings.ContainsRune("._-/*?", c) }

func isLetterOrDigit(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// checkBranch refuses what git does (git help check-ref-format).
func checkBranch(p string) error {
	if err := common(p, "branch"); err != nil {
		return err
	}
	if name, ok := strings.CutPrefix(p, "refs/heads/"); ok {
		return fmt.Errorf("%q: want the branch without refs/heads/: %q", p, name)
	}
	if strings.HasPrefix(p, "refs/tags/") {
		return fmt.Errorf("%q is a tag, which is no branch; ask for it by an if, as in 'event.ref.startsWith(\"refs/tags/\")'", p)
	}
	if strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") || strings.Contains(p, "//") || strings.Contains(p, "..") {
		return fmt.Errorf("%q matches no branch: git has no names with a slash at an end, or with .. or // in it", p)
	}
	return without(p, " ~^:[")
}

func checkPath(p string) error {
	if err := common(p, "path"); err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(p, "/") || strings.HasPrefix(p, "./"):
		return fmt.Errorf("%q matches no file: paths begin at the root of the repository, without a slash: %q", p, strings.TrimLeft(p, "./"))
	case strings.HasSuffix(p, "/"):
		return fmt.Errorf("%q matches no file: for all below the directory write %q", p, p+"**")
	case strings.Contains(p, "//") || slices.Contains(strings.Split(p, "/"), ".."):
		return fmt.Errorf("%q matches no file: GitHub lists paths without .. and // in them", p)
	}
	return nil
}

func checkLabel(p string) error {
	if utf8.RuneCountInString(p) > maxLabel {
		return fmt.Errorf("%q matches no label: they have at most %d characters", queue.Clean(p), maxLabel)
	}
	return common(p, "label")
}

// maxLabel is GitHub's bound (docs.github.com, "Managing labels").
const maxLabel = 50

func checkLogin(p string) error {
	if strings.HasPrefix(p, "@") {
		return fmt.Errorf("%q: want the login without @", p)
	}
	if err := common(p, "login"); err != nil {
		return err
	}
	bare := strings.TrimSuffix(p, "[bot]")
	if i := strings.IndexFunc(bare, func(c rune) bool { return !isLetterOrDigit(c) && !strings.ContainsRune("-_*?", c) }); i >= 0 {
		return fmt.Errorf(`%q: %q can't stand in a login: want letters, digits, - and _, with [bot] at the end for an app, as in "dependabot[bot]"`,
			p, []rune(bare[i:])[0])
	}
	if bare == "" {
		return errors.New(`"[bot]" matches no login: for every bot write "*[bot]"`)
	}
	return nil
}
