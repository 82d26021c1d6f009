package inventory

import (
	"strings"
	"unicode/utf8"
)

// A source is a string as it is written in a file, quotes included.
type source struct {
	raw string
	pos Position // of the opening quote
}

// at returns where the byte at offset of the string's value is written.
func (s source) at(offset int) Position {
	quote, multi := s.raw[:1], false
	if t := strings.Repeat(quote, 3); strings.HasPrefix(s.raw, t) && len(s.raw) >= 6 {
		quote, multi = t, true
	}
	i := len(quote)
	if multi { // the newline right after the quotes is not part of the value
		if strings.HasPrefix(s.raw[i:], "\r\n") {
			i += 2
		} else if strings.HasPrefix(s.raw[i:], "\n") {
			i++
		}
	}
	end := len(s.raw) - len(quote)
	for written := 0; i < end; {
		width, produced := 1, 1
		if quote[0] == '"' && s.raw[i] == '\\' {
			width, produced = escape(s.raw[i:end])
		}
		if produced > 0 && written+produced > offset {
			break
		}
		i, written = i+width, written+produced
	}
	return s.pos.After(s.raw[:i])
}

// escape returns how many bytes the escape at the start of s takes, and how many it stands for.
func escape(s string) (width, produced int) {
	digits := 0
	switch {
	case len(s) < 2:
		return 1, 1
	case s[1] == 'x':
		digits = 2
	case s[1] == 'u':
		digits = 4
	case s[1] == 'U':
		digits = 8
	case strings.ContainsRune(" \t\r\n", rune(s[1])): // a line that goes on: all white space up to the next text
		return len(s) - len(strings.TrimLeft(s[1:], " \t\r\n")), 0
	default:
		return 2, 1
	}
	var r rune
	for _, c := range s[2:min(len(s), 2+digits)] {
		r = r<<4 | rune(strings.IndexRune("0123456789abcdef", c|0x20))
	}
	return min(len(s), 2+digits), max(1, utf8.RuneLen(r))
}
