package postgres

import (
	"regexp"
	"strings"
)

// compileARE compiles a regular expression of the server's (an ARE of the manual's "POSIX Regular Expressions") for matching
// here. ok is false when it uses what Go's engine does not have or reads differently; the caller must then say that it
// cannot tell.
func compileARE(form string) (re *regexp.Regexp, ok bool) {
	if foreignRegexp(form) {
		return nil, false
	}
	re, err := regexp.Compile("(?s)" + form)
	if err != nil {
		return nil, false
	}
	re.Longest()
	return re, true
}

// foreignRegexp reports whether a form has constructs that mean something else, or nothing, to Go: directors and embedded
// options, lookaround, back references, and escapes that differ.
func foreignRegexp(form string) bool {
	if strings.HasPrefix(form, "***") || strings.Contains(form, "(?") || strings.Contains(form, "[[.") || strings.Contains(form, "[[=") {
		return true
	}
	for i := 0; i+1 < len(form); i++ {
		if form[i] != '\\' {
			continue
		}
		i++
		if c := form[i]; isAlpha(c) && !strings.ContainsRune("dwsDWS", rune(c)) || isDigit(c) {
			return true
		}
	}
	return false
}

// badRegexp returns why the server would not compile a form, or "" when it would or it cannot be told here.
func badRegexp(form string) string {
	if foreignRegexp(form) {
		return ""
	}
	_, err := regexp.Compile(form)
	if err == nil {
		return ""
	}
	switch text := err.Error(); {
	case strings.Contains(text, "missing closing ]"):
		return "brackets [] not balanced"
	case strings.Contains(text, "missing closing )"), strings.Contains(text, "unexpected )"):
		return "parentheses () not balanced"
	case strings.Contains(text, "trailing backslash"):
		return "invalid escape \\ sequence"
	}
	return ""
}
