package main

import (
	"encoding/csv"
	"encoding/json"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgfleet/pgfleet/inventory"
)

// An answers table holds the rows of all instances that returned the same
// columns.
type answers struct {
	columns []string
	types   []uint32
	rows    []answerRow
}

type answerRow struct {
	instance inventory.InstanceID
	cells    []*string
}

// tables puts the replies together: a table for each statement of the query, and
// for each set of columns, which may differ between versions.
func tables(replies []reply) []answers {
	var all []answers
	for n := 0; ; n++ {
		var these []answers
		found := false
		for _, r := range replies {
			if n >= len(r.results) {
				continue
			}
			found = true
			set := r.results[n]
			if len(set.columns) == 0 {
				set.columns, set.types = []string{"result"}, []uint32{pgtype.TextOID}
				set.rows = [][]*string{{&set.tag}}
			}
			i := slices.IndexFunc(these, func(t answers) bool { return slices.Equal(t.columns, set.columns) })
			if i < 0 {
				i = len(these)
				these = append(these, answers{columns: set.columns, types: set.types})
			}
			for _, row := range set.rows {
				these[i].rows = append(these[i].rows, answerRow{r.instance, row})
			}
		}
		if !found {
			return all
		}
		all = append(all, these...)
	}
}

func renderReplies(replies []reply) string {
	var texts []string
	for _, t := range tables(replies) {
		g := grid{header: []string{"instance"}, right: []bool{false}}
		for _, name := range t.columns {
			g.header = append(g.header, cell(&name))
		}
		for _, oid := range t.types {
			g.right = append(g.right, isNumber(oid))
		}
		for _, row := range t.rows {
			cells := []string{string(row.instance)}
			for _, c := range row.cells {
				cells = append(cells, cell(c))
			}
			g.rows = append(g.rows, cells)
		}
		texts = append(texts, g.String()+"("+count(len(g.rows), "row", "rows")+")\n")
	}
	return strings.Join(texts, "\n")
}

func cell(c *string) string {
	if c == nil {
		return ""
	}
	return strings.ReplaceAll(clean(*c), "\t", "    ")
}

func isNumber(oid uint32) bool {
	switch oid {
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID, pgtype.OIDOID:
		return true
	}
	return false
}

// showCSV prints the answers as one CSV. A table with other columns begins with
// a header of its own. It is data for programs: control characters stay as they
// are.
func (q *querying) showCSV(replies []reply) error {
	var b strings.Builder
	w := csv.NewWriter(&b)
	for _, t := range tables(replies) {
		if err := w.Write(append([]string{"instance"}, t.columns...)); err != nil {
			return err
		}
		for _, row := range t.rows {
			record := []string{string(row.instance)}
			for _, c := range row.cells {
				if c == nil {
					record = append(record, "")
					continue
				}
				record = append(record, *c)
			}
			if err := w.Write(record); err != nil {
				return err
			}
		}
	}
	w.Flush()
	q.app.ui.Print(b.String())
	return w.Error()
}

type replyDocument struct {
	Instance inventory.InstanceID `json:"instance"`
	Error    string               `json:"error,omitempty"`
	Results  []resultSetDocument  `json:"results,omitempty"` // one for each statement
}

type resultSetDocument struct {
	Command string   `json:"command"` // the server's command tag
	Columns []string `json:"columns,omitempty"`
	Rows    [][]any  `json:"rows,omitempty"`
}

func repliesJSON(replies []reply) any {
	list := []replyDocument{}
	for _, r := range replies {
		d := replyDocument{Instance: r.instance}
		if r.err != nil {
			d.Error = r.err.Error()
		}
		for _, set := range r.results {
			doc := resultSetDocument{Command: set.tag, Columns: set.columns}
			for _, row := range set.rows {
				values := make([]any, len(row))
				for i, c := range row {
					values[i] = jsonValue(c, set.types[i])
				}
				doc.Rows = append(doc.Rows, values)
			}
			d.Results = append(d.Results, doc)
		}
		list = append(list, d)
	}
	return struct {
		Format    int             `json:"format"`
		Instances []replyDocument `json:"instances"`
	}{jsonFormat, list}
}

// jsonValue keeps numbers, booleans and JSON what they are; all else is text.
func jsonValue(c *string, oid uint32) any {
	switch {
	case c == nil:
		return nil
	case oid == pgtype.BoolOID:
		return *c == "t"
	case isNumber(oid) || oid == pgtype.JSONOID || oid == pgtype.JSONBOID:
		if json.Valid([]byte(*c)) {
			return json.RawMessage(*c)
		}
	}
	return *c
}
