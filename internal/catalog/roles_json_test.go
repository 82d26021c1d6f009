package catalog

import (
	"encoding/json"
	"testing"
)

// A saved plan holds a digest of each statement's JSON.
func TestSetPasswordJSON(t *testing.T) {
	if text, err := json.Marshal(SetPassword{Role: "postgres", None: true}); err != nil {
		t.Errorf("%s: %v", text, err)
	}
}
