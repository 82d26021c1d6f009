// Package crashes proves on real hosts what is left when pgfleet is killed: a
// primary, its standby and two hosts that stand alone go to and fro between two
// states that one fleet.toml declares, with every sort of step. Each run but the
// first ones is killed, with a real SIGKILL from outside, once its journal has a
// certain record, or some time after that. Then the hosts are looked at, past ssh
// and pgfleet, and the run is resumed. Its tests have the build tag lab.
package crashes
