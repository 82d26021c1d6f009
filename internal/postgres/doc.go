// Package postgres holds what pgfleet knows of PostgreSQL 13 to 18 without asking a server: how its configuration files are
// written and read, which values a parameter takes, who a pg_hba.conf lets in, how names and literals are quoted, and how a
// password becomes a SCRAM verifier.
//
// The package does no I/O. Callers bring the text of the files and the rows of the views, and get back typed values and
// errors that say what the server would say, with the position and a hint.
//
//   - [ParseConf], [Effective] and [RenderConf] read and write postgresql.conf and its includes.
//   - [Catalog] and [Setting] judge a name and a value as the server would, from the rows of pg_settings.
//   - [ParseHBA], [Evaluate] and [Unreachable] read pg_hba.conf and answer who gets in, by which rule.
//   - [ParseIdent] and [MatchIdent] do the same for pg_ident.conf.
//   - [SCRAMVerifier] and [Matches] make and check the stored form of a password.
//
// All functions are pure and safe for concurrent use. Where this package and a real server disagree, the server is right: the
// differential tests compare the two on every release of PostgreSQL that the machine has.
package postgres
