package inventory

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSchemaOf(t *testing.T) {
	type inner struct {
		X int `toml:"x" required:"true"`
	}
	got := SchemaOf(struct {
		shared
		Name  Positioned[string] `toml:"name" required:"true" doc:"Its name."`
		Count int                `toml:"count" min:"1" max:"9"`
		Wait  time.Duration      `toml:"wait"`
		Words Strings            `toml:"words"`
		List  []*inner           `toml:"list"`
		Map   map[string]bool    `toml:"map"`
		Raw   *Node              `toml:"raw"`
		Other string
	}{})
	want := `{
		"type": "object", "additionalProperties": false, "required": ["name"],
		"properties": {
			"state": {"type": "string", "enum": ["present", "absent"]},
			"name": {"type": "string", "description": "Its name."},
			"count": {"type": "integer", "minimum": 1, "maximum": 9},
			"wait": {"type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"},
			"words": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
			"list": {"type": "array", "items": {"type": "object", "additionalProperties": false, "required": ["x"], "properties": {"x": {"type": "integer"}}}},
			"map": {"type": "object", "additionalProperties": {"type": "boolean"}},
			"raw": {}
		}
	}`
	compareJSON(t, want, got)
}

func TestFleetSchema(t *testing.T) {
	type settings struct {
		File    string `toml:"file" required:"true"`
		Restart bool   `toml:"restart"`
	}
	s := FleetSchema(map[string]any{"settings": &settings{}, "hba": reflect.TypeFor[struct{}]()}, struct{}{})
	properties := s["properties"].(map[string]any)
	for _, name := range namesOf(mainType) {
		if p, ok := properties[name].(map[string]any); !ok || p["description"] == nil {
			t.Errorf("%s has no description", name)
		}
	}
	defs := s["$defs"].(map[string]any)
	task := defs["task_settings"].(map[string]any)
	compareJSON(t, `["name", "kind", "file"]`, task["required"])
	compareJSON(t, `{"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "\\{\\{"}]}`, task["properties"].(map[string]any)["restart"])
	compareJSON(t, `{"const": "settings"}`, task["properties"].(map[string]any)["kind"])
	compareJSON(t, `[{"$ref": "#/$defs/task_hba"}, {"$ref": "#/$defs/task_settings"}]`,
		properties["task"].(map[string]any)["items"].(map[string]any)["oneOf"])
}

func compareJSON(t *testing.T, want string, got any) {
	t.Helper()
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var w, g any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Error(diff)
	}
}
