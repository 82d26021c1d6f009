// Package inventory reads fleet.toml: which hosts and PostgreSQL instances there are, what they are called, which
// variables hold for each of them, and the ordered list of tasks.
//
// [Load] reads the file and those that it includes and reports every mistake in one go, each with file, line and
// column. What it returns, a [Fleet], never changes afterwards and may be shared by goroutines.
//
// The package does no I/O but for reading these files, and it does not know the kinds of tasks: a [Task] keeps the keys
// of its kind as a tree of [Node], every one with its position, for the package tasks to render and [Decode].
//
// # Names
//
// A host, a group and a replication cluster are each called by one name, and a [Selector] finds them by it, so no two of
// them may share a name. Names consist of letters, digits, dots, dashes and underscores, and begin with a letter or a
// digit. "all" stands for every instance.
//
// # Instances
//
// A host has one instance, described by its own keys and [postgres], unless it lists them:
//
//	[hosts.pg01]
//	address = "10.77.0.11"
//	[hosts.pg01.instances.main]
//	[hosts.pg01.instances.second]
//	port = 5433
//
// The key is the instance's name, and also Debian's cluster name unless cluster says otherwise, so that 15/main and
// 17/main can both be named during an upgrade.
//
// # Variables
//
// From weakest to strongest: [vars], the variables of groups, of the host, of the instance. Of groups, the one with more
// groups around it is stronger, and of equally deep ones the one later in the files. A stronger value replaces a weaker
// one wholly, tables included, as Ansible does. Variables are plain values, not templates.
//
// # Included files
//
//	include = ["hosts.toml", "tasks/*.toml"]
//
// Paths are relative to the file that includes; what a pattern matches is sorted. Included files may hold hosts, groups,
// vars, tasks and includes of their own. Their tasks come in the order of the includes and before the including file's
// own, as though their text stood where include stands: at the top.
package inventory
