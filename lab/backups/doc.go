// Package backups makes backups on real hosts of every version, as their timers would, and restores them; and has every part of making one fail in
// turn. It is built with the tag lab alone.
package backups
