package transport

import "github.com/pgfleet/pgfleet/internal/facts"

// askAvailable asks which extensions could be made. The server reads the control
// files of all of them for it, which takes it longer than all else that is asked
// of a small database.
func askAvailable(r facts.Available) *question {
	versions := map[string][]string{}
	return &question{
		read: r, begin: beginReading, end: endReading,
		list: append(reading(), statement{
			sql: `SELECT v.name, v.version FROM pg_catalog.pg_available_extension_versions() v
				JOIN pg_catalog.pg_available_extensions() a ON a.name = v.name ORDER BY v.name, v.version <> a.default_version, v.version COLLATE "C"`,
			columns: 2,
			read: func(r row) error {
				versions[r.text(0)] = append(versions[r.text(0)], r.text(1))
				return nil
			},
		}),
		answer: func(r reply) (any, error) {
			if r.failed != nil {
				return facts.AvailableInfo{Problem: r.failed.Message}, nil
			}
			return facts.AvailableInfo{Versions: versions}, nil
		},
	}
}
