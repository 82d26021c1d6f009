package inventory

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Nearest returns the candidate that name most likely is a misspelling of: the one with the fewest letters inserted,
// deleted, replaced or swapped with their neighbour, in any case. It returns false when none is near enough, which is a
// third of the name's length, or one letter of a short name. Of equally near candidates the first one wins.
func Nearest(name string, candidates []string) (string, bool) {
	lower := strings.ToLower(name)
	length := utf8.RuneCountInString(name)
	limit := min(max(1, length/3), length-1)
	best, found := "", false
	for _, c := range candidates {
		if c == name {
			continue
		}
		if d := distance(lower, strings.ToLower(c), limit); d <= limit {
			best, found, limit = c, true, d-1
		}
	}
	return best, found
}

// DidYouMean returns ` (did you mean "x"?)` for the nearest of the candidates, or nothing when none is near.
func DidYouMean(name string, candidates []string) string {
	if near, ok := Nearest(name, candidates); ok {
		return fmt.Sprintf(" (did you mean %q?)", near)
	}
	return ""
}

// distance is the optimal string alignment distance, or anything above limit once it is known to exceed that.
func distance(a, b string, limit int) int {
	x, y := []rune(a), []rune(b)
	if d := len(x) - len(y); d > limit || -d > limit {
		return limit + 1
	}
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := range x {
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			d := min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				d = min(d, before[j-1]+1)
			}
			row[j+1] = d
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}
