package records

// ParseRevoked reads the text of a [RevokedFile], whose path is for errors: mistakes
// have their positions ([inventory.Errors]).
func ParseRevoked(path string, text []byte) ([]Revocation, error) { return parseRevoked(path, text) }
