package postgres

import "strings"

// RenderHBA returns the text of a pg_hba.conf: the header as comment lines, the names of the columns, and the rules with their
// columns aligned. A rule's comment stands behind it. [ParseHBA] reads back the same rules.
func RenderHBA(header string, rules []HBARule) string {
	rows := [][]string{{"# TYPE", "DATABASE", "USER", "ADDRESS", "METHOD"}}
	for _, r := range rules {
		row := r.columns()
		if comment := oneLine(r.Comment); comment != "" {
			row[len(row)-1] += "  # " + comment
		}
		rows = append(rows, row)
	}
	return commentLines(header) + alignColumns(rows)
}

// oneLine makes a comment one that ends with its line and does not continue it.
func oneLine(comment string) string {
	return strings.TrimRight(strings.Join(strings.Fields(strings.ReplaceAll(comment, "\x00", " ")), " "), `\ `)
}

// alignColumns pads all columns but the last to the width of the widest.
func alignColumns(rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-len(cell)+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}
