// Package backup holds what is known of logical backups: the files of a set and
// its manifest, the state that a set is in, which sets are kept, the checksums of a
// database's contents, the targets that sets are kept in, and the run that the
// operator's machine drives.
//
// A set is a folder BACKUP/INSTANCE/ID of a target. Its files are encrypted with
// age; its manifest is written last, so that a set without one is not good.
package backup
