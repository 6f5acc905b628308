-- Delivery: the processes, and what they remember of each other.

-- Not dumped: it is about processes that have ended.
CREATE TABLE inventory.delivery_mark (
	subscription_id integer NOT NULL,
	slice integer NOT NULL,
	position bigint NOT NULL,
	crashes integer NOT NULL,
	CONSTRAINT delivery_mark_pkey PRIMARY KEY (subscription_id, slice)
);
COMMENT ON TABLE inventory.delivery_mark IS 'Which message a delivery process is at, after one that has not ended by itself.';
COMMENT ON COLUMN inventory.delivery_mark.subscription_id IS 'The subscription.';
COMMENT ON COLUMN inventory.delivery_mark.slice IS 'The slice.';
COMMENT ON COLUMN inventory.delivery_mark.position IS 'The message''s position.';
COMMENT ON COLUMN inventory.delivery_mark.crashes IS 'Processes that have begun with it and not come back, the present one included.';
COMMENT ON INDEX inventory.delivery_mark_pkey IS 'Query: the mark of a slice.';
CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.delivery_mark
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

CREATE FUNCTION inventory.deliver(name text, max_messages bigint DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_deliver';
REVOKE ALL ON FUNCTION inventory.deliver(text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.deliver(text, bigint) IS
'Delivers what there is for a subscription to a sink in the database, in the caller''s transaction; returns how many messages. For databases without workers; error 55006 while a delivery process does it.';

CREATE FUNCTION inventory.stat_deliveries(
	OUT subscription_id integer, OUT slice integer, OUT pid integer, OUT state text,
	OUT delivered bigint, OUT failed bigint, OUT parked bigint, OUT dead bigint,
	OUT windows bigint, OUT backlog bigint, OUT lag_messages bigint, OUT behind_since timestamptz, OUT "position" bigint,
	OUT delivery_ms double precision, OUT delivery_ms_max double precision,
	OUT last_delivered_at timestamptz, OUT last_error text, OUT last_error_at timestamptz,
	OUT retry_at timestamptz) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_stat_deliveries';
REVOKE ALL ON FUNCTION inventory.stat_deliveries() FROM PUBLIC;
COMMENT ON FUNCTION inventory.stat_deliveries() IS 'Source of the view stat_delivery; last_error of the caller''s subscriptions only.';

CREATE VIEW inventory.stat_delivery AS
SELECT s.name AS subscription, d.slice, d.pid, d.state, d.delivered, d.failed, d.parked, d.dead,
	d.windows, d.backlog, d.lag_messages, clock_timestamp() - d.behind_since AS lag, d.position,
	d.delivery_ms, d.delivery_ms_max, d.last_delivered_at,
	d.last_error, d.last_error_at, d.retry_at
FROM inventory.subscription s JOIN inventory.stat_deliveries() d USING (subscription_id);
COMMENT ON VIEW inventory.stat_delivery IS 'One row per slice of a subscription: its delivery process, and what it has done since the start of the server.';
COMMENT ON COLUMN inventory.stat_delivery.subscription IS 'The subscription.';
COMMENT ON COLUMN inventory.stat_delivery.slice IS 'The slice, from 0.';
COMMENT ON COLUMN inventory.stat_delivery.pid IS 'The process; NULL while there is none.';
COMMENT ON COLUMN inventory.stat_delivery.state IS 'running; idle; backoff: the sink is down and is tried again at retry_at; broken: the endpoint or the handler has to be put right; stopped: paused, finished, or workers are off; crashed: the process failed and will be started again; no free worker process: see max_worker_processes.';
COMMENT ON COLUMN inventory.stat_delivery.delivered IS 'Messages delivered.';
COMMENT ON COLUMN inventory.stat_delivery.failed IS 'Attempts that failed, of messages and of the sink as a whole.';
COMMENT ON COLUMN inventory.stat_delivery.parked IS 'Messages that were parked, those behind others included.';
COMMENT ON COLUMN inventory.stat_delivery.dead IS 'Messages that were given up.';
COMMENT ON COLUMN inventory.stat_delivery.windows IS 'Windows with messages that were opened.';
COMMENT ON COLUMN inventory.stat_delivery.backlog IS 'Messages of the open window that are not delivered yet.';
COMMENT ON COLUMN inventory.stat_delivery.lag_messages IS 'The backlog, and what has been given a number since the process last looked: at most so many messages are not delivered yet. NULL: it has not looked since the start of the server.';
COMMENT ON COLUMN inventory.stat_delivery.lag IS 'How long the message that is being delivered has been waiting; NULL: none.';
COMMENT ON COLUMN inventory.stat_delivery.position IS 'The position up to which messages have been delivered or parked.';
COMMENT ON COLUMN inventory.stat_delivery.delivery_ms IS 'Milliseconds spent delivering.';
COMMENT ON COLUMN inventory.stat_delivery.delivery_ms_max IS 'Milliseconds that the longest batch took.';
COMMENT ON COLUMN inventory.stat_delivery.last_delivered_at IS 'When a message was last delivered.';
COMMENT ON COLUMN inventory.stat_delivery.last_error IS 'Why the sink was last seen failing; only for the owner of the subscription and that of the extension.';
COMMENT ON COLUMN inventory.stat_delivery.last_error_at IS 'When that was.';
COMMENT ON COLUMN inventory.stat_delivery.retry_at IS 'When a sink that is down is tried again.';
