// Package e2e proves on the lab's real hosts what pgfleet promises. Its tests
// have the build tag lab and names that begin with TestLab; they run the
// program as a user would and judge by an independent look into the hosts, never
// by what the program says of itself.
package e2e
