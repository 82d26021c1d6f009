package catalog

import (
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
)

// SetParameter is ALTER ROLE … SET, ALTER ROLE … IN DATABASE … SET or ALTER
// DATABASE … SET, or RESET of the same.
type SetParameter struct {
	Setting
	Reset bool
}

// SQL is ALTER ROLE or ALTER DATABASE.
func (s SetParameter) SQL() string {
	sql := "ALTER " + s.target()
	if s.Reset {
		return sql + " RESET " + parameterName(s.Name)
	}
	return sql + " SET " + parameterName(s.Name) + " TO " + parameterValue(s.Name, s.Value)
}

func (s Setting) target() string {
	role, database := postgres.QuoteIdent(s.Role), postgres.QuoteIdent(s.Database)
	switch {
	case s.Role == "" && s.Database == "":
		return "ROLE ALL"
	case s.Role == "":
		return "DATABASE " + database
	case s.Database == "":
		return "ROLE " + role
	}
	return "ROLE " + role + " IN DATABASE " + database
}

// Subject is the role, the database or the role in the database.
func (s SetParameter) Subject() string {
	switch {
	case s.Role != "":
		return subjectRole(s.Role)
	case s.Database != "":
		return "database " + postgres.QuoteIdent(s.Database)
	}
	return "all roles"
}

// Alone is false.
func (s SetParameter) Alone() bool { return false }

// Apply stores or removes the setting.
func (s SetParameter) Apply(c *Cluster, _ string) {
	at := slices.IndexFunc(c.Settings, func(x Setting) bool {
		return x.Role == s.Role && x.Database == s.Database && strings.EqualFold(x.Name, s.Name)
	})
	c.Settings = slices.Clone(c.Settings)
	switch {
	case s.Reset && at >= 0:
		c.Settings = slices.Delete(c.Settings, at, at+1)
	case s.Reset:
	case at >= 0:
		c.Settings[at].Value = StoredValue(s.Name, s.Value)
	default:
		x := s.Setting
		x.Value = StoredValue(s.Name, s.Value)
		c.Settings = append(c.Settings, x)
	}
}

// StoredValue returns what pg_db_role_setting holds after SET name TO value. It
// is the value itself, but for lists of names, whose elements are quoted where
// they have to be.
func StoredValue(name, value string) string {
	if !quotesElements(name) {
		return value
	}
	list, err := postgres.ParseList(name, value)
	if err != nil || len(list) == 0 {
		list = []string{strings.TrimSpace(value)}
		if list[0] == `""` {
			list[0] = ""
		}
	}
	return identList(list)
}

// parameterName returns a parameter as SET takes it.
func parameterName(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		parts[i] = postgres.QuoteIdent(p)
	}
	if len(parts) == 1 {
		return postgres.QuoteIdent(strings.ToLower(name)) // DateStyle, found without regard to case
	}
	return strings.Join(parts, ".")
}

// parameterValue returns a value as SET takes it. A list of names has to be given
// element by element: as one literal it would be one name.
func parameterValue(name, value string) string {
	if !quotesElements(name) {
		return postgres.QuoteLiteral(value)
	}
	list, err := postgres.ParseList(name, value)
	if err != nil || len(list) == 0 {
		return postgres.QuoteLiteral(strings.Trim(value, ` "`))
	}
	for i, element := range list {
		if quoted := postgres.QuoteIdent(element); quoted == element || strings.HasPrefix(element, "$") {
			list[i] = quoted
		} else {
			list[i] = postgres.QuoteLiteral(element)
		}
	}
	return strings.Join(list, ", ")
}

// quotesElements reports whether a parameter is GUC_LIST_QUOTE in the server's
// sources: variable_is_guc_list_quote of pg_dump.
func quotesElements(name string) bool {
	switch strings.ToLower(name) {
	case "local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces",
		"unix_socket_directories":
		return true
	}
	return false
}

// SetComment is COMMENT ON ROLE, DATABASE or SCHEMA.
type SetComment struct {
	On   string // "ROLE", "DATABASE", "SCHEMA"
	Name string
	Text string // "" removes it
}

// SQL is COMMENT ON.
func (s SetComment) SQL() string {
	text := "NULL"
	if s.Text != "" {
		text = postgres.QuoteLiteral(s.Text)
	}
	return "COMMENT ON " + s.On + " " + postgres.QuoteIdent(s.Name) + " IS " + text
}

// Subject is the role, database or schema.
func (s SetComment) Subject() string {
	return strings.ToLower(s.On) + " " + postgres.QuoteIdent(s.Name)
}

// Alone is false.
func (s SetComment) Alone() bool { return false }

// Apply stores the comment.
func (s SetComment) Apply(c *Cluster, in string) {
	switch s.On {
	case "ROLE":
		if held := c.Roles[s.Name]; held != nil {
			r := *held
			r.Comment = s.Text
			c.Roles[s.Name] = &r
		}
	case "DATABASE":
		if held := c.Databases[s.Name]; held != nil {
			d := *held
			d.Comment = s.Text
			c.Databases[s.Name] = &d
		}
	case "SCHEMA":
		if held := c.edit(in); held != nil && held.Schemas[s.Name] != nil {
			n := *held.Schemas[s.Name]
			n.Comment = s.Text
			held.Schemas[s.Name] = &n
		}
	}
}
