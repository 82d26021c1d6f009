-- The second part of the checks, in the transaction of the first: tables, materialized views and large objects as the snapshot has them. The
-- variable check is "rows" or "counts". What belongs to an extension is not dumped, and a standby cannot read unlogged tables. Columns go by name:
-- a restored table that inherits may have them in another order.
SELECT $$SELECT format('SELECT jsonb_build_object(''relation'', %L, ''kind'', %L, ''rows'', count(*)%s) FROM ONLY %s AS "the row of pgfleet"', name, kind,
		CASE :'check' WHEN 'rows' THEN format(', ''sum'', coalesce(sum(hashtextextended(ROW(%s)::text COLLATE "C", 0)::numeric), 0)::text', columns) ELSE '' END, name)
	FROM (SELECT format('%I.%I', n.nspname, c.relname) AS name, CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'table' END AS kind,
			(SELECT string_agg(format('"the row of pgfleet".%I', a.attname), ', ' ORDER BY a.attname COLLATE "C")
				FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = $$ AS contents, $$ AND c.relispopulated
			AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'
			AND (c.relpersistence = 'p' OR c.relpersistence = 'u' AND NOT pg_is_in_recovery())
			AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')) x
	ORDER BY name COLLATE "C"$$ AS of_all \gset
:contents 'r' :of_all \gexec
-- Nobody locks materialized views, which would stop those who refresh them for as long as the dump takes. One that is gone by now, or is being refreshed, is left out.
\set ON_ERROR_ROLLBACK on
\set ON_ERROR_STOP off
:contents 'm' :of_all \gexec
\set ON_ERROR_STOP on
\set ON_ERROR_ROLLBACK off
-- Piece by piece: an object may be larger than a value can be.
WITH RECURSIVE piece(lo, at, bytes, sum) AS (
	SELECT m.oid, 0::bigint, length(d.data), hashtextextended(m.oid || '/0/' || md5(d.data), 0)::numeric
	FROM pg_largeobject_metadata m, LATERAL (SELECT lo_get(m.oid, 0, 1048576) AS data OFFSET 0) d WHERE :'check' = 'rows'
	UNION ALL
	SELECT p.lo, p.at + 1048576, length(d.data), hashtextextended(p.lo || '/' || p.at + 1048576 || '/' || md5(d.data), 0)::numeric
	FROM piece p, LATERAL (SELECT lo_get(p.lo, p.at + 1048576, 1048576) AS data OFFSET 0) d WHERE p.bytes = 1048576
)
SELECT jsonb_build_object('relation', '', 'kind', 'large objects', 'rows', (SELECT count(*) FROM pg_largeobject_metadata))
		|| CASE :'check' WHEN 'rows' THEN jsonb_build_object('sum', coalesce(sum(sum), 0)::text) ELSE '{}' END
	FROM piece;
COMMIT;
