package catalog

import (
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	c := sample()
	for _, x := range []struct {
		kind       Kind
		text, want string // the object or, in part, the error
	}{
		{DatabaseKind, "appdb", "DATABASE appdb"},
		{DatabaseKind, "apdb", `there is no database "apdb" (did you mean "appdb"?)`},
		{SchemaKind, "public", "SCHEMA public"},
		{SchemaKind, "publik", `there is no schema "publik" in database appdb (did you mean "public"?)`},
		{Table, "public.orders", "TABLE public.orders"},
		{Table, " PUBLIC . Orders ", "TABLE public.orders"},
		{Table, `"Odd Schema"."T.""1"`, `TABLE "Odd Schema"."T.""1"`},
		{Table, `public."orders"`, "TABLE public.orders"},
		{Table, `public."Orders"`, `there is no table public."Orders" in database appdb (did you mean "public.orders"?)`},
		{Table, "orders", "does not say its schema; write it as public.orders"},
		{Table, "pubic.orders", "there is no schema pubic (did you mean \"public\"?)"},
		{Table, "public.order s", "put what has blanks or signs in it into double quotes"},
		{Table, "a.b.c", "has 3 parts"},
		{Table, `public."x`, "a double quote has no end"},
		{Table, "public.", "is no name"},
		{Table, "public.orders_id_seq", "public.orders_id_seq is a sequence, not a table"},
		{Sequence, "public.orders_id_seq", "SEQUENCE public.orders_id_seq"},
		{Routine, "public.f(int, text)", "FUNCTION public.f(integer, text)"},
		{Routine, "public.f( INT4 ,TEXT )", "FUNCTION public.f(integer, text)"},
		{Routine, "public.f()", "FUNCTION public.f()"},
		{Routine, "public.f(mood)", "FUNCTION public.f(public.mood)"},
		{Routine, "public.f(varchar(20)[], timestamptz(3))", "FUNCTION public.f(character varying[], timestamp with time zone)"},
		{Routine, "public.f", "there are 4 functions public.f; say which: public.f(), public.f(character varying[], timestamp with time zone), "},
		{Routine, "public.f(bigint)", "there is no function public.f(bigint) in database appdb, but public.f(), "},
		{Routine, `"Odd Schema"."g("`, `FUNCTION "Odd Schema"."g("(numeric)`},
		{Routine, `"Odd Schema"."g("(decimal(10, 2))`, `FUNCTION "Odd Schema"."g("(numeric)`},
		{Routine, "public.g", `there is no function public.g in database appdb (did you mean "public.f"?)`},
		{Routine, "public.f(int", "has no closing bracket"},
	} {
		o, err := c.Find("appdb", x.kind, x.text)
		switch {
		case err == nil && o.String() != x.want:
			t.Errorf("%s: %s, want %s", x.text, o, x.want)
		case err != nil && !strings.Contains(err.Error(), x.want):
			t.Errorf("%s: %v\nwant %s", x.text, err, x.want)
		}
	}
	if _, err := c.Find("other", Table, "public.orders"); err == nil {
		t.Error("a table is found in a database that is not known")
	}
}

func TestTypeName(t *testing.T) {
	for text, want := range map[string]string{
		"int": "integer", "INT2": "smallint", "int8 []": "bigint[]", "int[][]": "integer[]", "bool": "boolean", "float4": "real", "float": "double precision",
		"float(24)": "real", "float(25)": "double precision", "decimal(1,2)": "numeric", "char": "character", `"char"`: `"char"`, "timestamp": "timestamp without time zone",
		"timestamp(3) with time zone": "timestamp with time zone", "time with time zone": "time with time zone", "timetz": "time with time zone",
		"pg_catalog.int4": "integer", "public.mood": "public.mood", `public."Mood"`: `public."Mood"`, "VARIADIC text[]": "text[]", "inout int": "integer",
		"double  precision": "double precision", "bit varying(3)": "bit varying", "varbit": "bit varying", "interval": "interval",
	} {
		if got := typeName(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestObjects(t *testing.T) {
	c := sample()
	var got []string
	for _, kind := range []Kind{Table, Sequence, Routine} {
		for _, o := range c.Objects("appdb", kind, "public") {
			got = append(got, o.String())
		}
	}
	want := "TABLE public.orders|TABLE public.orders_v|SEQUENCE public.orders_id_seq|FUNCTION public.f()|FUNCTION public.f(character varying[], timestamp with time zone)|" +
		"FUNCTION public.f(integer, text)|FUNCTION public.f(public.mood)"
	if strings.Join(got, "|") != want {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	if o := c.Objects("other", Table, "public"); o != nil {
		t.Error(o)
	}
}
