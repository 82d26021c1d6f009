package backup

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Kinds of checks.
const (
	CheckTable            = "table"
	CheckMaterializedView = "materialized view"
	CheckSequence         = "sequence"
	CheckLargeObjects     = "large objects" // one check for all of a database's
)

// A Check is one line of a database's checks, as the SQL of the package hosted prints them.
type Check struct {
	Relation string `json:"relation"` // the name with its schema, quoted where needed; "" for large objects
	Kind     string `json:"kind"`

	Rows int64   `json:"rows,omitempty"` // of all but sequences
	Sum  *string `json:"sum,omitempty"`  // of the contents; nil where rows are counted only

	// Of a sequence, from before the dump: no snapshot holds one still.
	LastValue int64 `json:"last_value,omitempty"`
	IsCalled  bool  `json:"is_called,omitempty"`
	Increment int64 `json:"increment,omitempty"`
}

// key names what the check is of.
func (c Check) key() (string, error) {
	switch c.Kind {
	case CheckTable, CheckMaterializedView, CheckSequence:
		if c.Relation == "" {
			return "", fmt.Errorf("the name of a %s is missing", c.Kind)
		}
		return c.Kind + " " + c.Relation, nil
	case CheckLargeObjects:
		return c.Kind, nil
	}
	return "", fmt.Errorf("the kind %q is unknown", c.Kind)
}

// Checks are the checks of one database, by their kind and name: "table public.t".
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

// CompareChecks returns how a restored database differs from the one that was dumped, a
// line for each relation, sorted by kind and name; nil if it does not. A sequence may have gone on
// between its check and the dump, so it may be further. A relation that was not in the dumped one
// differs only if it has rows, and is no materialized view: unlogged tables of a standby cannot be read there, nor a view while somebody refreshes it.
func CompareChecks(dumped, now Checks) []string {
	var differences []string
	for _, key := range slices.Sorted(maps.Keys(dumped)) {
		want := dumped[key]
		got, ok := now[key]
		switch {
		case !ok && want.Kind == CheckLargeObjects && want.Rows == 0:
		case !ok:
			differences = append(differences, key+" is missing")
		case want.Kind == CheckSequence && got.behind(want):
			differences = append(differences, fmt.Sprintf("%s is at %s and was at %s", key, got.position(), want.position()))
		case want.Kind == CheckLargeObjects && got.Rows != want.Rows:
			differences = append(differences, fmt.Sprintf("there are %d large objects and were %d", got.Rows, want.Rows))
		case got.Rows != want.Rows:
			differences = append(differences, fmt.Sprintf("%s has %d rows and had %d%s", key, got.Rows, want.Rows, want.remark()))
		case got.Sum != nil && want.Sum != nil && *got.Sum != *want.Sum:
			differences = append(differences, fmt.Sprintf("%s: the contents differ%s", key, want.remark()))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if _, ok := dumped[key]; !ok && now[key].Rows > 0 && now[key].Kind != CheckMaterializedView {
			differences = append(differences, key+" was not there")
		}
	}
	return differences
}

// remark says why a relation may differ though nothing is wrong.
func (c Check) remark() string {
	if c.Kind == CheckMaterializedView {
		return ": a restore refreshes it, and it may not have been fresh or depends on the time"
	}
	return ""
}

// behind reports whether a sequence has not come as far as another, in the direction in
// which that goes.
func (c Check) behind(other Check) bool {
	if c.LastValue == other.LastValue {
		return other.IsCalled && !c.IsCalled
	}
	return (c.LastValue < other.LastValue) == (other.Increment >= 0)
}

func (c Check) position() string {
	if c.IsCalled {
		return fmt.Sprint(c.LastValue)
	}
	return fmt.Sprintf("%d (not yet taken)", c.LastValue)
}
