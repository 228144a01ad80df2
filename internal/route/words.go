package route

import (
	"errors"
	"fmt"
	"regexp"
	re2 "regexp/syntax"
	"strings"
)

// elsewhere is what other languages call the functions of CEL.
var elsewhere = map[string]string{
	"any": "exists", "some": "exists", "every": "all", "len": "size", "length": "size", "includes": "contains",
	"lower": "lowerAscii", "toLowerCase": "lowerAscii", "upper": "upperAscii", "toUpperCase": "upperAscii",
}

var (
	wrongToken = regexp.MustCompile(`^Syntax error: (mismatched input|extraneous input|no viable alternative at input|` +
		`token recognition error at:) '(?s:(.*?))'( expecting .*)?$`)
	missingToken = regexp.MustCompile(`^Syntax error: missing (\S+) at (.*)$`)
	noFields     = regexp.MustCompile(`^type '(.*)' does not support field selection$`)
	noOverload   = regexp.MustCompile(`^found no matching overload for '(.*)' applied to '(.*)'$`)
)

// plainly says in other words what CEL's compiler means; text is that of the part
// that it is about, if it is one.
func plainly(message, text string) string {
	if m := wrongToken.FindStringSubmatch(message); m != nil {
		switch token := strings.TrimSpace(m[2]); {
		case token == "<EOF>":
			return "the condition ends where more is wanted; finish it"
		case strings.HasPrefix(token, "'") || strings.HasPrefix(token, `"`):
			return "quotes that are never closed: " + token
		default:
			return fmt.Sprintf("%q can't stand here", token)
		}
	}
	if m := missingToken.FindStringSubmatch(message); m != nil {
		return strings.Trim(m[1], "'") + " is missing here"
	}
	if m := noOverload.FindStringSubmatch(message); m != nil {
		hint := ""
		switch {
		case m[1] == "!_":
			hint = "; want true or false"
		case strings.HasPrefix(m[1], "_"):
			hint = "; int(…) and string(…) convert"
		}
		return fmt.Sprintf("%s can't be applied to %s%s", operatorNames.Replace(m[1]), m[2], hint)
	}
	if m := noFields.FindStringSubmatch(message); m != nil {
		return fmt.Sprintf("a value of type %s has no fields", m[1])
	}
	var wrong *re2.Error
	switch _, err := re2.Parse(text, re2.Perl); {
	case message == "invalid matches argument" && errors.As(err, &wrong):
		return fmt.Sprintf("%q is no regular expression: %s; see github.com/google/re2/wiki/Syntax", text, wrong.Code)
	case message == "invalid duration argument":
		return fmt.Sprintf("%q is no duration; want one as in duration(\"90s\")", text)
	case message == "invalid timestamp argument":
		return fmt.Sprintf("%q is no time; want one as in timestamp(\"2026-01-31T12:00:00Z\")", text)
	case message == "invalid argument to has() macro":
		return "has wants a field, as in has(payload.pull_request)"
	case strings.HasPrefix(message, "expression recursion limit exceeded"):
		return fmt.Sprintf("more than %d levels of brackets and calls; make several routes of it", maxNesting)
	}
	return message
}

// operatorNames are those of the operators, by what they are called in CEL's messages.
var operatorNames = strings.NewReplacer("_[_]", "[ ]", "_?_:_", "? :", "@in", "in", "_", "")
