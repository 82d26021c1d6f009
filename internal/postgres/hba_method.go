package postgres

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// hbaMethods are the authentication methods of Debian's, RHEL's and the project's own builds.
var hbaMethods = []string{
	"trust", "reject", "scram-sha-256", "md5", "password", "gss", "ident", "peer", "ldap", "radius", "cert", "pam", "oauth",
}

// hbaWrongMethods are common spellings that edit distance does not lead home.
var hbaWrongMethods = map[string]string{
	"scram":         "scram-sha-256",
	"scram-sha256":  "scram-sha-256",
	"scram_sha_256": "scram-sha-256",
	"sha256":        "scram-sha-256",
	"sha-256":       "scram-sha-256",
	"gssapi":        "gss",
	"krb5":          "gss",
	"kerberos":      "gss",
	"allow":         "trust",
	"deny":          "reject",
	"block":         "reject",
	"drop":          "reject",
	"none":          "reject",
	"certificate":   "cert",
	"tls":           "cert",
	"ssl":           "cert",
	"unix":          "peer",
}

func hbaMethodKnown(word string) bool { return slices.Contains(hbaMethods, word) }

// checkHBAMethod returns why a method cannot stand on a rule of that type, or "".
func checkHBAMethod(connection, method string, version Version) (why, hint string) {
	switch {
	case method == "sspi" || method == "bsd":
		return fmt.Sprintf("invalid authentication method %q: not supported by this build", method), ""
	case method == "oauth" && version.Major() < 18:
		return fmt.Sprintf("invalid authentication method %q", method), "it exists from PostgreSQL 18 on"
	case !hbaMethodKnown(method):
		near := hbaWrongMethods[strings.ToLower(method)]
		if near == "" {
			near = nearest(method, hbaMethods)
		}
		hint = didYouMean(near)
		if hint == "" {
			hint = "one of " + strings.Join(hbaMethods, ", ")
		}
		return fmt.Sprintf("invalid authentication method %q", method), hint
	case connection == "local" && method == "gss":
		return "gssapi authentication is not supported on local sockets", ""
	case connection != "local" && method == "peer":
		return "peer authentication is only supported on local sockets", "use scram-sha-256, or a local rule"
	case connection != "hostssl" && method == "cert":
		return "cert authentication is only supported on hostssl connections", "make it a hostssl rule"
	}
	return "", ""
}

// An hbaOptionRule says on which methods an option may stand.
type hbaOptionRule struct {
	name    string
	methods []string // none: on any
	shown   string   // the methods as the server names them
	since   int      // major version, 0 for all
}

var hbaOptionRules = []hbaOptionRule{
	{name: "map", methods: []string{"ident", "peer", "gss", "cert", "oauth"}, shown: "ident, peer, gssapi, sspi, and cert"},
	{name: "clientcert"},
	{name: "clientname", since: 14},
	{name: "pamservice", methods: []string{"pam"}, shown: "pam"},
	{name: "pam_use_hostname", methods: []string{"pam"}, shown: "pam"},
	{name: "ldapurl", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldaptls", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldapscheme", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldapserver", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldapport", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldapbinddn", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldapbindpasswd", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldapsearchattribute", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldapsearchfilter", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldapbasedn", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldapprefix", methods: []string{"ldap"}, shown: "ldap"},
	{name: "ldapsuffix", methods: []string{"ldap"}, shown: "ldap"},
	{name: "krb_realm", methods: []string{"gss"}, shown: "gssapi and sspi"},
	{name: "include_realm", methods: []string{"gss"}, shown: "gssapi and sspi"},
	{name: "compat_realm", methods: []string{"sspi"}, shown: "sspi"},
	{name: "upn_username", methods: []string{"sspi"}, shown: "sspi"},
	{name: "radiusservers", methods: []string{"radius"}, shown: "radius"},
	{name: "radiusports", methods: []string{"radius"}, shown: "radius"},
	{name: "radiussecrets", methods: []string{"radius"}, shown: "radius"},
	{name: "radiusidentifiers", methods: []string{"radius"}, shown: "radius"},
	{name: "issuer", methods: []string{"oauth"}, shown: "oauth", since: 18},
	{name: "scope", methods: []string{"oauth"}, shown: "oauth", since: 18},
	{name: "validator", methods: []string{"oauth"}, shown: "oauth", since: 18},
	{name: "delegate_ident_mapping", methods: []string{"oauth"}, shown: "oauth", since: 18},
}

// checkHBAOption returns why an option cannot stand on a rule, or "".
func checkHBAOption(r HBARule, o HBAOption, version Version) (why, hint string) {
	i := slices.IndexFunc(hbaOptionRules, func(known hbaOptionRule) bool {
		return known.name == o.Name && known.since <= version.Major()
	})
	if i < 0 {
		return unknownHBAOption(o.Name, version)
	}
	known := hbaOptionRules[i]
	if known.methods != nil && !slices.Contains(known.methods, r.Method) {
		return fmt.Sprintf("authentication option %q is only valid for authentication methods %s", o.Name, known.shown), ""
	}
	switch o.Name {
	case "clientcert":
		return checkClientCert(r, o.Value, version)
	case "clientname":
		if r.Type != "hostssl" {
			return `clientname can only be configured for "hostssl" rows`, "make it a hostssl rule"
		}
		if o.Value != "CN" && o.Value != "DN" {
			return fmt.Sprintf("invalid value for clientname: %q", o.Value), "CN or DN"
		}
	case "ldapport":
		if leadingInt(o.Value) == 0 {
			return fmt.Sprintf("invalid LDAP port number: %q", o.Value), ""
		}
	case "radiusports":
		list, err := ParseList("", o.Value)
		if err != nil {
			return fmt.Sprintf("could not parse RADIUS port list %q", o.Value), ""
		}
		for _, port := range list {
			if leadingInt(port) == 0 {
				return fmt.Sprintf("invalid RADIUS port number: %q", o.Value), ""
			}
		}
	}
	return "", ""
}

func unknownHBAOption(name string, version Version) (why, hint string) {
	var names []string
	for _, known := range hbaOptionRules {
		if known.name == name {
			hint = fmt.Sprintf("it exists from PostgreSQL %d on", known.since)
		}
		if known.since <= version.Major() {
			names = append(names, known.name)
		}
	}
	if hint == "" {
		hint = didYouMean(nearest(name, names))
	}
	return fmt.Sprintf("unrecognized authentication option name: %q", name), hint
}

// leadingInt reads a number as atoi does.
func leadingInt(s string) int {
	s = strings.TrimLeft(s, cSpace)
	sign := signLen(s)
	n, _ := strconv.Atoi(s[:sign+span(s[sign:], isDigit)])
	return n
}

func checkClientCert(r HBARule, value string, version Version) (why, hint string) {
	if r.Type != "hostssl" {
		return `clientcert can only be configured for "hostssl" rows`, "make it a hostssl rule"
	}
	old := version.Major() < 14
	switch {
	case value == "verify-full", old && value == "1" && r.Method != "cert":
		return "", ""
	case old && (value == "1" || value == "verify-ca"):
		return "", ""
	case value == "verify-ca":
		if r.Method == "cert" {
			return `clientcert can only be set to "verify-full" when using "cert" authentication`, "leave it out: cert implies it"
		}
		return "", ""
	case old && (value == "0" || value == "no-verify"):
		if r.Method == "cert" {
			return `clientcert can not be set to "no-verify" when using "cert" authentication`, ""
		}
		return "", ""
	}
	hint = "verify-ca or verify-full"
	if value == "1" || value == "0" || value == "no-verify" {
		hint += "; 1, 0 and no-verify are gone since PostgreSQL 14"
	}
	return fmt.Sprintf("invalid value for clientcert: %q", value), hint
}

// checkHBAOptions returns an error when options are missing or do not go together.
func checkHBAOptions(r HBARule, at authToken) *ParseError {
	has := func(name string) bool { _, ok := r.Option(name); return ok }
	missing := func(name string) *ParseError {
		return at.fail("", "authentication method %q requires argument %q to be set", r.Method, name)
	}
	switch r.Method {
	case "ldap":
		return checkLDAP(has, at)
	case "radius":
		if !has("radiusservers") {
			return missing("radiusservers")
		}
		if !has("radiussecrets") {
			return missing("radiussecrets")
		}
		return checkRadius(r, at)
	case "oauth":
		if !has("issuer") {
			return missing("issuer")
		}
		if !has("scope") {
			return missing("scope")
		}
		if delegate, _ := r.Option("delegate_ident_mapping"); delegate == "1" && has("map") {
			return at.fail("", `"map" cannot be used together with "delegate_ident_mapping"`)
		}
	}
	return nil
}

func checkLDAP(has func(string) bool, at authToken) *ParseError {
	search := has("ldapbasedn") || has("ldapbinddn") || has("ldapbindpasswd") || has("ldapsearchattribute") ||
		has("ldapsearchfilter") || has("ldapurl")
	bind := has("ldapprefix") || has("ldapsuffix")
	switch {
	case bind && search && !has("ldapurl"):
		return at.fail("either ldapprefix and ldapsuffix, or the options of a search", "cannot mix options for simple bind and search+bind modes")
	case !bind && !has("ldapbasedn") && !has("ldapurl"):
		return at.fail("", `authentication method "ldap" requires argument "ldapbasedn", "ldapprefix", or "ldapsuffix" to be set`)
	case has("ldapsearchattribute") && has("ldapsearchfilter"):
		return at.fail("", "cannot use ldapsearchattribute together with ldapsearchfilter")
	}
	return nil
}

// checkRadius compares the lengths of the lists: each is one for all servers, or one for each.
func checkRadius(r HBARule, at authToken) *ParseError {
	length := func(name string) int {
		value, _ := r.Option(name)
		list, err := ParseList("", value)
		if err != nil {
			return -1
		}
		return len(list)
	}
	servers := length("radiusservers")
	if servers < 1 {
		return at.fail("", "list of RADIUS servers cannot be empty")
	}
	if length("radiussecrets") < 1 {
		return at.fail("", "list of RADIUS secrets cannot be empty")
	}
	for _, other := range []struct{ name, shown string }{
		{"radiussecrets", "secrets"}, {"radiusports", "ports"}, {"radiusidentifiers", "identifiers"},
	} {
		if n := length(other.name); n > 1 && n != servers {
			return at.fail("", "the number of RADIUS %s (%d) must be 1 or the same as the number of RADIUS servers (%d)",
				other.shown, n, servers)
		}
	}
	return nil
}
