// Package templates renders what fleet.toml and its files leave open: text/template with the variables of an instance, a
// missing key as an error, and functions that quote for PostgreSQL's files, SQL and the shell.
//
// Rendering is pure: the same fleet gives the same text. There is no function for the environment, the time or random
// numbers. A secret becomes a placeholder (package internal/secrets), and its value is put in while the text is being
// sent to a host.
//
// # What a template sees
//
//	.Fleet.Name
//	.Host       .Name .Address .Port .User .Replication .Groups .Vars
//	.Instance   .ID .Name .Version .Cluster .Port .Replication .ConfDir .DataDir .Unit
//	.Vars       the instance's variables, as in .Vars.app_network
//	.Each       the element of the task's for_each
//	.Hosts      every host of the fleet, each like .Host
//
// # Types
//
// A value in fleet.toml that is one template expression and nothing else keeps the type of what it yields:
// "{{ .Vars.ports }}" is a list if the variable is one. Anywhere else the result is text, and then a list or a table is
// an error rather than Go's notation of it.
//
// # Functions
//
// Besides those of text/template (eq, ge, and, or, not, len, index, printf, ...):
//
//	conf ident literal hba shell   quote a value for postgresql.conf, SQL, pg_hba.conf, sh
//	conninfo passfile              quote a value for a connection string, a .pgpass
//	secret "STORE:PATH#KEY"        the placeholder of a secret
//	join SEP LIST                  one string
//	split SEP STRING               a list
//	lower S, upper S, trim S       strings
//	replace OLD NEW S              a string
//	indent N S                     every line moved to the right
//	quote S, toJSON VALUE          JSON
//	default FALLBACK VALUE         FALLBACK if VALUE is empty, zero or false
//	get TABLE KEY FALLBACK         the key's value, or FALLBACK if the table has no such key
//	has LIST ELEMENT               whether the list has the element, or the table the key
//	in ELEMENT LIST                the same the other way round
//	first LIST, last LIST          an element
//	sort LIST, uniq LIST           a list; uniq keeps the first of equal elements
//	seq FROM TO                    the numbers from FROM to TO
//	add A B..., atoi S             numbers
//	cidrHost NETWORK N             the Nth address of a network: cidrHost "10.0.0.0/24" 5 is 10.0.0.5
//	cidrContains NETWORK ADDRESS   whether an address, or a network, is within a network
package templates
