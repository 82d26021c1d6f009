// Package rotations rotates passwords on eight real hosts, four clusters of a
// primary and a standby, while clients that know nothing of it read the secret
// store and log in.
package rotations
