//go:build lab

package property

import "strings"

// Names are chosen to be hard: capitals, blanks, quotes, reserved words, names of
// 63 bytes, names outside of ASCII.

// roleNames are in an order: a role is made a member only of those after it, so
// that there are no circles.
func roleNames() []string {
	return []string{
		"app", "App User", `we"ird`, "select", "user", "группа", strings.Repeat("r", 63), "o'brien", `back\slash`, "a.b", "-dash", "1st",
		strings.Repeat("ж", 31) + "x", "default", "$dollar", "%u", "all", "session", "Straße",
	}
}

func databaseNames() []string {
	return []string{"orders", "Odd DB", `qu"ote`, "table", "бд", strings.Repeat("D", 63), "o'db", "per%cent", "dash-db", `back\db`}
}

func schemaNames() []string {
	return []string{"app", "Odd Schema", "select", "схема", `q"s`, strings.Repeat("S", 63), "a.b"}
}

func objectNames() []string {
	return []string{"orders", "Order Items", `we"ird`, "table", "a.b", "заказы", strings.Repeat("t", 63), "it's", "percent%", "Ünïcode"}
}

func policyNames() []string {
	return []string{"own", "Odd Policy", `q"p`, "select", "политика"}
}

// columns are those of all tables, so that every expression fits each of them.
const columns = `(id int, total numeric, who text, "Odd Col" int)`

func columnNames() []string { return []string{"id", "total", "who", "Odd Col"} }

// ident quotes a name, always.
func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// grantee quotes a role; "" is PUBLIC.
func grantee(role string) string {
	if role == "" {
		return "PUBLIC"
	}
	return ident(role)
}

// literal quotes a text.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// privileges returns all that there are for a kind of object.
func privileges(kind string, major int) []string {
	switch kind {
	case "DATABASE":
		return []string{"CREATE", "CONNECT", "TEMPORARY"}
	case "SCHEMA":
		return []string{"CREATE", "USAGE"}
	case "TABLE":
		all := []string{"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"}
		if major >= 17 {
			all = append(all, "MAINTAIN")
		}
		return all
	case "COLUMN":
		return []string{"SELECT", "INSERT", "UPDATE", "REFERENCES"}
	case "SEQUENCE":
		return []string{"USAGE", "SELECT", "UPDATE"}
	case "FUNCTION":
		return []string{"EXECUTE"}
	}
	return []string{"USAGE"} // of a type
}
