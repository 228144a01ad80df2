package route

import (
	"fmt"
	"strings"
)

// glob is a pattern over repository names, in lower case. It is written here
// because path.Match has no ** and no comparison without case, and lowering the
// name first would allocate on each delivery.
type glob string

// compileGlob refuses what could never match, since a route that silently wants
// nothing looks like lost events.
func compileGlob(pattern string) (glob, error) {
	if i := strings.IndexFunc(pattern, notInPattern); i >= 0 {
		return "", fmt.Errorf("%q: %q can't stand in a pattern: want owner/name in letters, digits and . _ -, with *, ** or ?; "+
			"alternatives are separate items of the list", pattern, []rune(pattern[i:])[0])
	}
	slashes := strings.Count(pattern, "/")
	if slashes > 1 || slashes == 0 && !strings.Contains(pattern, "**") ||
		strings.HasPrefix(pattern, "/") || strings.HasSuffix(pattern, "/") {
		return "", fmt.Errorf(`%q matches no repository: want owner/name, as in "acme/*" or "*/api", or "**" for all`, pattern)
	}
	return glob(strings.ToLower(pattern)), nil
}

func notInPattern(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-/*?", c)
}

func anyGlob(globs []glob, s string) bool {
	for _, g := range globs {
		if g.match(s) {
			return true
		}
	}
	return false
}

// match walks pattern and name once, going back only to the last * and, where
// that may not grow over a slash, to the last **. An earlier wildcard never has
// to be tried again: the later one takes in whatever it would have taken.
func (g glob) match(s string) bool {
	var p, i int
	star, starAt := -1, 0 // where the pattern goes on behind it, and what it has taken up to
	deep, deepAt := -1, 0
	for i < len(s) {
		switch {
		case strings.HasPrefix(string(g[p:]), "**"):
			p += 2
			deep, deepAt, star = p, i, -1
		case p < len(g) && g[p] == '*':
			p++
			star, starAt = p, i
		case p < len(g) && (g[p] == lower(s[i]) || g[p] == '?' && s[i] != '/'):
			p++
			i++
		case star >= 0 && s[starAt] != '/':
			starAt++
			p, i = star, starAt
		case deep >= 0:
			deepAt++
			p, i, star = deep, deepAt, -1
		default:
			return false
		}
	}
	return strings.Trim(string(g[p:]), "*") == ""
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
