package main

import "charm.land/lipgloss/v2"

// A style colours text, or leaves it alone. Texts are single lines.
type style struct {
	bold, faint, red, green, yellow func(string) string
}

func newStyle(color bool) style {
	if !color {
		same := func(s string) string { return s }
		return style{same, same, same, same, same}
	}
	base := lipgloss.NewStyle().TabWidth(lipgloss.NoTabConversion)
	render := func(s lipgloss.Style) func(string) string {
		return func(text string) string {
			if text == "" {
				return ""
			}
			return s.Render(text)
		}
	}
	return style{
		bold:   render(base.Bold(true)),
		faint:  render(base.Faint(true)),
		red:    render(base.Foreground(lipgloss.Red)),
		green:  render(base.Foreground(lipgloss.Green)),
		yellow: render(base.Foreground(lipgloss.Yellow)),
	}
}
