package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// An HBARow is a row of the view pg_hba_file_rules: what the server makes of the file on disk now, not what it has loaded.
// Empty strings and nil stand for NULL.
type HBARow struct {
	RuleNumber int    // from 16 on; 0 before, and for a line in error
	File       string // from 16 on
	Line       int
	Type       string
	Database   []string // without quotes: a keyword and a name of the same letters look alike
	User       []string
	Address    string
	Netmask    string
	Method     string
	Options    []string
	Error      string // see [HBARow.Refused]
}

// Refused reports whether the server refuses the line, and with it the whole file. Error does not tell: it is set as well on
// a line that loads but cannot match, such as hostssl while TLS is off, and it is NULL for some lines that are refused, such as
// clientcert=1 on 15. What tells is that nothing of the line was read.
func (row HBARow) Refused() bool { return row.Type == "" }

// Row returns the rule as pg_hba_file_rules shows it.
func (r HBARule) Row() HBARow {
	row := HBARow{Line: r.Line, Type: r.Type, Method: r.Method, Options: r.rowOptions()}
	for _, t := range r.Databases {
		row.Database = append(row.Database, t.Text)
	}
	for _, t := range r.Users {
		row.User = append(row.User, t.Text)
	}
	switch a := r.Address; {
	case a.Keyword != "":
		row.Address = a.Keyword
	case a.Host != "":
		row.Address = a.Host
	case a.Addr.IsValid():
		row.Address, row.Netmask = a.Addr.String(), a.Mask.String()
	}
	return row
}

// rowOptions returns the options that the view shows: the last of each name, implied ones added, those left out that say
// nothing. clientname is not shown at all, and what an ldapurl holds is shown as the options that it stands for, which is not
// worked out here.
func (r HBARule) rowOptions() []string {
	var shown []string
	add := func(name, value string) { shown = append(shown, name+"="+value) }
	clientcert := ""
	if r.Method == "gss" {
		if realm, set := r.Option("include_realm"); !set || realm == "1" {
			add("include_realm", "true")
		}
	}
	if r.Method == "ldap" {
		add("ldapscope", "2") // LDAP_SCOPE_SUBTREE, unless an ldapurl says otherwise
	}
	for i, o := range r.Options {
		if last, _ := r.Option(o.Name); last != o.Value || lastIndex(r.Options, o.Name) != i {
			continue
		}
		switch o.Name {
		case "include_realm", "clientname", "ldapurl", "pam_use_hostname":
		case "clientcert":
			clientcert = normalClientCert(o.Value)
		case "ldaptls", "delegate_ident_mapping":
			if o.Value == "1" {
				add(o.Name, "true")
			}
		default:
			add(o.Name, o.Value)
		}
	}
	if r.Method == "cert" {
		clientcert = "verify-full" // whatever is written
	}
	if clientcert != "" {
		add("clientcert", clientcert)
	}
	slices.Sort(shown)
	return shown
}

func lastIndex(options []HBAOption, name string) int {
	for i, o := range slices.Backward(options) {
		if o.Name == name {
			return i
		}
	}
	return -1
}

// normalClientCert returns the word of today for those of 13.
func normalClientCert(value string) string {
	switch value {
	case "1":
		return "verify-ca"
	case "0", "no-verify":
		return ""
	}
	return value
}

// NormalizeRules returns the rows that pg_hba_file_rules shows for rules, without line numbers and file names.
func NormalizeRules(rules []HBARule) []HBARow {
	rows := make([]HBARow, len(rules))
	for i, r := range rules {
		rows[i] = r.Row().normal()
	}
	return rows
}

// normal drops what depends on where a rule stands, and the order of the options.
func (row HBARow) normal() HBARow {
	row.RuleNumber, row.File, row.Line, row.Error = 0, "", 0, ""
	row.Options = slices.Sorted(slices.Values(row.Options))
	return row
}

// EqualRows reports whether two lists of rows are the same rules in the same order, wherever they stand in the files. A row
// that is refused is equal to none.
func EqualRows(a, b []HBARow) bool {
	return slices.EqualFunc(a, b, func(x, y HBARow) bool { return rowKey(x) == rowKey(y) && !x.Refused() })
}

func rowKey(row HBARow) string {
	row = row.normal()
	return fmt.Sprintf("%q", []string{row.Type, strings.Join(row.Database, "\n"), strings.Join(row.User, "\n"), row.Address,
		row.Netmask, row.Method, strings.Join(row.Options, "\n")})
}
