// Package rotations rotates passwords on eight real hosts, four clusters of a
// primary and a standby, while clients that know nothing of it read the secret
// store and log in; while pgfleet, the stores and the servers die at every point; and
// while everything that could say a password is searched for it.
package rotations
