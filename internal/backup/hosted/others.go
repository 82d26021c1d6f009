package hosted

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Evidence is what a server says that tells whether somebody else archives its WAL or takes base backups of it. What is not known is empty.
type Evidence struct {
	ArchiveMode, ArchiveCommand, ArchiveLibrary, RestoreCommand string

	Slots    []string // names of replication slots
	Clients  []string // application names of pg_stat_replication
	Archived string   // when the archiver was last successful, for the reader; empty for never or not known
	Failing  bool     // its last attempt failed
}

// Others returns a sentence for each program that the evidence names: pgBackRest, Barman and WAL-G. Archiving by something else is named by its command's
// first word.
func Others(e Evidence) []string {
	var said []string
	archiving := e.ArchiveMode == "on" || e.ArchiveMode == "always"
	state := ""
	switch {
	case !archiving && (e.ArchiveCommand != "" || e.ArchiveLibrary != ""):
		state = ", but archive_mode is off"
	case e.Failing:
		state = ", and its last attempt failed"
	case e.Archived != "":
		state = ", last at " + e.Archived
	}
	known := []struct {
		name  string
		words []string
	}{
		{"pgBackRest", []string{"pgbackrest"}},
		{"Barman", []string{"barman", "barman-wal-archive", "barman-cloud-wal-archive", "barman-wal-restore", "barman-cloud-wal-restore"}},
		{"WAL-G", []string{"wal-g", "wal-g-wrapper", "wal-e"}},
	}
	named := false
	for _, k := range known {
		var how []string
		if names(e.ArchiveCommand, k.words) {
			how, named = append(how, "archives the WAL (archive_command"+state+")"), true
		}
		if names(e.ArchiveLibrary, k.words) {
			how, named = append(how, "archives the WAL (archive_library"+state+")"), true
		}
		if names(e.RestoreCommand, k.words) {
			how = append(how, "is where restore_command fetches WAL from")
		}
		if k.name == "Barman" {
			barman := func(s string) bool { return strings.HasPrefix(s, "barman") }
			if i := slices.IndexFunc(e.Clients, barman); i >= 0 {
				how = append(how, fmt.Sprintf("receives the WAL (as %s)", e.Clients[i]))
			} else if i := slices.IndexFunc(e.Slots, barman); i >= 0 {
				how = append(how, fmt.Sprintf("has the replication slot %s, and is not connected", e.Slots[i]))
			}
		}
		if len(how) > 0 {
			said = append(said, k.name+" "+strings.Join(how, ", and "))
		}
	}
	if first := strings.Fields(e.ArchiveCommand); !named && archiving && len(first) > 0 && e.ArchiveCommand != "(disabled)" {
		said = append(said, fmt.Sprintf("%s archives the WAL (archive_command%s)", path.Base(first[0]), state))
	} else if !named && archiving && e.ArchiveLibrary != "" {
		said = append(said, fmt.Sprintf("the library %s archives the WAL%s", e.ArchiveLibrary, state))
	}
	return said
}

// names reports whether a command has one of the programs as a word, with any path before it.
func names(command string, programs []string) bool {
	words := strings.FieldsFunc(command, func(r rune) bool { return strings.ContainsRune(" \t\n'\"=;&|()", r) })
	return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(programs, path.Base(w)) })
}
