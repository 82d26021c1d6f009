// Package labtest is what the test packages have in common that run the program on
// hosts of a lab, as a user would: the lab, booted once for a package, and a folder
// with a fleet.toml. It is built with the tag lab alone.
package labtest
