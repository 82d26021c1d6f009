// Package tasks plans: it turns the ordered tasks of a fleet.toml and what is
// known of one PostgreSQL instance into the changes that make the instance as
// the file asks for.
//
// Planning is pure. A Task says which facts it must know (Reads) and, given a
// State, which Changes are due (Plan). It holds nothing that could read or
// write a host, knows no clock and draws no random numbers, so a dry run is not
// a mode but the first half of every run. After each change the State is moved
// on with Foresee, so that a later task plans against what an earlier one will
// have done: the file that it will have written, the setting that the server
// will then run with.
//
// The way of one task:
//
//	fleet.toml ── Expand ──> Bound{Task} ── Check ──> mistakes, before anybody is dialled
//	Task.Reads ──> facts ──> State ── Task.Plan ──> []Change ── State.Foresee ──> State
//	[]Change ── Steps ──> []Step, what is done as one or put back as one
//
// Each kind of task is one file, and the map in kinds.go names it. A Change's
// Action is one of the closed set in actions.go; package rollout carries those
// out and knows nothing of kinds.
package tasks
