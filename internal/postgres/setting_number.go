package postgres

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A unit is a spelling of a unit and how many base units it has.
type unit struct {
	name   string
	factor float64
}

const (
	memoryHint = `Valid units for this parameter are "B", "kB", "MB", "GB", and "TB".`
	timeHint   = `Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".`
)

// units returns the units that a parameter takes, from the largest to the smallest, and the server's hint about them.
func (s Setting) units() ([]unit, string) {
	if ms := timeUnit(s.Unit); ms > 0 {
		return []unit{
			{"d", 86400000 / ms}, {"h", 3600000 / ms}, {"min", 60000 / ms}, {"s", 1000 / ms}, {"ms", 1 / ms}, {"us", 1 / (1000 * ms)},
		}, timeHint
	}
	if bytes := memoryUnit(s.Unit); bytes > 0 {
		return []unit{
			{"TB", 1 << 40 / bytes}, {"GB", 1 << 30 / bytes}, {"MB", 1 << 20 / bytes}, {"kB", 1 << 10 / bytes}, {"B", 1 / bytes},
		}, memoryHint
	}
	return nil, ""
}

// timeUnit returns a base unit of time in milliseconds, or 0.
func timeUnit(name string) float64 {
	switch name {
	case "ms":
		return 1
	case "s":
		return 1000
	case "min":
		return 60000
	}
	return 0
}

// memoryUnit returns a base unit of memory in bytes, or 0. A block is shown as its size: "8kB".
func memoryUnit(name string) float64 {
	number := name[:span(name, isDigit)]
	count := 1.0
	if number != "" {
		count, _ = strconv.ParseFloat(number, 64)
	}
	switch name[len(number):] {
	case "B":
		return count
	case "kB":
		return count * (1 << 10)
	case "MB":
		return count * (1 << 20)
	case "GB":
		return count * (1 << 30)
	}
	return 0
}

// convert returns a number with a unit in base units. A fraction such as 30.1GB is rounded to a multiple of the next smaller
// unit first, as the server does.
func (s Setting) convert(number float64, name string) (float64, bool) {
	units, _ := s.units()
	for i, u := range units {
		if u.name != name {
			continue
		}
		value := number * u.factor
		if i+1 < len(units) {
			smaller := units[i+1].factor
			value = math.RoundToEven(value/smaller) * smaller
		}
		return value, true
	}
	return 0, false
}

// withUnit applies what follows a number in a value.
func (s Setting) withUnit(value, rest string, number float64) (float64, error) {
	name := strings.Trim(rest, cSpace)
	if name == "" {
		return number, nil
	}
	_, hint := s.units()
	if hint == "" {
		return 0, s.invalid(value, "")
	}
	converted, ok := s.convert(number, name)
	if !ok {
		return 0, s.invalid(value, hint)
	}
	return converted, nil
}

func (s Setting) normalizeInteger(value string) (string, error) {
	number, rest, ok := scanInteger(value)
	if !ok {
		return "", s.invalid(value, "")
	}
	number, err := s.withUnit(value, rest, number)
	if err != nil {
		return "", err
	}
	number = math.RoundToEven(number)
	if number > math.MaxInt32 || number < math.MinInt32 {
		return "", s.invalid(value, "Value exceeds integer range.")
	}
	if err := s.inRange(value, number); err != nil {
		return "", err
	}
	if hint := s.hook(int(number)); hint != "" {
		return "", s.invalid(value, hint)
	}
	if s.octal() {
		return fmt.Sprintf("%04o", int(number)), nil
	}
	return strconv.Itoa(int(number)), nil
}

func (s Setting) normalizeReal(value string) (string, error) {
	number, rest, ok := scanReal(value)
	if !ok {
		return "", s.invalid(value, "")
	}
	number, err := s.withUnit(value, rest, number)
	if err != nil {
		return "", err
	}
	if err := s.inRange(value, number); err != nil {
		return "", err
	}
	return strconv.FormatFloat(number, 'g', 6, 64), nil
}

// hook returns what the server says to a number that is in the range and still refused by the parameter's own check, or "".
func (s Setting) hook(number int) string {
	switch s.Name {
	case "commit_timestamp_buffers", "multixact_member_buffers", "multixact_offset_buffers", "notify_buffers",
		"serializable_buffers", "subtransaction_buffers", "transaction_buffers":
		if number%16 != 0 {
			return fmt.Sprintf("%q must be a multiple of 16.", s.Name)
		}
	case "vacuum_buffer_usage_limit":
		if number != 0 && number < 128 {
			return fmt.Sprintf("%q must be 0 or between 128 kB and %s kB.", s.Name, s.MaxVal)
		}
	case "io_max_concurrency":
		if number == 0 {
			return "Only -1 or values greater than 0 are valid."
		}
	}
	return ""
}

// octal reports whether the server shows the parameter as a file mode.
func (s Setting) octal() bool {
	return s.Name == "log_file_mode" || s.Name == "unix_socket_permissions" || s.Name == "data_directory_mode"
}

func (s Setting) inRange(value string, number float64) error {
	low, errLow := strconv.ParseFloat(s.MinVal, 64)
	high, errHigh := strconv.ParseFloat(s.MaxVal, 64)
	if errLow == nil && number < low || errHigh == nil && number > high {
		unit := s.Unit
		if unit != "" {
			unit = " " + unit
		}
		shown := strconv.FormatFloat(number, 'g', -1, 64)
		if s.VarType == "integer" {
			shown = strconv.FormatFloat(number, 'f', 0, 64)
		}
		return s.refuse(value, fmt.Sprintf("%s%s is outside the valid range for parameter %q (%s .. %s)",
			shown, unit, s.Name, s.MinVal, s.MaxVal), "")
	}
	return nil
}

// cSpace is what isspace takes in the C locale.
const cSpace = " \t\n\v\f\r"

// scanInteger reads a number as parse_int does: strtol with base 0 (0x is hexadecimal, a first 0 octal), and strtod where that
// stops at a point or an exponent, or overflows. It returns what follows.
func scanInteger(value string) (number float64, rest string, ok bool) {
	s := strings.TrimLeft(value, cSpace)
	sign := signLen(s)
	base, digits := 10, s[sign:]
	switch {
	case len(digits) > 2 && (digits[:2] == "0x" || digits[:2] == "0X") && isHex(digits[2]):
		base, digits = 16, digits[2:]
	case strings.HasPrefix(digits, "0"):
		base = 8
	}
	n := span(digits, func(c byte) bool {
		switch base {
		case 16:
			return isHex(c)
		case 8:
			return c >= '0' && c <= '7'
		}
		return isDigit(c)
	})
	rest = digits[n:]
	if n == 0 {
		rest = value // strtol consumed nothing, white space included
	}
	whole, err := strconv.ParseInt(s[:sign]+digits[:n], base, 64)
	if rest != "" && strings.IndexByte(".eE", rest[0]) >= 0 || n > 0 && err != nil {
		return scanReal(value)
	}
	return float64(whole), rest, n > 0
}

// scanReal reads a number as strtod does, hexadecimal ones included, and returns what follows.
func scanReal(value string) (number float64, rest string, ok bool) {
	s := strings.TrimLeft(value, cSpace)
	n := realLen(s)
	if n == 0 {
		return infinity(s)
	}
	form := s[:n]
	if hex := s[signLen(s):n]; len(hex) > 1 && (hex[1] == 'x' || hex[1] == 'X') && !strings.ContainsAny(hex, "pP") {
		form += "p0"
	}
	number, err := strconv.ParseFloat(form, 64)
	if err != nil || number == 0 && strings.ContainsAny(mantissa(form), "123456789") {
		return 0, "", false // out of the range of a double, either way
	}
	return number, s[n:], true
}

// mantissa returns the digits of a number before its exponent.
func mantissa(form string) string {
	if strings.ContainsAny(form, "xX") {
		return ""
	}
	if i := strings.IndexAny(form, "eE"); i >= 0 {
		return form[:i]
	}
	return form
}

func infinity(s string) (number float64, rest string, ok bool) {
	sign := signLen(s)
	lower := strings.ToLower(s[sign:])
	for _, word := range []string{"infinity", "inf"} {
		if strings.HasPrefix(lower, word) {
			number = math.Inf(1)
			if strings.HasPrefix(s, "-") {
				number = math.Inf(-1)
			}
			return number, s[sign+len(word):], true
		}
	}
	return 0, "", false
}

// realLen returns the length of the longest number at the start of s.
func realLen(s string) int {
	sign := signLen(s)
	body, class, exponent := s[sign:], isDigit, "eE"
	prefix := 0
	if len(body) > 2 && (body[:2] == "0x" || body[:2] == "0X") &&
		(isHex(body[2]) || body[2] == '.' && len(body) > 3 && isHex(body[3])) {
		prefix, class, exponent = 2, isHex, "pP"
	}
	end := prefix + span(body[prefix:], class)
	digits := end - prefix
	if end < len(body) && body[end] == '.' {
		fraction := span(body[end+1:], class)
		if digits += fraction; digits > 0 {
			end += 1 + fraction
		}
	}
	if digits == 0 {
		return 0
	}
	if end < len(body) && strings.IndexByte(exponent, body[end]) >= 0 {
		esign := signLen(body[end+1:])
		if n := span(body[end+1+esign:], isDigit); n > 0 {
			end += 1 + esign + n
		}
	}
	return sign + end
}
