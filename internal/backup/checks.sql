-- Prints what is in a database, as JSON lines that backup.ParseChecks reads, in the session that snapshot.sql
-- has begun: a line for each table, materialized view and sequence, and one for all large objects. Run by
-- psql -XAtq -v ON_ERROR_STOP=1 -v check=rows (with contents) or -v check=counts (without). What pg_dump leaves
-- out is left out: members of extensions, and unlogged tables on a standby.

-- A sum must not depend on how a client has things shown.
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET bytea_output = 'hex';
SET extra_float_digits = 1;
SET lc_monetary = 'C';
SET lc_numeric = 'C';
SET xmlbinary = 'base64';
SET xmloption = 'content';
SET quote_all_identifiers = off;
SET row_security = off;

-- Columns by name: a table that inherits may have them in another order once it was restored.
SELECT format('SELECT json_build_object(''relation'', %L, ''rows'', count(*), ''sum'', %s)::text FROM ONLY %I.%I t',
	format('"%s"."%s"', replace(n.nspname, '"', '""'), replace(c.relname, '"', '""')),
	CASE :'check' WHEN 'rows' THEN format('coalesce(sum(hashtextextended(ROW(%s)::text, 0)::numeric), 0)::text',
		(SELECT string_agg(format('t.%I', a.attname), ', ' ORDER BY a.attname COLLATE "C") FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
	ELSE 'NULL' END,
	n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND (c.relkind = 'r' OR c.relispopulated)
	AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	AND (c.relpersistence = 'p' OR c.relpersistence = 'u' AND NOT pg_is_in_recovery())
	AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
\gexec

-- What a sequence would give next: at first, and now.
SELECT json_build_object('sequence', format('"%s"."%s"', replace(n.nspname, '"', '""'), replace(c.relname, '"', '""')),
	'from', :'sequences_before'::json ->> v.seq::text, 'to', v.next::text)::text
FROM (:sequences) AS v(seq, next) JOIN pg_class c ON c.oid = v.seq JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C";

-- Piece by piece: an object may be larger than a value can be.
WITH RECURSIVE piece(lo, at, bytes, sum) AS (
	SELECT m.oid, 0::bigint, length(d.data), hashtextextended(m.oid || '/0/' || md5(d.data), 0)::numeric
	FROM pg_largeobject_metadata m, LATERAL (SELECT lo_get(m.oid, 0, 1048576) AS data OFFSET 0) d WHERE :'check' = 'rows'
	UNION ALL
	SELECT p.lo, p.at + 1048576, length(d.data), hashtextextended(p.lo || '/' || p.at + 1048576 || '/' || md5(d.data), 0)::numeric
	FROM piece p, LATERAL (SELECT lo_get(p.lo, p.at + 1048576, 1048576) AS data OFFSET 0) d WHERE p.bytes = 1048576
)
SELECT json_build_object('large_objects', (SELECT count(*) FROM pg_largeobject_metadata), 'sum', CASE :'check' WHEN 'rows' THEN coalesce(sum(sum), 0)::text END)::text FROM piece;

COMMIT;
