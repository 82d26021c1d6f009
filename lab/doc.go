// Package lab boots a fleet of real Debian hosts on this machine, for the
// tests and the demo: systemd, sshd, sudo and PostgreSQL in systemd-nspawn
// containers on a bridge of their own. It needs root on Linux, and installs
// from the machine's own apt sources what it lacks.
//
//	l, err := lab.Up(ctx, lab.Options{Hosts: []lab.Host{
//		{Name: "pg01"},
//		{Name: "pg02", StandbyOf: "pg01"},
//		{Name: "pg03", Postgres: 17, SudoPassword: "open sesame"},
//	}})
//	defer l.Down()
//	out, err := l.Host("pg01").Exec(ctx, "sha256sum /etc/postgresql/15/main/*.conf")
//
// # Bases
//
// A base is the root of a Debian release with one PostgreSQL major version:
// 13 (bullseye), 15 (bookworm), 17 (trixie), 18 (forky). mmdebstrap builds it
// once, in about a minute, under /var/cache/pgfleet-lab (PGFLEET_LAB_CACHE
// names another folder). Its name holds a digest of the recipe, so a changed
// recipe builds anew. PGFLEET_LAB_MIRROR and PGFLEET_LAB_KEYRING name a Debian
// archive where the machine's apt sources have none.
//
// # Hosts
//
// A host is an overlay on its base, in memory: fresh at every Up, kept over a
// reboot, a Stop or a Kill. Its clusters, machine-id, ssh host key and
// self-signed certificate are its own. Hosts have no route out. Those without
// pgaudit have an apt repository on the bridge that holds it; the others have
// no apt sources.
//
// # Who stops what
//
// A separate process, the supervisor (`lab supervise`), holds the containers.
// It mounts in a mount namespace of its own, so no mount outlives it, and it
// puts each host in a control group, so no process is missed. It stops
// everything when Down is called, and when the process that called Up ends,
// however that ends, unless Options.Detach is set. A second process, the guard,
// does the same if the supervisor is killed. If both are killed, the next Up or
// Down on that bridge removes what is left: the control groups with all their
// processes, the bridge, the files in /run.
//
// A bridge carries one lab at a time. Labs on other bridges (Options.Bridge,
// or PGFLEET_LAB_BRIDGE) run beside it: pglab0 is 10.77.0.0/24 with
// applications in 10.78.0.0/24, pglab1 is 10.79.0.0/24 with 10.80.0.0/24, and
// so on.
package lab
