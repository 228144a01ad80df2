// Package nearest finds the word that was meant by one that nobody knows.
package nearest

import "strings"

// longest is how much of a word is looked at, in bytes: what is longer is far
// from all that is known.
const longest = 100

// Word is the known word that takes the fewest changes, and whether it is near:
// no more than a third of the letters of the longer one are changed, upper and
// lower case aside.
func Word(word string, known []string) (string, bool) {
	best, fewest := "", 0
	word = strings.ToLower(word[:min(len(word), longest)])
	for _, k := range known {
		n := changes(word, strings.ToLower(k))
		if n <= max(3, len(word), len(k))/3 && (best == "" || n < fewest) {
			best, fewest = k, n
		}
	}
	return best, best != ""
}

// Hint asks whether the nearest word was meant, or names all there are: the end
// of a message.
func Hint(word string, known []string) string {
	if best, ok := Word(word, known); ok {
		return "did you mean " + best + "?"
	}
	return "want one of " + strings.Join(known, ", ")
}

// changes counts the letters to be put in, taken out, replaced, or swapped with
// their neighbour, to make b of a.
func changes(a, b string) int {
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
			n := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				n = min(n, rows[i-2][j-2]+1)
			}
			rows[i][j] = n
		}
	}
	return rows[len(a)][len(b)]
}
