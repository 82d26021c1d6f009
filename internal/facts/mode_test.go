package facts

import "testing"

func TestModeBits(t *testing.T) {
	for bits := range uint32(0o10000) {
		if got := ModeBits(Mode(bits)); got != bits {
			t.Fatalf("%04o comes back as %04o", bits, got)
		}
	}
}
