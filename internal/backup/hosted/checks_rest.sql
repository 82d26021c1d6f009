-- The second part of the checks, in the transaction of the first: tables, materialized views and large objects as the snapshot has them. The
-- variable check is "rows" or "counts". What belongs to an extension is not dumped, and a standby cannot read unlogged tables.
SELECT format('SELECT jsonb_build_object(''relation'', %L, ''kind'', %L, ''rows'', count(*)%s) FROM ONLY %s AS "the row of pgfleet"', name, kind,
		CASE :'check' WHEN 'rows' THEN ', ''sum'', coalesce(sum(hashtextextended("the row of pgfleet"::text COLLATE "C", 0)::numeric), 0)::text' ELSE '' END, name)
	FROM (SELECT format('%I.%I', n.nspname, c.relname) AS name, CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'table' END AS kind
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'm') AND c.relispopulated
			AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'
			AND (c.relpersistence = 'p' OR c.relpersistence = 'u' AND NOT pg_is_in_recovery())
			AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')) x
	ORDER BY name COLLATE "C" \gexec
-- lo_get returns at most 1 GB, which are 524288 pages of 2 kB: larger ones are only counted.
SELECT jsonb_build_object('relation', '', 'kind', 'large objects', 'rows', count(*)) || CASE :'check' WHEN 'rows' THEN
		jsonb_build_object('sum', coalesce(sum(hashtextextended(oid::text || ' ' || CASE WHEN NOT EXISTS (
			SELECT FROM pg_largeobject l WHERE l.loid = m.oid AND l.pageno >= 500000) THEN md5(lo_get(m.oid)) ELSE '' END, 0)::numeric), 0)::text) ELSE '{}' END
	FROM pg_largeobject_metadata m;
COMMIT;
