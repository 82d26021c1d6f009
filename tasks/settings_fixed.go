package tasks

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// fixed says why a parameter cannot be had from a settings task, and what to do;
// "" where it can. These are the parameters by which pgfleet, or the
// distribution's own programs, find the server: with another value the server
// would run, and nobody who has to look after it would reach it.
func fixed(in inventory.Instance, p parameter) string {
	switch name := strings.ToLower(p.name); name {
	case "port":
		integer := postgres.Setting{Name: name, VarType: "integer"}
		if v, err := integer.Normalize(p.value); err == nil && v == strconv.Itoa(in.Port) {
			return ""
		}
		return fmt.Sprintf("pgfleet looks for this server on port %d, and would not find it on %s: change the port on the host by hand, restart, and then say postgres.port = %s of the host (or port of the instance)",
			in.Port, p.value, p.value)
	case "unix_socket_directories":
		dirs, err := postgres.ParseList(name, p.value)
		if err != nil || slices.ContainsFunc(dirs, func(d string) bool {
			return strings.TrimPrefix(path.Clean(d), "/var") == strings.TrimPrefix(socketDir, "/var") // /var/run is a link to /run
		}) {
			return ""
		}
		return fmt.Sprintf("pgfleet and the distribution's own programs reach the server by its socket in %s: let it be in the list, such as \"%s\"",
			socketDir, postgres.JoinList(name, append(dirs, socketDir)))
	case "data_directory", "hba_file", "ident_file", "config_file", "external_pid_file":
		return "where the server's files are is the distribution's to say, and no change of it moves them: leave it out here; to move them, stop the server, move them by hand and write the line in postgresql.conf"
	case "include", "include_if_exists", "include_dir":
		return "it is no parameter but reads another file; use a task for that file"
	}
	return ""
}
