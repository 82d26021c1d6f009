package adopt

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// secretSetting says why a setting must not be copied; "" if it may be. The
// reason never holds the value.
func secretSetting(name, value string) string {
	lower := strings.ToLower(name)
	switch {
	case value == "":
		return ""
	case lower == "ssl_passphrase_command":
		return "it may hold a passphrase"
	case strings.Contains(lower, ".") && secretName.MatchString(lower):
		return "by its name it is a secret"
	case conninfoPassword.MatchString(value):
		return "it holds a password; a passfile keeps it out of the configuration"
	case uriPassword.MatchString(value):
		return "it holds a URI with a password"
	case assigned.MatchString(value):
		return "it seems to hold a key or a password"
	case hasForm(value):
		return "it has the form of a secret"
	}
	return ""
}

var (
	secretName       = regexp.MustCompile(`secret|token|passw|passphrase|api_?key|private_?key|[._]key$|salt$`)
	conninfoPassword = regexp.MustCompile(`(?i)\b(ssl)?password\s*=\s*[^\s]`)
	uriPassword      = regexp.MustCompile(`(?i)[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@`)
	assigned         = regexp.MustCompile(`(?i)(secret|token|passwd|password|passphrase|access_?key|api_?key|pgpassword)[a-z0-9_]*\s*=\s*[^\s]|--(password|passphrase|token|secret)[= ]`)
)

// hasForm reports whether there is something in the text that a Redactor would
// mask.
func hasForm(text string) bool {
	return secrets.NewRedactor().String(text) != text
}

// secretLines says which lines of a file of settings must not be copied, and
// why: settings, and comments in which one was left.
func secretLines(content string) []string {
	entries, err := postgres.ParseConf(content)
	if err != nil {
		return []string{"it cannot be read: " + strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	var found []string
	seen := map[int]bool{}
	for _, e := range entries {
		if why := secretSetting(e.Name, e.Value); why != "" {
			found = append(found, fmt.Sprintf("line %d, %s: %s", e.Line, e.Name, why))
			seen[e.Line] = true
		}
	}
	for i, line := range strings.Split(content, "\n") {
		_, comment, ok := strings.Cut(line, "#")
		if !ok || seen[i+1] {
			continue
		}
		if conninfoPassword.MatchString(comment) || uriPassword.MatchString(comment) {
			found = append(found, fmt.Sprintf("line %d, a comment: it holds a password", i+1))
		}
	}
	return found
}

// secretRule names the options of a rule that must not be copied.
func secretRule(r postgres.HBARule) []string {
	var names []string
	for _, o := range r.Options {
		if o.Name == "ldapbindpasswd" || o.Name == "radiussecrets" || o.Name == "ldapurl" && uriPassword.MatchString(o.Value) {
			names = append(names, o.Name)
		}
	}
	return names
}
