package postgres

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// An HBAToken is one name or keyword in the database or user column. A quoted token is never a keyword, group or file.
type HBAToken struct {
	Text   string
	Quoted bool
}

// HBAName returns the token that means exactly the database or role of this name.
func HBAName(name string) HBAToken {
	return HBAToken{Text: name, Quoted: strings.HasPrefix(QuoteHBA(name), `"`)}
}

// Is reports whether the token is this keyword, unquoted.
func (t HBAToken) Is(keyword string) bool { return !t.Quoted && t.Text == keyword }

// Group returns the role of an unquoted +role.
func (t HBAToken) Group() (role string, ok bool) {
	if t.Quoted {
		return "", false
	}
	return strings.CutPrefix(t.Text, "+")
}

// File returns the path of an unquoted @file.
func (t HBAToken) File() (path string, ok bool) {
	if t.Quoted || len(t.Text) < 2 {
		return "", false
	}
	return strings.CutPrefix(t.Text, "@")
}

// String returns the token as it is written.
func (t HBAToken) String() string {
	if t.Quoted || t.Text == "" || strings.ContainsAny(t.Text[:1], " \t\r,\"#") {
		return `"` + strings.ReplaceAll(t.Text, `"`, `""`) + `"`
	}
	return quoteInside(t.Text)
}

// quoteInside writes a token that starts unquoted. Quotes inside a token do not take a keyword's or prefix's meaning away, so
// what would end the token is put between quotes after its first character.
func quoteInside(s string) string {
	if !strings.ContainsAny(s, " \t\r,\"#\\") {
		return s
	}
	return s[:1] + `"` + strings.ReplaceAll(s[1:], `"`, `""`) + `"`
}

// An HBAAddress is the address column. Exactly one of Keyword, Host and Addr is set, none for a local rule.
type HBAAddress struct {
	Keyword string     // "all", "samehost" or "samenet"
	Host    string     // a host name, or a domain's suffix with its first dot
	Addr    netip.Addr // with Mask
	Mask    netip.Addr // of the same family; may have holes, as a netmask may
}

// HBAPrefix returns the address of a CIDR range.
func HBAPrefix(p netip.Prefix) HBAAddress {
	return HBAAddress{Addr: p.Addr().WithZone(""), Mask: maskOf(p.Bits(), p.Addr().BitLen())}
}

// IsZero reports whether there is no address.
func (a HBAAddress) IsZero() bool { return a == HBAAddress{} }

// Prefix returns the range as CIDR, or false when it is none or its mask has holes.
func (a HBAAddress) Prefix() (netip.Prefix, bool) {
	if !a.Addr.IsValid() {
		return netip.Prefix{}, false
	}
	ones := onesOf(a.Mask)
	if maskOf(ones, a.Mask.BitLen()) != a.Mask {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a.Addr, ones), true
}

// String returns the address as it is written: CIDR where it can be, else address and mask with a blank between.
func (a HBAAddress) String() string {
	switch {
	case a.Keyword != "":
		return a.Keyword
	case a.Host != "":
		return QuoteHBA(a.Host)
	case !a.Addr.IsValid():
		return ""
	}
	if p, ok := a.Prefix(); ok {
		return p.String()
	}
	return a.Addr.String() + " " + a.Mask.String()
}

// maskOf returns a mask of n ones in an address of 32 or 128 bits.
func maskOf(n, size int) netip.Addr {
	b := make([]byte, size/8)
	for i := range n {
		b[i/8] |= 0x80 >> (i % 8)
	}
	mask, _ := netip.AddrFromSlice(b)
	return mask
}

// onesOf counts the leading ones of a mask.
func onesOf(mask netip.Addr) int {
	n := 0
	for _, b := range mask.AsSlice() {
		ones := bits.LeadingZeros8(^b)
		n += ones
		if ones < 8 {
			break
		}
	}
	return n
}

// contains reports whether addr is in the range, as the server compares: same family, equal under the mask.
func (a HBAAddress) contains(addr netip.Addr) bool {
	addr = addr.WithZone("")
	if !a.Addr.IsValid() || a.Addr.BitLen() != addr.BitLen() {
		return false
	}
	have, want, mask := addr.AsSlice(), a.Addr.AsSlice(), a.Mask.AsSlice()
	for i := range mask {
		if (have[i]^want[i])&mask[i] != 0 {
			return false
		}
	}
	return true
}

// An HBAOption is a name=value behind the method.
type HBAOption struct {
	Name  string
	Value string
}

// String returns the option as it is written.
func (o HBAOption) String() string {
	s := o.Name + "=" + o.Value
	if strings.ContainsAny(s, " \t\r,\"#\\") {
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return s
}

// An HBARule is one rule of pg_hba.conf.
type HBARule struct {
	Type      string // "local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"
	Databases []HBAToken
	Users     []HBAToken
	Address   HBAAddress // zero for a local rule
	Method    string     // as the server takes it: ident on a local rule is peer
	Options   []HBAOption
	Line      int    // where it was read, from 1; 0 for a rule that was made
	Comment   string // behind the rule, without its #; may be empty
}

// Option returns the value of an option; of several of one name the server takes the last.
func (r HBARule) Option(name string) (value string, ok bool) {
	for _, o := range slices.Backward(r.Options) {
		if o.Name == name {
			return o.Value, true
		}
	}
	return "", false
}

// columns returns type, database, user, address and method with options, as they are written.
func (r HBARule) columns() []string {
	method := []string{r.Method}
	for _, o := range r.Options {
		method = append(method, o.String())
	}
	return []string{r.Type, joinTokens(r.Databases), joinTokens(r.Users), r.Address.String(), strings.Join(method, " ")}
}

// String returns the rule in one line with single blanks between the columns, without its comment. [ParseHBA] reads it back
// as the same rule. Options may hold secrets (ldapbindpasswd, radiussecrets): use [HBARule.Summary] in messages.
func (r HBARule) String() string {
	columns := slices.DeleteFunc(r.columns(), func(c string) bool { return c == "" })
	return strings.Join(columns, " ")
}

// Summary returns the rule as [HBARule.String] does, with the values of secret options masked.
func (r HBARule) Summary() string {
	r.Options = slices.Clone(r.Options)
	for i, o := range r.Options {
		if o.Name == "ldapbindpasswd" || o.Name == "radiussecrets" {
			r.Options[i].Value = "••••"
		}
	}
	return r.String()
}

func joinTokens(tokens []HBAToken) string {
	words := make([]string, len(tokens))
	for i, t := range tokens {
		words[i] = t.String()
	}
	return strings.Join(words, ",")
}

// An HBAInclude is a line that reads other files in its place, from PostgreSQL 16 on.
type HBAInclude struct {
	Directive string // "include", "include_if_exists" or "include_dir"
	Path      string
}

// String returns the line as it is written.
func (i HBAInclude) String() string {
	return fmt.Sprintf("%s %s", i.Directive, HBAToken{Text: i.Path, Quoted: QuoteHBA(i.Path) != i.Path})
}

// An HBALine is a line of pg_hba.conf, continued lines taken together. Rule and Include are nil on an empty line and on one
// that is only a comment.
type HBALine struct {
	Number  int // of its first physical line, from 1
	Rule    *HBARule
	Include *HBAInclude
	Comment string // without its #; may be empty
}

// HBARules returns the rules of the lines, in order. It returns an error if there is an include, which only the caller can
// put in place.
func HBARules(lines []HBALine) ([]HBARule, error) {
	var rules []HBARule
	for _, l := range lines {
		if l.Include != nil {
			return nil, &ParseError{Line: l.Number, Msg: fmt.Sprintf("%s %q is not read", l.Include.Directive, l.Include.Path),
				Hint: "put its rules into this file"}
		}
		if l.Rule != nil {
			rules = append(rules, *l.Rule)
		}
	}
	return rules, nil
}
