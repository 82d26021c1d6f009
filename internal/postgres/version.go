package postgres

import "strconv"

// A Version is PostgreSQL's server_version_num: 150018 is 15.18. The zero value is an unknown version.
type Version int

// MajorVersion returns the Version of the first release of a major version: MajorVersion(15) is 150000.
func MajorVersion(major int) Version { return Version(major * 10000) }

// Major returns the major version: 15 for 150018.
func (v Version) Major() int { return int(v) / 10000 }

// Minor returns the minor version: 18 for 150018.
func (v Version) Minor() int { return int(v) % 10000 }

// String returns the version as people write it: "15.18", or "15" for the first number of a major version.
func (v Version) String() string {
	if v <= 0 {
		return "unknown"
	}
	if v.Minor() == 0 {
		return strconv.Itoa(v.Major())
	}
	return strconv.Itoa(v.Major()) + "." + strconv.Itoa(v.Minor())
}
