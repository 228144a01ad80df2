//go:build unix

package chaos

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
)

// shown is how many violations of one check are printed.
const shown = 5

// Report prints what was looked at and what was found, and returns how much was
// found. A check that had nothing to look at is no proof, and is told so.
func Report(w io.Writer, findings []Finding) (violations int) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "INVARIANT\tCHECK\tLOOKED AT\tVIOLATIONS")
	for _, f := range findings {
		violations += len(f.Bad)
		_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%d\n", number(f.Invariant), f.What, f.Looked, len(f.Bad))
	}
	_ = t.Flush()
	for _, f := range findings {
		for _, bad := range f.Bad[:min(shown, len(f.Bad))] {
			_, _ = fmt.Fprintf(w, "%s %s: %s\n", number(f.Invariant), f.What, bad)
		}
	}
	return violations
}

func number(invariant int) string {
	if invariant == 0 {
		return "-"
	}
	return strconv.Itoa(invariant)
}

// Unlooked names the checks that had nothing to look at.
func Unlooked(findings []Finding) []string {
	var names []string
	for _, f := range findings {
		if f.Looked == 0 {
			names = append(names, f.What)
		}
	}
	return names
}
