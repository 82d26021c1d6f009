// Package hosted holds what a database host needs to make backups by itself: the script that dumps, the units of systemd that run it, and the SQL
// of the checks, which proves a restore too. It is text, and what makes it: nothing here does any I/O.
package hosted

import _ "embed"

// ChecksBegin and ChecksRest are the SQL of a database's checks, for psql -XAtq with the variable check set to "rows" or "counts": one JSON
// object on each line, of kind "sequence" (last_value, is_called, increment), "table" and "materialized view" (rows, and with "rows" sum), and "large
// objects" once. They are one session: the first begins a transaction, in which the snapshot is exported that pg_dump takes, and the second ends
// it. Sums do not depend on the order of rows. Of a restored database, tables and large objects are to be equal, sequences at least as far, and
// a materialized view that had not been refreshed lately differs.
//
//go:embed checks_begin.sql
var ChecksBegin string

// ChecksRest is the second part; see [ChecksBegin].
//
//go:embed checks_rest.sql
var ChecksRest string
