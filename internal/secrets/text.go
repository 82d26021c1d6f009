package secrets

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// A placeholder stands in rendered text where a secret's value goes in later:
//
//	U+FDD0 pgfleet__secret__ QUOTINGS - BASE64URL(CHECK REF) U+FDD1
//
// U+FDD0 and U+FDD1 are noncharacters, which Unicode (23.7) reserves for a
// program's own use: no file holds them. What stands between them is only
// letters, digits, '-' and '_', which no way of quoting changes. QUOTINGS has one
// letter for each way of quoting that was applied, in order. CHECK is the start of
// a SHA-256 of the rest and finds a placeholder that some function has changed.
// The same reference gives the same placeholder, so that planning stays pure.
const (
	tokenStart = '\uFDD0'
	tokenEnd   = '\uFDD1'
	tokenWord  = "pgfleet__secret__"
	checkLen   = 6
)

var errToken = errors.New("a placeholder of a secret has been changed: apply functions that change letters or cut text to the parts beside it")

// A Quoting is a way to write a string so that another program reads it as one
// value. See [Quote].
type Quoting byte

// The ways of quoting. Their values are the letters in a placeholder.
const (
	Raw      Quoting = 'r' // as it is
	Conf     Quoting = 'c' // a string of postgresql.conf: 'it''s'
	HBA      Quoting = 'h' // a token of pg_hba.conf: "…"
	Literal  Quoting = 'l' // an SQL string, standard_conforming_strings = on: 'it''s'
	Conninfo Quoting = 'i' // a value in a libpq connection string: 'it\'s'
	Passfile Quoting = 'p' // a field of .pgpass: \: and \\
	URL      Quoting = 'u' // a part of a URI, percent-encoded
	Shell    Quoting = 's' // a word for sh: 'it'\''s'
)

// A quotingRule is what a way of quoting puts around a text and how it escapes
// what is inside.
type quotingRule struct {
	name          string
	before, after string
	escape        func(string) string
	refuse        string // characters that cannot be written this way
}

// rule returns how q quotes; false if there is no such way.
func (q Quoting) rule() (quotingRule, bool) {
	replace := func(oldnew ...string) func(string) string {
		return strings.NewReplacer(oldnew...).Replace
	}
	switch q {
	case Raw:
		return quotingRule{name: "raw", escape: func(s string) string { return s }}, true
	case Conf: // guc-file.l: '' and backslash escapes; a string ends at its line's end
		return quotingRule{"conf", `'`, `'`, replace(`'`, `''`, `\`, `\\`, "\n", `\n`, "\r", `\r`), "\x00"}, true
	case HBA: // next_token in hba.c: "" is a quote; a token ends at its line's end
		return quotingRule{"hba", `"`, `"`, replace(`"`, `""`), "\x00\n\r"}, true
	case Literal:
		return quotingRule{"literal", `'`, `'`, replace(`'`, `''`), "\x00"}, true
	case Conninfo: // libpq, "Keyword/Value Connection Strings"
		return quotingRule{"conninfo", `'`, `'`, replace(`'`, `\'`, `\`, `\\`), "\x00"}, true
	case Passfile: // libpq, "The Password File"
		return quotingRule{"passfile", "", "", replace(`:`, `\:`, `\`, `\\`), "\x00\n\r"}, true
	case URL: // RFC 3986, 2.3: all but unreserved characters
		return quotingRule{"url", "", "", percentEncode, "\x00"}, true
	case Shell: // POSIX, 2.2.2
		return quotingRule{"shell", `'`, `'`, replace(`'`, `'\''`), "\x00"}, true
	}
	return quotingRule{}, false
}

// String returns the name of the way of quoting.
func (q Quoting) String() string {
	if r, ok := q.rule(); ok {
		return r.name
	}
	return fmt.Sprintf("Quoting(%q)", byte(q))
}

func percentEncode(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// Quote quotes text, in which placeholders may stand. The text beside them is
// escaped at once, and each placeholder keeps a note that its value is to be
// escaped the same way by [Resolve]. Quoting may be nested, such as a connection
// string within a string of postgresql.conf. The functions that quote in templates
// must go through here: a placeholder that something else has put between quotes
// would let a value end them.
func Quote(text string, q Quoting) (string, error) {
	rule, ok := q.rule()
	if !ok {
		return "", fmt.Errorf("there is no way of quoting %v", q)
	}
	parts, err := split(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(rule.before)
	for _, p := range parts {
		if p.isRef {
			if q != Raw {
				p.quotings += string(rune(q))
			}
			b.WriteString(p.token())
			continue
		}
		if i := strings.IndexAny(p.text, rule.refuse); i >= 0 {
			return "", fmt.Errorf("the character %q cannot be written in %s quoting", p.text[i], rule.name)
		}
		b.WriteString(rule.escape(p.text))
	}
	b.WriteString(rule.after)
	return b.String(), nil
}

// Placeholder returns what stands for the secret in rendered text. With a quoting
// it is the same as Quote(Placeholder(ref, Raw), q): quotes stand around it. It
// panics if q is not one of the ways of quoting.
func Placeholder(ref Ref, q Quoting) string {
	text, err := Quote(part{isRef: true, ref: ref}.token(), q)
	if err != nil {
		panic(fmt.Sprintf("secrets: Placeholder(%v, %v): %v", ref, q, err))
	}
	return text
}

// A part is a stretch of literal text, or a placeholder.
type part struct {
	text     string
	isRef    bool
	ref      Ref
	quotings string // letters, first applied first
}

func (p part) token() string {
	quotings := p.quotings
	if quotings == "" {
		quotings = string(rune(Raw))
	}
	ref := p.ref.String()
	body := base64.RawURLEncoding.EncodeToString([]byte(tokenCheck(quotings, ref) + ref))
	return string(tokenStart) + tokenWord + quotings + "-" + body + string(tokenEnd)
}

func tokenCheck(quotings, ref string) string {
	sum := sha256.Sum256([]byte(quotings + " " + ref))
	return string(sum[:checkLen])
}

// parseToken reads what stands between tokenStart and tokenEnd.
func parseToken(inner string) (part, error) {
	rest, found := strings.CutPrefix(inner, tokenWord)
	quotings, body, found2 := strings.Cut(rest, "-")
	if !found || !found2 {
		return part{}, errToken
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(raw) < checkLen {
		return part{}, errToken
	}
	check, written := string(raw[:checkLen]), string(raw[checkLen:])
	if check != tokenCheck(quotings, written) {
		return part{}, errToken
	}
	ref, err := ParseRef(written)
	if err != nil {
		return part{}, err
	}
	if quotings == string(rune(Raw)) {
		return part{isRef: true, ref: ref}, nil
	}
	for _, q := range []byte(quotings) {
		if _, ok := Quoting(q).rule(); !ok || Quoting(q) == Raw {
			return part{}, errToken
		}
	}
	return part{isRef: true, ref: ref, quotings: quotings}, nil
}

// split takes text apart at its placeholders. Anything that has been one is an
// error: it would go to a host as it is.
func split(text string) ([]part, error) {
	var parts []part
	for text != "" {
		start := strings.IndexRune(text, tokenStart)
		literal := text
		if start >= 0 {
			literal = text[:start]
		}
		if strings.ContainsRune(literal, tokenEnd) || containsFold(literal, tokenWord) {
			return nil, errToken
		}
		if literal != "" {
			parts = append(parts, part{text: literal})
		}
		if start < 0 {
			break
		}
		inner, rest, found := strings.Cut(text[start+len(string(tokenStart)):], string(tokenEnd))
		if !found {
			return nil, errToken
		}
		p, err := parseToken(inner)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
		text = rest
	}
	return parts, nil
}

// containsFold reports whether s contains the lower-case ASCII word, in any case.
func containsFold(s, word string) bool {
	for i := 0; i+len(word) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(word)], word) {
			return true
		}
	}
	return false
}

// HasPlaceholder reports whether text holds a placeholder, or what is left of one.
func HasPlaceholder(text string) bool {
	return strings.ContainsRune(text, tokenStart) || strings.ContainsRune(text, tokenEnd) || containsFold(text, tokenWord)
}

// Find returns the references in text in the order of their first appearance, each
// once. It is an error if a placeholder has been changed.
func Find(text string) ([]Ref, error) {
	parts, err := split(text)
	if err != nil {
		return nil, err
	}
	var refs []Ref
	seen := make(map[Ref]bool)
	for _, p := range parts {
		if p.isRef && !seen[p.ref] {
			seen[p.ref] = true
			refs = append(refs, p.ref)
		}
	}
	return refs, nil
}

// Pin gives each reference in text the version that version returns for it, so that
// a saved plan says which value it was made with. A reference for which it returns
// false stays as it is.
func Pin(text string, version func(Ref) (string, bool)) (string, error) {
	parts, err := split(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, p := range parts {
		if !p.isRef {
			b.WriteString(p.text)
			continue
		}
		if v, ok := version(p.ref); ok {
			p.ref.Version = v
		}
		b.WriteString(p.token())
	}
	return b.String(), nil
}

// Expand returns text with the values put in, quoted as their placeholders say. The
// whole is a secret. It is an error if lookup does not know a reference, if a value
// cannot be written in the quoting asked for, or if a placeholder has been changed.
// Errors name the reference, never the value.
func Expand(text string, lookup func(Ref) (Secret, bool)) (Secret, error) {
	parts, err := split(text)
	if err != nil {
		return Secret{}, err
	}
	var b []byte
	for _, p := range parts {
		if !p.isRef {
			b = append(b, p.text...)
			continue
		}
		value, err := p.value(lookup)
		if err != nil {
			return Secret{}, err
		}
		b = append(b, value...)
	}
	return New(b), nil
}

// value returns what goes in the place of a placeholder.
func (p part) value(lookup func(Ref) (Secret, bool)) (string, error) {
	secret, ok := lookup(p.ref)
	if !ok {
		return "", fmt.Errorf("the value of secret %v is not known", p.ref)
	}
	value := string(secret.bytes())
	for _, q := range []byte(p.quotings) {
		rule, _ := Quoting(q).rule()
		if strings.ContainsAny(value, rule.refuse) {
			return "", fmt.Errorf("the value of secret %v holds a character (%s) that cannot be written in %s quoting", p.ref, describe(rule.refuse), rule.name)
		}
		// The quotes of the inner ways of quoting stand beside the placeholder and
		// were escaped there; only the value itself is left to escape.
		value = rule.escape(value)
	}
	return value, nil
}

// describe names control characters.
func describe(chars string) string {
	var names []string
	for _, c := range chars {
		switch c {
		case 0:
			names = append(names, "NUL")
		case '\n':
			names = append(names, "newline")
		case '\r':
			names = append(names, "carriage return")
		}
	}
	return strings.Join(names, ", ")
}

// MaskPlaceholders returns text with [Mask] in the place of each placeholder, also
// of one that has been changed.
func MaskPlaceholders(text string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, string(tokenStart))
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString(Mask)
		if _, rest, closed := strings.Cut(after, string(tokenEnd)); closed {
			text = rest
		} else {
			return b.String()
		}
	}
}
