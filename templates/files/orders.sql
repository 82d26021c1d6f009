-- An example. It runs once, as the owner of the tables ("as" in fleet.toml), while there is no
-- such table. Put your own in its place; what migrations make needs no task.
CREATE TABLE public.orders (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  integer NOT NULL DEFAULT NULLIF(current_setting('app.tenant', true), '')::int,
    item       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_tenant_id ON public.orders (tenant_id); -- every query looks for a tenant's
