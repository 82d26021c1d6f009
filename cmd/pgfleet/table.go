package main

import (
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// columns aligns rows of cells, two spaces apart. Cells may be coloured.
func columns(rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], ansi.StringWidth(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-ansi.StringWidth(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// A grid is a table as psql prints it.
type grid struct {
	header []string
	right  []bool // align the column to the right
	rows   [][]string
}

func (g grid) String() string {
	widths := make([]int, len(g.header))
	for _, row := range append([][]string{g.header}, g.rows...) {
		for i, cell := range row {
			for line := range strings.SplitSeq(cell, "\n") {
				widths[i] = max(widths[i], ansi.StringWidth(line))
			}
		}
	}
	var b strings.Builder
	g.row(&b, g.header, widths, make([]bool, len(widths)))
	for i, w := range widths {
		if i > 0 {
			b.WriteByte('+')
		}
		b.WriteString(strings.Repeat("-", w+2))
	}
	b.WriteByte('\n')
	for _, row := range g.rows {
		g.row(&b, row, widths, g.right)
	}
	return b.String()
}

// row writes the lines of a row: a cell with newlines takes several.
func (g grid) row(b *strings.Builder, cells []string, widths []int, right []bool) {
	split := make([][]string, len(cells))
	height := 1
	for i, cell := range cells {
		split[i] = strings.Split(cell, "\n")
		height = max(height, len(split[i]))
	}
	for n := range height {
		var line strings.Builder
		for i := range cells {
			text := ""
			if n < len(split[i]) {
				text = split[i][n]
			}
			pad := strings.Repeat(" ", widths[i]-ansi.StringWidth(text))
			if i > 0 {
				line.WriteByte('|')
			}
			if right[i] {
				line.WriteString(" " + pad + text + " ")
			} else {
				line.WriteString(" " + text + pad + " ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
