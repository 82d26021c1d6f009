--
-- PostgreSQL database dump
--

\restrict abc

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: odd " db é.x; Type: DATABASE; Schema: -; Owner: Odd Owner
--

CREATE DATABASE "odd "" db é.x" WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C.UTF-8';


ALTER DATABASE "odd "" db é.x" OWNER TO "Odd Owner";

\unrestrict abc
\encoding SQL_ASCII
\connect -reuse-previous=on "dbname='odd "" db é.x'"
\restrict abc

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: DATABASE "odd "" db é.x"; Type: COMMENT; Schema: -; Owner: Odd Owner
--

COMMENT ON DATABASE "odd "" db é.x" IS 'to DATABASE "odd "" db é.x"; x';


--
-- Name: odd " db é.x; Type: DATABASE PROPERTIES; Schema: -; Owner: Odd Owner
--

ALTER DATABASE "odd "" db é.x" SET search_path TO 'a.b', 'public';
ALTER ROLE app IN DATABASE "odd "" db é.x" SET work_mem TO '16MB';


\unrestrict abc
\encoding SQL_ASCII
\connect -reuse-previous=on "dbname='odd "" db é.x'"
\restrict abc

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: sch.ema; Type: SCHEMA; Schema: -; Owner: quote"r
--

CREATE SCHEMA "sch.ema";


ALTER SCHEMA "sch.ema" OWNER TO "quote""r";

--
-- Name: pgcrypto; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS pgcrypto WITH SCHEMA public;


--
-- Name: EXTENSION pgcrypto; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION pgcrypto IS 'cryptographic functions';


--
-- Name: f(); Type: FUNCTION; Schema: public; Owner: postgres
--

CREATE FUNCTION public.f() RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT 1;
 SELECT 2;
END;


ALTER FUNCTION public.f() OWNER TO postgres;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: line break; Type: TABLE; Schema: sch.ema; Owner: app
--

CREATE TABLE "sch.ema"."line
break" (
    id bigint NOT NULL,
    "na""me" text,
    x numeric
);

ALTER TABLE ONLY "sch.ema"."line
break" FORCE ROW LEVEL SECURITY;


ALTER TABLE "sch.ema"."line
break" OWNER TO app;

--
-- Name: mv; Type: MATERIALIZED VIEW; Schema: public; Owner: postgres
--

CREATE MATERIALIZED VIEW public.mv AS
 SELECT count(*) AS count
   FROM "sch.ema"."line
break"
  WITH NO DATA;


ALTER TABLE public.mv OWNER TO postgres;

--
-- Name: line break_id_seq; Type: SEQUENCE; Schema: sch.ema; Owner: app
--

ALTER TABLE "sch.ema"."line
break" ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME "sch.ema"."line
break_id_seq"
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: line break line break_pkey; Type: CONSTRAINT; Schema: sch.ema; Owner: app
--

ALTER TABLE ONLY "sch.ema"."line
break"
    ADD CONSTRAINT "line
break_pkey" PRIMARY KEY (id);


--
-- Name: line break; Type: ROW SECURITY; Schema: sch.ema; Owner: app
--

ALTER TABLE "sch.ema"."line
break" ENABLE ROW LEVEL SECURITY;

--
-- Name: line break my to pol; Type: POLICY; Schema: sch.ema; Owner: app
--

CREATE POLICY "my to pol" ON "sch.ema"."line
break" FOR SELECT TO "quote""r", app USING ((x > (3)::numeric));


--
-- Name: DATABASE "odd "" db é.x"; Type: ACL; Schema: -; Owner: Odd Owner
--

GRANT CONNECT ON DATABASE "odd "" db é.x" TO "quote""r";


--
-- Name: DEFAULT PRIVILEGES FOR TABLES; Type: DEFAULT ACL; Schema: sch.ema; Owner: grp
--

ALTER DEFAULT PRIVILEGES FOR ROLE grp IN SCHEMA "sch.ema" GRANT SELECT ON TABLES  TO "Odd Owner";


--
-- Name: mv; Type: MATERIALIZED VIEW DATA; Schema: public; Owner: postgres
--

REFRESH MATERIALIZED VIEW public.mv;


--
-- PostgreSQL database dump complete
--

\unrestrict abc

