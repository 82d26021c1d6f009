// Package certs has certificates and revocation lists of two minutes renewed on real
// hosts, and their CA replaced, by runs that are killed, while clients that prove
// themselves with a certificate log in all the while.
package certs
