package facts

import "io/fs"

// special are the bits of chmod(2) that Go keeps elsewhere in a FileMode.
var special = []struct {
	mode fs.FileMode
	bit  uint32
}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}}

// Mode returns the mode that chmod(2)'s bits stand for.
func Mode(bits uint32) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	for _, s := range special {
		if bits&s.bit != 0 {
			m |= s.mode
		}
	}
	return m
}

// ModeBits returns a mode as the bits of chmod(2), without the file's type.
func ModeBits(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for _, s := range special {
		if m&s.mode != 0 {
			bits |= s.bit
		}
	}
	return bits
}
