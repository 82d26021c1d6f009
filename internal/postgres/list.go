package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// A listKind says how the elements of a list are read.
type listKind int

const (
	listOfIdents listKind = iota + 1 // folded to lower case unless quoted
	listOfPaths                      // case kept, blanks inside an element kept
	listOfWords                      // case does not matter
)

// listOf returns how the server reads a parameter that is a list (GUC_LIST_INPUT), or 0 for one that is none.
// synchronous_standby_names has a grammar of its own and is none here.
func listOf(name string) listKind {
	switch strings.ToLower(name) {
	case "search_path", "temp_tablespaces", "synchronized_standby_slots":
		return listOfIdents
	case "shared_preload_libraries", "session_preload_libraries", "local_preload_libraries", "unix_socket_directories",
		"oauth_validator_libraries":
		return listOfPaths
	case "datestyle", "listen_addresses", "log_destination", "log_connections", "wal_consistency_checking", "createrole_self_grant", "debug_io_direct",
		"restrict_nonsystem_relation_kind", "plpgsql.extra_warnings", "plpgsql.extra_errors", "pgaudit.log":
		return listOfWords
	}
	return 0
}

// IsList reports whether the value of a parameter is a list of elements separated by commas.
func IsList(name string) bool { return listOf(name) != 0 }

// ParseList returns the elements of a list parameter's value, without quotes and with unquoted identifiers in lower case
// where the server does that. The error says what is malformed.
func ParseList(name, value string) ([]string, error) {
	var list []string
	rest := strings.Trim(value, cSpace)
	if rest == "" {
		return nil, nil
	}
	for {
		element, after, err := listElement(listOf(name), rest)
		if err != nil {
			return nil, fmt.Errorf("invalid list syntax in parameter %q: %w", name, err)
		}
		list = append(list, element)
		after = strings.TrimLeft(after, cSpace)
		if after == "" {
			return list, nil
		}
		if after[0] != ',' {
			return nil, fmt.Errorf("invalid list syntax in parameter %q: a comma is missing before %q", name, after)
		}
		rest = strings.TrimLeft(after[1:], cSpace)
	}
}

// listElement reads one element from the start of s.
func listElement(kind listKind, s string) (element, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		for i := 1; i < len(s); i++ {
			if s[i] != '"' {
				continue
			}
			if i+1 < len(s) && s[i+1] == '"' {
				i++
				continue
			}
			element = strings.ReplaceAll(s[1:i], `""`, `"`)
			if element == "" && kind != listOfPaths {
				return "", "", fmt.Errorf("an element is empty")
			}
			return element, s[i+1:], nil
		}
		return "", "", fmt.Errorf("a double quote has no end")
	}
	stop := ","
	if kind != listOfPaths {
		stop += cSpace
	}
	end := strings.IndexAny(s, stop)
	if end < 0 {
		end = len(s)
	}
	element = strings.TrimRight(s[:end], cSpace)
	if element == "" {
		return "", "", fmt.Errorf("an element is empty")
	}
	if kind == listOfIdents {
		element = strings.ToLower(element)
	}
	return element, s[end:], nil
}

// JoinList returns the value of a list parameter, each element quoted where it has to be.
func JoinList(name string, list []string) string {
	quoted := make([]string, len(list))
	for i, element := range list {
		quoted[i] = quoteElement(listOf(name), element)
	}
	return strings.Join(quoted, ", ")
}

func quoteElement(kind listKind, element string) string {
	if kind == listOfIdents {
		return QuoteIdent(element)
	}
	if element == "" || strings.ContainsAny(element, `",`) || strings.Trim(element, cSpace) != element ||
		kind != listOfPaths && strings.ContainsAny(element, cSpace) {
		return `"` + strings.ReplaceAll(element, `"`, `""`) + `"`
	}
	return element
}

// MergeList returns the list have with the elements of want that it lacks at its end: what is there stays, in its order, as
// shared_preload_libraries needs it. Both are values of the parameter; so is the result.
func MergeList(name, have, want string) (string, error) {
	merged, err := ParseList(name, have)
	if err != nil {
		return "", err
	}
	add, err := ParseList(name, want)
	if err != nil {
		return "", err
	}
	same := sameElement(listOf(name))
	for _, element := range add {
		if !slices.ContainsFunc(merged, func(m string) bool { return same(m, element) }) {
			merged = append(merged, element)
		}
	}
	return JoinList(name, merged), nil
}

// EqualLists reports whether two values of a list parameter hold the same elements in the same order. Malformed ones are
// equal only when they are the same text.
func EqualLists(name, a, b string) bool {
	listA, errA := ParseList(name, a)
	listB, errB := ParseList(name, b)
	if errA != nil || errB != nil {
		return a == b
	}
	return slices.EqualFunc(listA, listB, sameElement(listOf(name)))
}

func sameElement(kind listKind) func(a, b string) bool {
	if kind == listOfWords {
		return strings.EqualFold
	}
	return func(a, b string) bool { return a == b }
}
