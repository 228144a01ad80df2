package route

import (
	"fmt"
	"strings"
)

// didYouMean is a hint at the word that was probably meant, to be appended to a
// message; empty when none is near.
func didYouMean(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return fmt.Sprintf(" (did you mean %q?)", near)
	}
	return ""
}

// nearest is the known word that takes the fewest changes; empty when even that
// takes more than a third of its letters.
func nearest(word string, known []string) string {
	best, fewest := "", 0
	for _, k := range known {
		d := distance(strings.ToLower(word), strings.ToLower(k))
		if d <= max(1, len(k)/3) && (best == "" || d < fewest) {
			best, fewest = k, d
		}
	}
	return best
}

// distance counts the letters to be put in, taken out, replaced, or swapped with
// their neighbour, to make b of a. A word longer than any known one is cut: it is
// far from all of them.
func distance(a, b string) int {
	a = a[:min(len(a), 100)]
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
