package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// pgauditSettings are the parameters of the pgaudit extension, 1.5 (PostgreSQL 13) to 18, from its README. They are needed where the
// library is not loaded yet: the server then stores any value, and auditing fails at every login once it is loaded.
var pgauditSettings = []Setting{
	{Name: "pgaudit.log", VarType: "string", Context: "superuser"},
	{Name: "pgaudit.log_catalog", VarType: "bool", Context: "superuser"},
	{Name: "pgaudit.log_client", VarType: "bool", Context: "superuser"},
	{Name: "pgaudit.log_level", VarType: "enum", Context: "superuser",
		EnumVals: []string{"debug5", "debug4", "debug3", "debug2", "debug1", "info", "notice", "warning", "log"}},
	{Name: "pgaudit.log_parameter", VarType: "bool", Context: "superuser"},
	{Name: "pgaudit.log_parameter_max_size", VarType: "integer", Context: "superuser", MinVal: "0", MaxVal: "2147483647"},
	{Name: "pgaudit.log_relation", VarType: "bool", Context: "superuser"},
	{Name: "pgaudit.log_rows", VarType: "bool", Context: "superuser"},
	{Name: "pgaudit.log_statement", VarType: "bool", Context: "superuser"},
	{Name: "pgaudit.log_statement_once", VarType: "bool", Context: "superuser"},
	{Name: "pgaudit.role", VarType: "string", Context: "superuser"},
}

// pgauditClasses are the words of pgaudit.log; each but none may have a minus sign before it.
var pgauditClasses = []string{"read", "write", "function", "role", "ddl", "misc", "misc_set", "all", "none"}

func pgauditSetting(name string) (Setting, bool) {
	for _, s := range pgauditSettings {
		if strings.EqualFold(s.Name, name) {
			return s, true
		}
	}
	return Setting{}, false
}

func pgauditNames() []string {
	names := make([]string, len(pgauditSettings))
	for i, s := range pgauditSettings {
		names[i] = s.Name
	}
	return names
}

// checkPgauditLog refuses a word that pgaudit would warn about at every login while auditing nothing.
func checkPgauditLog(s Setting, value string) error {
	list, err := ParseList(s.Name, value)
	if err != nil {
		return s.invalid(value, "List syntax is invalid.")
	}
	for _, word := range list {
		class := strings.ToLower(strings.TrimPrefix(word, "-"))
		if slices.Contains(pgauditClasses, class) {
			continue
		}
		hint := fmt.Sprintf("%q is no class of statements; they are %s, each with an optional minus sign before it",
			word, strings.Join(pgauditClasses, ", "))
		if near := nearest(class, pgauditClasses); near != "" {
			hint = fmt.Sprintf("%q is no class of statements; %s", word, didYouMean(near))
		}
		return s.invalid(value, hint)
	}
	return nil
}
