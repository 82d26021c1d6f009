package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// minRedact is the length of the shortest value that is searched for. Shorter ones
// would be found everywhere, and are no secrets.
const minRedact = 4

// A Redactor masks secrets in what is about to be printed: the values that it was
// told of, plain and encoded, and whatever has the form of a secret. It is the last
// line of defence, for what comes back from hosts; what pgfleet writes itself holds
// placeholders and masks to begin with. It may be used by several goroutines at once.
//
// Text must come whole or at least in whole lines: a value that is cut in two is not
// found.
type Redactor struct {
	mu sync.RWMutex
	// known returns what to search for. It is a function for the same reason as in
	// Secret: the keys of the map are secrets.
	known func() map[string]bool
}

// NewRedactor returns a Redactor that knows no values yet, only forms.
func NewRedactor() *Redactor {
	known := make(map[string]bool)
	return &Redactor{known: func() map[string]bool { return known }}
}

// Add lets the Redactor know values. Of a SCRAM verifier it learns the keys too, of
// a value with several lines each line.
func (r *Redactor) Add(values ...Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range values {
		value := string(v.bytes())
		r.add(value, 0)
		r.add(strings.TrimSpace(value), 0)
		if strings.ContainsAny(value, "\r\n") {
			for line := range strings.Lines(value) {
				// Short lines such as "{" or "-----END …" are found everywhere.
				if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") {
					r.add(line, 2*minRedact)
				}
			}
		}
		if parts := scramVerifier.FindStringSubmatch(value); parts != nil {
			for _, p := range parts[1:] {
				r.add(p, 2*minRedact)
			}
		}
	}
}

// add adds the forms of one value that has at least so many bytes.
func (r *Redactor) add(value string, least int) {
	if len(value) < max(least, minRedact) {
		return
	}
	for _, form := range forms(value) {
		if len(form) >= minRedact {
			r.known()[form] = true
		}
	}
}

// forms returns the ways in which a value may come back.
func forms(value string) []string {
	b := []byte(value)
	all := []string{
		value,
		hex.EncodeToString(b),
		strings.ToUpper(hex.EncodeToString(b)),
		url.QueryEscape(value),
		url.PathEscape(value),
		percentEncode(value),
		strings.Trim(strconv.Quote(value), `"`),
		strings.Trim(strconv.QuoteToASCII(value), `"`),
		strings.Trim(fmt.Sprint(b), "[]"), // a []byte that was printed with %v
	}
	for _, escapeHTML := range []bool{true, false} {
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(escapeHTML)
		if e.Encode(value) == nil {
			all = append(all, strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(text.String(), "\n"), `"`), `"`))
		}
	}
	for _, q := range []Quoting{Conf, HBA, Literal, Conninfo, Passfile, Shell} {
		rule, _ := q.rule()
		all = append(all, rule.escape(value))
	}
	return append(all, base64Forms(b)...)
}

// base64Forms returns what a value looks like within the base64 of a longer text,
// such as that of "user:password" in an HTTP header: it begins at one of three
// places within a group of three bytes, and the characters at its ends that depend
// on what is beside it are left out.
func base64Forms(b []byte) []string {
	all := []string{base64.StdEncoding.EncodeToString(b), base64.URLEncoding.EncodeToString(b)}
	for before := range 3 {
		padded := append(make([]byte, before), b...)
		first, end := (8*before+5)/6, 8*len(padded)/6
		if end-first < 2*minRedact {
			continue // too little is left to be this value's own
		}
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			all = append(all, e.EncodeToString(padded)[first:end])
		}
	}
	return all
}

// Forms of secrets that are masked whatever they hold. Group 1, if there is one, is
// what stays in front; group 2 what stays behind.
var patterns = []*regexp.Regexp{
	// Private keys as PEM, up to the end of the text if the end of the key is missing.
	regexp.MustCompile(`(?s)(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----).*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`),
	regexp.MustCompile(`(?i)(AGE-SECRET-KEY-(?:PQ-)?)1[0-9A-Z]+()`),
	// Verifiers. What follows SCRAM-SHA-256$ is masked even if it is cut short.
	regexp.MustCompile(`(SCRAM-SHA-256\$)[0-9]+:[A-Za-z0-9+/=$:]*()`),
	regexp.MustCompile(`(\bmd5)[0-9a-f]{32}\b()`),
	// SQL: PASSWORD 'x', E'x', U&'x', $$x$$; the string may lack its end.
	regexp.MustCompile(`(?i)(\bPASSWORD\s+)(?:E'(?:[^'\\]|\\.|'')*(?:'|\z)|(?:U&)?'(?:[^']|'')*(?:'|\z)|\$[a-z_]*\$(?s:.*?)(?:\$[a-z_]*\$|\z))()`),
	// password=x in all its spellings: connection strings, conf files, environment
	// variables, options of pg_hba.conf, JSON.
	regexp.MustCompile(`(?i)((?:passwo?r?d|passphrase|radiussecrets)(?:["']\s*:\s*|["']?\s*(?:=>|:?=)\s*))(?:` + Mask + `|'(?:[^'\\\n]|\\.|'')*(?:'|$|\n)|"(?:[^"\\\n]|\\.|"")*(?:"|$|\n)|[^\s'"&;,(){}<>][^\s'"&;,]*)()`),
	// YAML's password: x, at the start of a line: within one it is a sentence such as
	// "give the password: …", or sudoers' NOPASSWD: ALL.
	regexp.MustCompile(`(?im)(^[ \t]*(?:-[ \t]+)?[\w.-]*(?:passwo?r?d|passphrase)[ \t]*:[ \t]+)[^\s][^\n]*()`),
	// A URI with a password.
	regexp.MustCompile(`(?i)(\b[a-z][a-z0-9+.-]*://[^\s:/@?#]*:)[^\s@/?#]+(@)`),
}

// scramVerifier takes a verifier apart: salt, StoredKey, ServerKey.
var scramVerifier = regexp.MustCompile(`^SCRAM-SHA-256\$[0-9]+:([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$`)

// A span is a stretch of a text that is to be masked.
type span struct{ start, end int }

// String returns s with all that is secret in it masked. What is masked already
// stays as it is.
func (r *Redactor) String(s string) string {
	spans := r.values(s)
	for _, p := range patterns {
		for _, m := range p.FindAllStringSubmatchIndex(s, -1) {
			spans = append(spans, span{m[3], m[4]})
		}
	}
	if len(spans) == 0 {
		return s
	}
	slices.SortFunc(spans, func(a, b span) int { return a.start - b.start })
	var b strings.Builder
	end := 0 // of what is done
	for i := 0; i < len(spans); {
		masked := spans[i]
		// Secrets that overlap or touch become one mask, so that no rest of either
		// is left.
		for i++; i < len(spans) && spans[i].start <= masked.end; i++ {
			masked.end = max(masked.end, spans[i].end)
		}
		b.WriteString(s[end:masked.start])
		b.WriteString(Mask)
		end = masked.end
	}
	b.WriteString(s[end:])
	return b.String()
}

// values finds the known values, also where they overlap.
func (r *Redactor) values(s string) []span {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var spans []span
	for value := range r.known() {
		for from := 0; ; {
			i := strings.Index(s[from:], value)
			if i < 0 {
				break
			}
			start := from + i
			spans = append(spans, span{start, start + len(value)})
			from = start + 1
		}
	}
	return spans
}

// Bytes returns a copy of b with all that is secret in it masked.
func (r *Redactor) Bytes(b []byte) []byte {
	return []byte(r.String(string(b)))
}
