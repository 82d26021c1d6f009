package transport

import (
	"encoding/json"
	"fmt"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// acls are the ACLs of a database by their text, a list in JSON. Thousands of
// objects have the same few, so each is taken apart once.
type acls map[string]catalog.ACL

// of returns the ACL of a column: nil for NULL.
func (a acls) of(text []byte) (catalog.ACL, error) {
	if text == nil {
		return nil, nil
	}
	if acl, ok := a[string(text)]; ok {
		return acl, nil
	}
	var items []string
	if err := json.Unmarshal(text, &items); err != nil {
		return nil, fmt.Errorf("an ACL cannot be read: %w", err)
	}
	acl, err := catalog.ParseACL(items)
	a[string(text)] = acl
	return acl, err
}
