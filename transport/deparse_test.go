package transport

import "testing"

func TestCanonicalTree(t *testing.T) {
	for text, want := range map[string]string{
		"{VAR :varno 1 :location 12}": "{ VAR :varno 1 }",
		"{A :alias <> :eref {ALIAS :aliasname o :colnames (\"a b\" \"c\\)\")} :rtekind 0}": "{ A :rtekind 0 }",
		"{A :args ({X :location -1} {Y :funcformat\n2 :funccollid 0})\n:stmt_len 3}":       "{ A :args ( { X } { Y :funccollid 0 } ) }",
		"{C :location 87 :constvalue 5 [ 20 0 ]}":                                          "{ C :constvalue 5 [ 20 0 ] }",
		"{T :resname :resno 1}":  "{ T :resno 1 }",
		"{F :ctename a\\ b\\}c}": "{ F :ctename a\\ b\\}c }",
		"{E :eref":               "{ E", "": "", "\\": "\\",
	} {
		if got := canonicalTree(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
