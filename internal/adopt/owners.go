package adopt

import (
	"maps"
	"slices"

	"github.com/pgfleet/pgfleet/internal/catalog"
)

// owners describes who owns tables, sequences and functions, where that is not
// the superuser: one task for each owner. What belongs to an extension, and the
// sequence of a column, has its owner from there.
func (d *describer) owners(c *catalog.Cluster, database string, held *catalog.Contents) {
	owned := map[string][]catalog.Object{}
	for _, r := range relations(held) {
		if r.Owner != c.Bootstrap && r.Extension == "" && r.PartOf == (catalog.Name{}) {
			owned[r.Owner] = append(owned[r.Owner], relationObject(r))
		}
	}
	for _, f := range functions(held) {
		if f.Owner != c.Bootstrap && f.Extension == "" {
			owned[f.Owner] = append(owned[f.Owner], functionObject(f))
		}
	}
	for _, owner := range slices.Sorted(maps.Keys(owned)) {
		t := described{name: "What " + owner + " owns in " + database, kind: "owner", roles: []string{owner}}
		t.add("database", literal(database))
		t.add("owner", literal(owner))
		for _, kind := range []catalog.Kind{catalog.Table, catalog.Sequence, catalog.Routine} {
			of := slices.DeleteFunc(slices.Clone(owned[owner]), func(o catalog.Object) bool { return o.Kind != kind })
			if len(of) > 0 {
				t.on(c, database, of)
			}
		}
		d.write(t)
	}
}
