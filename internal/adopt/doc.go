// Package adopt turns what was found on a live server into the text of a
// fleet.toml whose first plan is empty.
//
// It is pure: it says what has to be asked (Reads), and writes texts from the
// answers (Inventory, Describe). What it writes follows three rules.
//
//   - What pgfleet has a kind for becomes a task of that kind: rules of
//     pg_hba.conf and pg_ident.conf, fragments in conf.d, packages, roles and
//     what databases hold. Such a task leaves a file that says the same as it is,
//     comments included. Of privileges it writes what is not PostgreSQL's own
//     default, the same ones on several objects as one task.
//   - What has no kind that could own it as it is becomes a task of kind file
//     with a copy, byte for byte: postgresql.conf, and what it includes.
//   - What holds a secret, or cannot be read, is not copied. A comment takes the
//     place of the task and says what to do, and a warning says that it does.
package adopt
