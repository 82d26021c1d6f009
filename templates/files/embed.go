// Package files holds the texts that "pgfleet init" writes: a commented
// fleet.toml and the files that it refers to. It has no code.
package files

import _ "embed" // the texts

var (
	// Fleet is the template of fleet.toml. Its actions stand in << and >>,
	// because fleet.toml's own templates, which are to stay, use braces.
	//
	//go:embed fleet.toml.tmpl
	Fleet string

	// Syslog is rsyslog's rule for the server's messages, a template that
	// fleet.toml renders for every host.
	//
	//go:embed rsyslog.conf
	Syslog string

	// Orders makes the example table of step 6.
	//
	//go:embed orders.sql
	Orders string

	// Ignore is the .gitignore of a fleet's folder.
	//
	//go:embed gitignore
	Ignore string
)
