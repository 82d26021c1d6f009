// Package rollouts proves on a fleet of twelve real hosts, four replication
// clusters, how apply goes from host to host: what is down at the same time, when
// it stops, and what is lost. Its tests have the build tag lab; what pgfleet says
// is judged by a poller and by clients that know nothing of it.
package rollouts
