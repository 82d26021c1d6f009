package main

import (
	"fmt"

	"github.com/pgfleet/pgfleet/internal/catalog"
	"github.com/pgfleet/pgfleet/tasks"
)

// longList is how many statements of a step are shown without -v.
const longList = 20

// kindOfStatement sorts statements for the reader.
func kindOfStatement(st catalog.Statement) string {
	switch st := st.(type) {
	case catalog.CreateRole, catalog.CreateDatabase, catalog.CreateSchema, catalog.CreateExtension, catalog.CreatePolicy, catalog.Grant, catalog.GrantRole:
		return "create"
	case catalog.DropRole, catalog.DropSchema, catalog.DropExtension, catalog.DropPolicy, catalog.DropOwned, catalog.Revoke, catalog.RevokeRole:
		return "remove"
	case catalog.AlterDefaultPrivileges:
		if st.Revoke {
			return "remove"
		}
		return "create"
	case catalog.SetParameter:
		if st.Reset {
			return "remove"
		}
	}
	return "change"
}

// databaseOf returns a statement and the database that it runs in; "" for what
// is no statement.
func databaseOf(c tasks.Change) (database, sql string) {
	switch a := c.Action.(type) {
	case tasks.Execute:
		return a.Database, a.Statement.SQL()
	case tasks.Replicated:
		return a.Database, a.Statement.SQL()
	}
	return "", ""
}

// whereOf names the database of a step's statements; "" where they change only
// what all databases share.
func whereOf(s tasks.Step) string {
	for _, c := range s.Changes {
		switch a := c.Action.(type) {
		case tasks.Execute:
			if !shared(a.Statement) {
				return a.Database
			}
		case tasks.Replicated:
			if !shared(a.Statement) {
				return a.Database
			}
		}
	}
	return ""
}

func shared(st catalog.Statement) bool {
	switch st := st.(type) {
	case catalog.CreateRole, catalog.AlterRole, catalog.DropRole, catalog.SetPassword, catalog.GrantRole, catalog.RevokeRole,
		catalog.CreateDatabase, catalog.AlterDatabase, catalog.SetParameter:
		return true
	case catalog.SetComment:
		return st.On == "ROLE" || st.On == "DATABASE"
	case catalog.Grant:
		return len(st.On) > 0 && st.On[0].Kind == catalog.DatabaseKind
	case catalog.Revoke:
		return len(st.On) > 0 && st.On[0].Kind == catalog.DatabaseKind
	case catalog.AlterOwner:
		return st.Object.Kind == catalog.DatabaseKind
	}
	return false
}

// danger says what is lost by the statement at one place of a step; "" for
// nothing that its own words would not say. What a role owned has another owner
// by the time that its privileges are dropped, where REASSIGN OWNED comes before.
func danger(changes []tasks.Change, at int) string {
	a, ok := changes[at].Action.(tasks.Execute)
	if !ok {
		return ""
	}
	switch st := a.Statement.(type) {
	case catalog.ReassignOwned:
		return fmt.Sprintf("everything that %s owns in %s becomes %s's", st.Role, a.Database, st.To)
	case catalog.DropOwned:
		for _, c := range changes[:at] {
			if before, ok := c.Action.(tasks.Execute); ok {
				if r, ok := before.Statement.(catalog.ReassignOwned); ok && r.Role == st.Role && before.Database == a.Database {
					return ""
				}
			}
		}
		return fmt.Sprintf("drops everything that %s owns in %s, rows and all", st.Role, a.Database)
	}
	return ""
}
