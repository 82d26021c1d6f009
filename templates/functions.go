package templates

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// functions are what templates can call besides text/template's own. They are described in the package's comment.
var functions = template.FuncMap{
	emitName: emit,

	"conf":     quoting(secrets.Conf, postgres.QuoteConf),
	"hba":      quoting(secrets.HBA, postgres.QuoteHBA),
	"literal":  quoting(secrets.Literal, postgres.QuoteLiteral),
	"shell":    quoting(secrets.Shell, nil),
	"conninfo": quoting(secrets.Conninfo, nil),
	"passfile": quoting(secrets.Passfile, nil),
	"ident":    ident,
	"secret":   secret,

	"join":    join,
	"split":   func(sep, s string) []any { return anys(strings.Split(s, sep)) },
	"lower":   strings.ToLower,
	"upper":   strings.ToUpper,
	"trim":    strings.TrimSpace,
	"replace": func(old, replacement, s string) string { return strings.ReplaceAll(s, old, replacement) },
	"indent":  indent,
	"quote":   func(s string) (string, error) { return toJSON(s) },
	"toJSON":  toJSON,

	"default": func(fallback, value any) any {
		if truth, ok := template.IsTrue(value); ok && truth {
			return value
		}
		return fallback
	},
	"get":   get,
	"has":   has,
	"in":    func(element, collection any) (bool, error) { return has(collection, element) },
	"first": func(list any) (any, error) { return element(list, func(n int) int { return 0 }) },
	"last":  func(list any) (any, error) { return element(list, func(n int) int { return n - 1 }) },
	"sort":  sorted,
	"uniq":  uniq,

	"seq":  seq,
	"add":  add,
	"atoi": atoi,

	"cidrHost":     cidrHost,
	"cidrContains": cidrContains,
}

// scalar returns the text of a string, number, boolean or time.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case time.Time:
		return v.Format(time.RFC3339Nano), nil
	case bool, int, int64:
		return fmt.Sprint(v), nil
	}
	return "", fmt.Errorf("want a string or a number, found %s", describe(v))
}

// describe says what a value is, and never shows it.
func describe(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case int, int64, float64:
		return "a number"
	case time.Time:
		return "a date or time"
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a table"
	}
	return fmt.Sprintf("a Go %T", v)
}

// quoting returns a function that quotes a value. Secrets need their own rules, which keep a note at the placeholder of
// how to escape the value; other values are quoted by plain, where there is one, which is easier on the eye.
func quoting(q secrets.Quoting, plain func(string) string) func(any) (string, error) {
	return func(v any) (string, error) {
		s, err := scalar(v)
		if err != nil {
			return "", err
		}
		if plain != nil && !secrets.HasPlaceholder(s) {
			if strings.ContainsRune(s, 0) {
				return "", errors.New("a zero byte cannot be quoted")
			}
			if q == secrets.HBA && strings.ContainsAny(s, "\r\n") {
				return "", errors.New("a line break cannot be written in pg_hba.conf")
			}
			return plain(s), nil
		}
		return secrets.Quote(s, q)
	}
}

func ident(v any) (string, error) {
	s, err := scalar(v)
	if err != nil {
		return "", err
	}
	switch {
	case secrets.HasPlaceholder(s):
		return "", errors.New("a secret cannot be an identifier")
	case s == "":
		return "", errors.New("an identifier cannot be empty")
	case strings.ContainsRune(s, 0):
		return "", errors.New("a zero byte cannot be quoted")
	case len(s) > 63: // NAMEDATALEN - 1; the server would cut it off
		return "", fmt.Errorf("the identifier %q is %d bytes long; PostgreSQL's limit is 63", s, len(s))
	}
	return postgres.QuoteIdent(s), nil
}

func secret(ref string) (string, error) {
	r, err := secrets.ParseRef(ref)
	if err != nil {
		return "", err
	}
	return secrets.Placeholder(r, secrets.Raw), nil
}

// list returns the elements of any list that a template can hold.
func list(v any) ([]any, error) {
	if l, ok := v.([]any); ok {
		return l, nil
	}
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice {
		return nil, fmt.Errorf("want a list, found %s", describe(v))
	}
	l := make([]any, r.Len())
	for i := range l {
		l[i] = r.Index(i).Interface()
	}
	return l, nil
}

func anys(list []string) []any {
	l := make([]any, len(list))
	for i, s := range list {
		l[i] = s
	}
	return l
}

func join(sep string, v any) (string, error) {
	l, err := list(v)
	if err != nil {
		return "", err
	}
	parts := make([]string, len(l))
	for i, e := range l {
		if parts[i], err = scalar(e); err != nil {
			return "", err
		}
	}
	return strings.Join(parts, sep), nil
}

func indent(by any, s string) (string, error) {
	n, err := integer(by)
	if err != nil {
		return "", err
	}
	if n < 0 || n > 1000 {
		return "", fmt.Errorf("cannot indent by %d", n)
	}
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = strings.Repeat(" ", int(n)) + line
		}
	}
	return strings.Join(lines, "\n"), nil
}

// toJSON refuses secrets, whose values could not be escaped later.
func toJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", fmt.Errorf("cannot be written as JSON: %w", err)
	}
	s := strings.TrimSuffix(b.String(), "\n")
	if secrets.HasPlaceholder(s) {
		return "", errors.New("a secret cannot be written as JSON")
	}
	return s, nil
}

func get(table any, key string, fallback any) (any, error) {
	m, ok := table.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("want a table, found %s", describe(table))
	}
	if v, ok := m[key]; ok {
		return v, nil
	}
	return fallback, nil
}

func has(collection, element any) (bool, error) {
	if m, ok := collection.(map[string]any); ok {
		key, ok := element.(string)
		if !ok {
			return false, fmt.Errorf("the key of a table is a string, not %s", describe(element))
		}
		_, found := m[key]
		return found, nil
	}
	l, err := list(collection)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(l, func(e any) bool { return equal(e, element) }), nil
}

// equal compares as TOML would: an integer's Go type does not matter.
func equal(a, b any) bool { return reflect.DeepEqual(plain(a), plain(b)) }

func plain(v any) any {
	if i, ok := v.(int); ok {
		return int64(i)
	}
	return v
}

func element(v any, index func(n int) int) (any, error) {
	l, err := list(v)
	if err != nil {
		return nil, err
	}
	if len(l) == 0 {
		return nil, errors.New("the list is empty")
	}
	return l[index(len(l))], nil
}

func sorted(v any) ([]any, error) {
	l, err := list(v)
	if err != nil {
		return nil, err
	}
	l = slices.Clone(l)
	var mixed error
	slices.SortStableFunc(l, func(a, b any) int {
		if x, ok := a.(string); ok {
			if y, ok := b.(string); ok {
				return strings.Compare(x, y)
			}
		}
		x, okX := number(a)
		y, okY := number(b)
		if !okX || !okY {
			mixed = errors.New("only a list of strings or a list of numbers can be sorted")
			return 0
		}
		return x.Cmp(y)
	})
	return l, mixed
}

func number(v any) (*big.Float, bool) {
	switch v := plain(v).(type) {
	case int64:
		return new(big.Float).SetInt64(v), true
	case float64:
		if v == v { // not NaN
			return big.NewFloat(v), true
		}
	}
	return nil, false
}

func uniq(v any) ([]any, error) {
	l, err := list(v)
	if err != nil {
		return nil, err
	}
	var unique []any
	for _, e := range l {
		if !slices.ContainsFunc(unique, func(u any) bool { return equal(u, e) }) {
			unique = append(unique, e)
		}
	}
	return unique, nil
}

func seq(first, last any) ([]any, error) {
	const most = 10000
	from, err := integer(first)
	if err != nil {
		return nil, err
	}
	to, err := integer(last)
	if err != nil {
		return nil, err
	}
	if from > to {
		return []any{}, nil
	}
	if n := uint64(to) - uint64(from); n >= most {
		return nil, fmt.Errorf("more than %d numbers from %d to %d", most, from, to)
	}
	l := make([]any, 0, to-from+1)
	for i := from; ; i++ {
		if l = append(l, i); i == to {
			return l, nil
		}
	}
}

func add(numbers ...any) (int64, error) {
	sum := new(big.Int)
	for _, v := range numbers {
		n, err := integer(v)
		if err != nil {
			return 0, err
		}
		sum.Add(sum, big.NewInt(n))
	}
	if !sum.IsInt64() {
		return 0, errors.New("the sum is too large a number")
	}
	return sum.Int64(), nil
}

// integer takes Go's and TOML's integers alike.
func integer(v any) (int64, error) {
	if n, ok := plain(v).(int64); ok {
		return n, nil
	}
	return 0, fmt.Errorf("want a whole number, found %s", describe(v))
}

func atoi(s string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0, errors.New("not a whole number")
	}
	return n, nil
}

func cidrHost(network string, number any) (string, error) {
	n, err := integer(number)
	if err != nil {
		return "", err
	}
	p, err := netip.ParsePrefix(network)
	if err != nil {
		return "", fmt.Errorf("%q is no network such as 10.0.0.0/24", network)
	}
	base := p.Masked().Addr().AsSlice()
	sum := new(big.Int).Add(new(big.Int).SetBytes(base), big.NewInt(n))
	if sum.Sign() >= 0 && sum.BitLen() <= len(base)*8 {
		if a, ok := netip.AddrFromSlice(sum.FillBytes(base)); ok && p.Contains(a) {
			return a.String(), nil
		}
	}
	return "", fmt.Errorf("%s has no address number %d", network, n)
}

func cidrContains(network, address string) (bool, error) {
	p, err := netip.ParsePrefix(network)
	if err != nil {
		return false, fmt.Errorf("%q is no network such as 10.0.0.0/24", network)
	}
	if inner, err := netip.ParsePrefix(address); err == nil {
		return inner.Bits() >= p.Bits() && p.Contains(inner.Addr()), nil
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return false, fmt.Errorf("%q is neither an address nor a network", address)
	}
	return p.Contains(a), nil
}
