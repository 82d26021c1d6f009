package catalog

// A Statement is one change to a server's catalogs. The set is closed: the types
// of this package.
type Statement interface {
	// SQL is the statement without a semicolon, as it is shown and, but for
	// passwords, run. It holds no secret: a password is "••••" in it.
	SQL() string
	// Subject names what is changed, such as "role appuser" or
	// "table public.orders"; the same for every statement about one object.
	Subject() string
	// Alone reports whether the statement cannot run in a transaction block.
	Alone() bool
	// Apply makes the same change to the model. In names the database that it
	// runs in.
	Apply(c *Cluster, in string)
}
