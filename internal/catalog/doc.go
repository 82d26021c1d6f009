// Package catalog is a model of what a PostgreSQL server keeps in its system
// catalogs: roles and their memberships, databases, and in each database its
// schemas, relations, functions, extensions, policies, owners, privileges and
// default privileges.
//
// A planner compares the model with what is wanted and answers with Statements.
// Each Statement is SQL for the server and, with Apply, the same change made to
// the model, so that what comes later is planned against what the server will
// then hold, also in a database that does not exist yet. PostgreSQL's own
// defaults are part of the model: what PUBLIC and an owner may do with a new
// object, which of it changed between releases, what default privileges add.
//
// The package does no I/O. Package transport reads the catalogs; a server that
// disagrees with the model is right, and the tests ask one.
package catalog
