package postgres

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// hbaTypes are the words of the first column.
var hbaTypes = []string{"local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"}

// hbaIncludes are the directives that read other files, from 16 on.
var hbaIncludes = []string{"include", "include_if_exists", "include_dir"}

// ParseHBA reads the text of pg_hba.conf as a server of that version does. It returns all lines that could be read, comments
// kept, and one [ParseError] for each that could not; the server refuses a file with one such line as a whole.
// What depends on the server's build or other settings is not judged: whether TLS is on, an @file exists, a validator is allowed.
func ParseHBA(text string, version Version) ([]HBALine, error) {
	var lines []HBALine
	var errs []*ParseError
	for _, raw := range tokenizeAuth(text, version) {
		line, err := parseHBALine(raw, version)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		lines = append(lines, line)
	}
	return lines, joinParseErrors(errs)
}

func parseHBALine(raw authLine, version Version) (HBALine, *ParseError) {
	line := HBALine{Number: raw.number, Comment: raw.comment}
	if raw.err != nil || len(raw.fields) == 0 {
		return line, raw.err
	}
	if include, err := parseHBAInclude(raw, version); include != nil || err != nil {
		line.Include = include
		return line, err
	}
	p := hbaParser{line: raw, version: version}
	rule, err := p.rule()
	if err != nil {
		return HBALine{}, err
	}
	rule.Line, rule.Comment = raw.number, raw.comment
	line.Rule, line.Comment = &rule, raw.comment
	return line, nil
}

// parseHBAInclude returns nil for a line that is no include. The server takes one only when it has exactly two fields.
func parseHBAInclude(raw authLine, version Version) (*HBAInclude, *ParseError) {
	word := raw.fields[0][0]
	if !slices.Contains(hbaIncludes, word.text) {
		return nil, nil
	}
	if version.Major() < 16 {
		return nil, word.fail("it exists from PostgreSQL 16 on; put the rules into this file", "invalid connection type %q", word.text)
	}
	if len(raw.fields) != 2 || len(raw.fields[0]) != 1 || len(raw.fields[1]) != 1 {
		return nil, word.fail(fmt.Sprintf("a line is: %s FILE", word.text), "%s needs exactly one path", word.text)
	}
	return &HBAInclude{Directive: word.text, Path: raw.fields[1][0].text}, nil
}

// An hbaParser reads the fields of one line from left to right.
type hbaParser struct {
	line    authLine
	version Version
	at      int
}

// next returns the next field, or an error that says what should be there.
func (p *hbaParser) next(short, hint string) ([]authToken, *ParseError) {
	if p.at == len(p.line.fields) {
		return nil, p.line.short(hint, short)
	}
	p.at++
	return p.line.fields[p.at-1], nil
}

func (p *hbaParser) rule() (HBARule, *ParseError) {
	var r HBARule
	field, err := p.next("", "")
	if err == nil {
		err = p.connectionType(&r, field)
	}
	if err != nil {
		return r, err
	}
	if field, err = p.next("end-of-line before database specification", hbaForm(r.Type)); err != nil {
		return r, err
	}
	if r.Databases, err = p.names(field); err != nil {
		return r, err
	}
	if field, err = p.next("end-of-line before role specification", hbaForm(r.Type)); err != nil {
		return r, err
	}
	if r.Users, err = p.names(field); err != nil {
		return r, err
	}
	if r.Type != "local" {
		if err = p.address(&r); err != nil {
			return r, err
		}
	}
	method, err := p.method(&r)
	if err != nil {
		return r, err
	}
	if err = p.options(&r); err != nil {
		return r, err
	}
	return r, checkHBAOptions(r, method)
}

// hbaForm reminds of the columns.
func hbaForm(connection string) string {
	if connection == "local" {
		return "a line is: local DATABASE USER METHOD"
	}
	return "a line is: " + connection + " DATABASE USER ADDRESS METHOD"
}

func (p *hbaParser) connectionType(r *HBARule, field []authToken) *ParseError {
	word, err := single(field, "connection type", "Specify exactly one connection type per line.")
	if err != nil {
		return err
	}
	if !slices.Contains(hbaTypes, word.text) {
		known := hbaTypes
		if p.version.Major() >= 16 {
			known = slices.Concat(hbaTypes, hbaIncludes)
		}
		hint := didYouMean(nearest(word.text, known))
		if hint == "" {
			hint = "one of " + strings.Join(hbaTypes, ", ")
		}
		return word.fail(hint, "invalid connection type %q", word.text)
	}
	r.Type = word.text
	return nil
}

// names reads a list of databases or users. From 16 on one that starts with a slash is a regular expression.
func (p *hbaParser) names(field []authToken) ([]HBAToken, *ParseError) {
	tokens := make([]HBAToken, len(field))
	for i, t := range field {
		tokens[i] = HBAToken{Text: t.text, Quoted: t.quoted}
		if form, ok := strings.CutPrefix(t.text, "/"); ok && p.version.Major() >= 16 {
			if why := badRegexp(form); why != "" {
				return nil, t.fail("", "invalid regular expression %q: %s", form, why)
			}
		}
	}
	return tokens, nil
}

func (p *hbaParser) address(r *HBARule) *ParseError {
	field, err := p.next("end-of-line before IP address specification", hbaForm(r.Type))
	if err != nil {
		return err
	}
	t, err := single(field, "host address", "Specify one address range per line.")
	if err != nil {
		return err
	}
	if t.is("all") || t.is("samehost") || t.is("samenet") {
		r.Address = HBAAddress{Keyword: t.text}
		return nil
	}
	host, bits, cidr := strings.Cut(t.text, "/")
	addr, numeric := parseAddress(host)
	switch {
	case t.text == "":
		return t.fail("all is any address", "the address is empty")
	case !numeric && cidr:
		return t.fail("a range is: 10.0.0.0/24; a host name stands alone", "specifying both host name and CIDR mask is invalid: %q", t.text)
	case !numeric:
		r.Address = HBAAddress{Host: t.text}
		return p.notMethod(t)
	case cidr:
		ones, ok := parseMaskBits(bits, addr.BitLen())
		if !ok {
			return t.fail(fmt.Sprintf("0 to %d", addr.BitLen()), "invalid CIDR mask in address %q", t.text)
		}
		r.Address = HBAAddress{Addr: addr, Mask: maskOf(ones, addr.BitLen())}
		return nil
	}
	return p.netmask(r, addr)
}

// notMethod refuses a host that is really a method: the address is missing, and the server would take the method for a host
// name that never matches, if the line has an option more.
func (p *hbaParser) notMethod(t authToken) *ParseError {
	if p.at == len(p.line.fields) && hbaMethodKnown(t.text) {
		return t.fail("the address is missing before the method; all is any address", "end-of-line before authentication method")
	}
	return nil
}

func (p *hbaParser) netmask(r *HBARule, addr netip.Addr) *ParseError {
	hint := "Specify an address range in CIDR notation, or provide a separate netmask."
	if p.at < len(p.line.fields) && hbaMethodKnown(p.line.fields[p.at][0].text) {
		hint = fmt.Sprintf("write %s/%d for this one address", addr, addr.BitLen())
	}
	field, err := p.next("end-of-line before netmask specification", hint)
	if err != nil {
		return err
	}
	t, err := single(field, "netmask", "")
	if err != nil {
		return err
	}
	mask, ok := parseAddress(t.text)
	if !ok {
		return t.fail(hint, "invalid IP mask %q", t.text)
	}
	if mask.BitLen() != addr.BitLen() {
		return t.fail("", "IP address and mask do not match")
	}
	r.Address = HBAAddress{Addr: addr, Mask: mask}
	return nil
}

// parseMaskBits reads what follows the slash, as strtol does.
func parseMaskBits(s string, most int) (int, bool) {
	if s == "" {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimLeft(s, cSpace), 10, 64)
	return int(n), err == nil && n >= 0 && n <= int64(most)
}

// parseAddress reads a numeric address as getaddrinfo does: IPv6, and IPv4 in one to four parts, each decimal, octal or
// hexadecimal.
func parseAddress(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.WithZone(""), true
	}
	parts := strings.Split(s, ".")
	if s == "" || len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, part := range parts {
		if part == "" || strings.ContainsAny(part, "_+-") {
			return netip.Addr{}, false
		}
		if len(part) > 1 && part[0] == '0' && (part[1] == 'b' || part[1] == 'B' || part[1] == 'o' || part[1] == 'O') {
			return netip.Addr{}, false // Go's own prefixes
		}
		n, err := strconv.ParseUint(part, 0, 32)
		width := 8
		if i == len(parts)-1 {
			width = 8 * (5 - len(parts))
		}
		if err != nil || n >= 1<<width {
			return netip.Addr{}, false
		}
		value = value<<width | n
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

func (p *hbaParser) method(r *HBARule) (authToken, *ParseError) {
	field, err := p.next("end-of-line before authentication method", hbaForm(r.Type))
	if err != nil {
		return authToken{}, err
	}
	t, err := single(field, "authentication type", "Specify exactly one authentication type per line.")
	if err != nil {
		return t, err
	}
	r.Method = t.text
	if why, hint := checkHBAMethod(r.Type, t.text, p.version); why != "" {
		return t, t.fail(hint, "%s", why)
	}
	if r.Type == "local" && r.Method == "ident" {
		r.Method = "peer"
	}
	return t, nil
}

func (p *hbaParser) options(r *HBARule) *ParseError {
	for ; p.at < len(p.line.fields); p.at++ {
		for _, t := range p.line.fields[p.at] {
			name, value, ok := strings.Cut(t.text, "=")
			if !ok { // the token is not shown: it may be the rest of a secret that has a blank
				return t.fail("an option is: name=value, in double quotes if it has blanks", "authentication option not in name=value format")
			}
			o := HBAOption{Name: name, Value: value}
			if why, hint := checkHBAOption(*r, o, p.version); why != "" {
				return t.fail(hint, "%s", why)
			}
			r.Options = append(r.Options, o)
		}
	}
	return nil
}
