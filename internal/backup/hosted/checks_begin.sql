-- The first part of the checks of a database: what psql -XAtq runs before pg_dump does. Each row of the output is one JSON object.
-- Sequences come first, because neither pg_dump nor this sees them in a snapshot: what pg_dump finds later is not behind what is said here.
\set ON_ERROR_STOP on
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
	WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout') \g /dev/null
SET client_encoding = 'UTF8';
SET search_path = pg_catalog;
SET row_security = off;
SET quote_all_identifiers = off;
SET DateStyle = 'ISO, MDY';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET bytea_output = 'hex';
SET extra_float_digits = 1;
SET lc_monetary = 'C';
SET xmloption = 'content';
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT format('SELECT jsonb_build_object(''relation'', %L, ''kind'', ''sequence'', ''last_value'', last_value, ''is_called'', is_called, ''increment'', %s) FROM %s',
		name, increment, name)
	FROM (SELECT format('%I.%I', n.nspname, c.relname) AS name, s.seqincrement AS increment
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid
		WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'
			AND (c.relpersistence = 'p' OR c.relpersistence = 'u' AND NOT pg_is_in_recovery())
			AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')) x
	ORDER BY name COLLATE "C" \gexec
