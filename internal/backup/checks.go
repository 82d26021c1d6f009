package backup

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
)

// A Check is one line of a database's checks: of a table or materialized view, of a
// sequence, or of all large objects.
type Check struct {
	Relation string `json:"relation,omitempty"` // a quoted name with its schema
	Rows     int64  `json:"rows,omitempty"`

	// No snapshot holds a sequence still: pg_dump has found it between these two.
	Sequence string `json:"sequence,omitempty"` // a quoted name with its schema
	From     string `json:"from,omitempty"`     // what it would have given next when the snapshot was taken, in decimal digits
	To       string `json:"to,omitempty"`       // and after the dump

	LargeObjects *int64 `json:"large_objects,omitempty"` // how many there are

	Sum string `json:"sum,omitempty"` // of the contents; "" where rows are counted only
}

// key names what the check is of.
func (c Check) key() (string, error) {
	switch {
	case c.Relation != "" && c.Sequence == "" && c.LargeObjects == nil:
		return c.Relation, nil
	case c.Sequence != "" && c.Relation == "" && c.LargeObjects == nil:
		return "sequence " + c.Sequence, nil
	case c.LargeObjects != nil && c.Relation == "" && c.Sequence == "":
		return "large objects", nil
	}
	return "", errors.New("it is of neither a relation, a sequence nor large objects")
}

// Checks are the checks of one database, by what they are of.
type Checks map[string]Check

// ParseChecks reads JSON lines of checks.
func ParseChecks(r io.Reader) (Checks, error) {
	all := make(Checks)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var c Check
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return nil, fmt.Errorf("line %d of the checks: %w", n, err)
		}
		key, err := c.key()
		if err == nil && c.Sequence != "" {
			_, _, err = c.positions()
		}
		if err != nil {
			return nil, fmt.Errorf("line %d of the checks: %w", n, err)
		}
		if _, twice := all[key]; twice {
			return nil, fmt.Errorf("line %d of the checks: %s stands there twice", n, key)
		}
		all[key] = c
	}
	return all, lines.Err()
}

// CompareChecks returns how a database differs from the one that was dumped, a line for
// each relation, sorted; nil if it does not. A relation that was not in the dumped one
// differs only if it has rows: unlogged tables of a standby cannot be read there.
func CompareChecks(dumped, now Checks) []string {
	var differences []string
	for _, key := range slices.Sorted(maps.Keys(dumped)) {
		want := dumped[key]
		got, ok := now[key]
		switch {
		case !ok && want.LargeObjects != nil && *want.LargeObjects == 0:
		case !ok:
			differences = append(differences, key+" is missing")
		case want.Relation != "" && want.Rows != got.Rows:
			differences = append(differences, fmt.Sprintf("%s has %d rows and had %d", key, got.Rows, want.Rows))
		case want.LargeObjects != nil && *want.LargeObjects != *got.LargeObjects:
			differences = append(differences, fmt.Sprintf("there are %d large objects and were %d", *got.LargeObjects, *want.LargeObjects))
		case want.Sequence != "" && !want.spans(got):
			differences = append(differences, fmt.Sprintf("%s gives %s next and would have given %s", key, got.To, want.span()))
		case want.Sum != "" && got.Sum != "" && want.Sum != got.Sum:
			differences = append(differences, key+" has other contents")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		got := now[key]
		if _, ok := dumped[key]; !ok && (got.Rows > 0 || got.LargeObjects != nil && *got.LargeObjects > 0) {
			differences = append(differences, key+" was not there")
		}
	}
	return differences
}

// positions returns From and To of a sequence.
func (c Check) positions() (from, to *big.Int, err error) {
	from, ok1 := new(big.Int).SetString(c.From, 10)
	to, ok2 := new(big.Int).SetString(c.To, 10)
	if !ok1 || !ok2 {
		return nil, nil, fmt.Errorf("%q and %q are not what the sequence gives next", c.From, c.To)
	}
	return from, to, nil
}

// spans reports whether what a sequence gives next now lies between From and To, or at
// either: a sequence may go down.
func (c Check) spans(now Check) bool {
	from, to, err := c.positions()
	_, at, err2 := now.positions()
	return err == nil && err2 == nil && at.Cmp(from)*at.Cmp(to) <= 0
}

func (c Check) span() string {
	if c.From == c.To {
		return c.To
	}
	return "between " + c.From + " and " + c.To
}

//go:embed snapshot.sql
var snapshotSQL string

//go:embed checks.sql
var checksSQL string

// SnapshotSQL returns what psql is given to begin a session for pg_dump --snapshot: it
// prints the snapshot's name on a line, and then waits for [ChecksSQL] in the same
// session. psql is run with -XAtq -v ON_ERROR_STOP=1
// -v check=rows, or check=counts for checks without sums.
func SnapshotSQL() string { return snapshotSQL }

// ChecksSQL returns what psql is given, behind [SnapshotSQL], to print a database's checks.
func ChecksSQL() string { return checksSQL }
