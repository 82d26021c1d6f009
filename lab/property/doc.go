// Package property proves on real servers, with random tasks, that what is
// planned comes true: after the statements of a plan nothing is due any more, the
// server holds what the tasks declare, and it holds what planning foresaw. The
// server is asked with SQL that pgfleet itself does not use. Its tests have the
// build tag lab and names that begin with TestLab.
//
// PGFLEET_SOAK=1 tries many more, from a random seed. PGFLEET_PROPERTY_SEED
// repeats the one world whose seed a failure printed.
package property
