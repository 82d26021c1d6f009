-- A database in which everything is a little harder than usual. The variable rows is how many rows its largest table gets.
-- In the order in which they are restored: pg_dump has the roles of a policy in the order in which they were made.
CREATE ROLE "Odd Owner";
CREATE ROLE app;
CREATE ROLE grp;
CREATE ROLE "quote""r" LOGIN PASSWORD 'canary of a password';
GRANT grp TO app;
ALTER ROLE app SET work_mem = '8MB';
CREATE DATABASE "odd "" db é.x" OWNER "Odd Owner" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';
ALTER DATABASE "odd "" db é.x" SET search_path = 'sch.ema', public;
ALTER DATABASE "odd "" db é.x" SET default_transaction_read_only = on;
ALTER ROLE app IN DATABASE "odd "" db é.x" SET work_mem = '16MB';
GRANT CONNECT ON DATABASE "odd "" db é.x" TO "quote""r";
REVOKE ALL ON DATABASE "odd "" db é.x" FROM PUBLIC;
COMMENT ON DATABASE "odd "" db é.x" IS 'of DATABASE "odd "" db é.x"; \connect nowhere';
\connect -reuse-previous=on "dbname='odd "" db é.x' options='-c default_transaction_read_only=off'"
SET search_path = public;
CREATE EXTENSION pgcrypto;
CREATE EXTENSION pgaudit;
CREATE SCHEMA "sch.ema" AUTHORIZATION "quote""r";
CREATE TYPE "sch.ema"."en um" AS ENUM ('a', 'ü', '''');
CREATE TABLE "sch.ema"."line
break" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "na""me" text, x numeric, at timestamptz, e "sch.ema"."en um" DEFAULT 'ü', doc jsonb, f float8, b bytea);
ALTER TABLE "sch.ema"."line
break" OWNER TO app;
INSERT INTO "sch.ema"."line
break" ("na""me", x, at, doc, f, b) SELECT md5(i::text), i / 7.0, '2026-01-01'::timestamptz + i * interval '1 s', jsonb_build_object('i', i, 'é"', E'\n'), i / 3.0, decode(md5(i::text), 'hex')
	FROM generate_series(1, :rows) i;
CREATE POLICY "my to pol" ON "sch.ema"."line
break" FOR SELECT TO app, "quote""r" USING (x > 1000000000);
ALTER TABLE "sch.ema"."line
break" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "sch.ema"."line
break" FORCE ROW LEVEL SECURITY;
CREATE TABLE "Parts" (k int NOT NULL, v text, PRIMARY KEY (k)) PARTITION BY RANGE (k);
ALTER TABLE "Parts" OWNER TO "Odd Owner";
CREATE TABLE "Parts 1" PARTITION OF "Parts" FOR VALUES FROM (0) TO (100);
CREATE TABLE "Parts 2" PARTITION OF "Parts" FOR VALUES FROM (100) TO (1000) PARTITION BY HASH (k);
CREATE TABLE "Parts 2a" PARTITION OF "Parts 2" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE "Parts 2b" PARTITION OF "Parts 2" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO "Parts" SELECT i, repeat('x', i % 50) FROM generate_series(1, 999) i;
CREATE TABLE parent (a int, b text);
CREATE TABLE child (c date) INHERITS (parent);
INSERT INTO parent VALUES (1, 'p');
INSERT INTO child (a, b, c) VALUES (2, 'c', '2026-02-03');
CREATE UNLOGGED TABLE unlogged AS SELECT i FROM generate_series(1, 10) i;
CREATE SEQUENCE "my seq" INCREMENT 10 START 7 OWNED BY NONE;
SELECT nextval('"my seq"'), nextval('"my seq"') \g /dev/null
CREATE SEQUENCE "not yet" START 5;
CREATE FUNCTION f(i int) RETURNS int LANGUAGE plpgsql AS $f$ BEGIN RETURN i; -- \connect; "
END $f$;
CREATE VIEW v AS SELECT f(k) FROM "Parts";
CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n, sum(x) AS s FROM "sch.ema"."line
break";
CREATE MATERIALIZED VIEW "never yet" AS SELECT 1 AS one WITH NO DATA;
CREATE INDEX ON "Parts" (v);
ALTER DEFAULT PRIVILEGES FOR ROLE grp IN SCHEMA "sch.ema" GRANT SELECT ON TABLES TO "Odd Owner";
GRANT SELECT ("na""me") ON "sch.ema"."line
break" TO grp WITH GRANT OPTION;
SELECT lo_from_bytea(0, decode(repeat(md5(i::text), 100), 'hex')) FROM generate_series(1, 50) i \g /dev/null
SELECT lo_from_bytea(12345, decode(repeat(md5('large'), 200000), 'hex')) \g /dev/null
ALTER LARGE OBJECT 12345 OWNER TO app;
COMMENT ON TABLE "Parts" IS E'two\nlines; \\restrict x';
