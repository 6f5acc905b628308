\echo Use "ALTER EXTENSION inventory UPDATE TO '0.2'" to load this file. \quit

-- Made by scripts/upgrade-script; what is done by hand is in tables--0.1--0.2.sql.

SET LOCAL search_path TO pg_catalog, pg_temp;
SET LOCAL client_min_messages TO warning;

-- The server must have been restarted with the new library: the old one knows
-- neither the new functions nor what the new tables are for.
DO $$
BEGIN
	IF string_to_array(inventory.version(), '.')::integer[] < ARRAY[0, 2] THEN
		RAISE EXCEPTION 'the server runs version % of the library', inventory.version()
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Restart the server, then ALTER EXTENSION inventory UPDATE.';
	END IF;
END
$$;

ALTER TYPE inventory.event_type ADD VALUE 'rebuild';

ALTER TABLE inventory.location DROP CONSTRAINT location_parent_id_fkey;

ALTER TABLE inventory.stock
	ADD COLUMN snapshot_count bigint,
	ADD COLUMN recorded_from timestamptz,
	ADD COLUMN recorded_until timestamptz,
	ADD COLUMN is_short boolean,
	DROP CONSTRAINT stock_on_hand_not_negative,
	DROP CONSTRAINT stock_reserved_not_negative,
	DROP CONSTRAINT stock_committed_not_negative,
	SET (fillfactor = 70);

-- The indexes become the partitions' own: a partition that is detached takes its
-- indexes with it, and attached again it gets none from a table that has none.
DO $$
DECLARE
	partitions oid[];
	bounds text[];
	part record;
	index record;
BEGIN
	SELECT array_agg(c.oid ORDER BY c.relname), array_agg(pg_get_expr(c.relpartbound, c.oid) ORDER BY c.relname)
	INTO partitions, bounds
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'inventory.event'::regclass;
	FOR n IN 1 .. coalesce(cardinality(partitions), 0) LOOP
		EXECUTE format('ALTER TABLE inventory.event DETACH PARTITION %s', partitions[n]::regclass);
	END LOOP;
	DROP INDEX inventory.event_stock_id_xid_idx, inventory.event_xid_idx, inventory.event_event_id_idx;
	FOR part IN SELECT id, id::regclass AS name, b.bounds FROM unnest(partitions, bounds) AS b(id, bounds) LOOP
		EXECUTE format('ALTER TABLE inventory.event ATTACH PARTITION %s %s', part.name, part.bounds);
		EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER event_applied', part.name);
		EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER event_append_only', part.name);
		FOR index IN
			SELECT x.indexrelid::regclass AS name, CASE
				WHEN x.indnatts = 2 THEN 'the events of a stock item (level load, stock_level, history)'
				WHEN a.attname = 'xid' THEN 'the events of a range of transactions (the legs of a transfer; batches between two snapshots)'
				ELSE 'an event by its number (reverse)' END AS query
			FROM pg_index x JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
			WHERE x.indrelid = part.id
		LOOP
			EXECUTE format('COMMENT ON INDEX %s IS %L', index.name, 'Query: ' || index.query || '.');
		END LOOP;
	END LOOP;
END
$$;

DROP FUNCTION inventory.verify();

COMMENT ON COLUMN inventory.stock.snapshot_count IS 'Number of them at the last snapshot of the stock item; NULL before the first tick.';

COMMENT ON COLUMN inventory.stock.recorded_from IS 'Earliest recorded_at of the projected events since that snapshot; NULL when there are none.';

COMMENT ON COLUMN inventory.stock.recorded_until IS 'Latest recorded_at of all projected events.';

COMMENT ON COLUMN inventory.stock.is_short IS 'Whether the last message about it was a shortage; NULL before the first tick. Of other conditions than good there are none.';

-- While a dump is being loaded the foreign keys are not there: pg_restore -j
-- loads the tables of an extension in any order.  post_restore() makes them.
CREATE FUNCTION inventory.make_foreign_keys() RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	missing record;
BEGIN
	FOR missing IN
		SELECT * FROM (VALUES ('lot', 'sku'), ('stock', 'sku'), ('stock', 'location'), ('stock', 'lot')) k(from_table, to_table)
		WHERE NOT EXISTS (SELECT FROM pg_constraint c
			WHERE c.conrelid = format('inventory.%I', k.from_table)::regclass
				AND c.confrelid = format('inventory.%I', k.to_table)::regclass)
	LOOP
		EXECUTE format('ALTER TABLE inventory.%1$I ADD CONSTRAINT %1$s_%2$s_id_fkey FOREIGN KEY (%2$s_id) REFERENCES inventory.%2$I',
			missing.from_table, missing.to_table);
	END LOOP;
END
$$;

REVOKE ALL ON FUNCTION inventory.make_foreign_keys() FROM PUBLIC;

COMMENT ON FUNCTION inventory.make_foreign_keys() IS
'The engine''s own: makes the foreign keys that are not there.';

CREATE FUNCTION inventory.check_location_parent() RETURNS trigger
	LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_check_location_parent';

REVOKE ALL ON FUNCTION inventory.check_location_parent() FROM PUBLIC;

COMMENT ON FUNCTION inventory.check_location_parent() IS 'Trigger: the location that another one lies in exists.';

CREATE TRIGGER check_location_parent AFTER INSERT OR DELETE OR UPDATE OF location_id, parent_id ON inventory.location
	FOR EACH ROW EXECUTE FUNCTION inventory.check_location_parent();

-- The outbox: messages that transactions have published, append-only, in a ring
-- of tables.  A table of the ring is emptied as a whole when nobody needs its
-- messages any more, so nothing is ever updated, deleted or vacuumed.
--
-- Numbers of messages and events come from one sequence, so that a subscriber
-- of both has them in one order.

CREATE TABLE inventory.outbox (
	message_id bigint NOT NULL DEFAULT nextval('inventory.event_event_id_seq'),
	topic text COLLATE "C" NOT NULL,
	key text COLLATE "C",
	payload jsonb,
	headers jsonb,
	created_at timestamptz NOT NULL DEFAULT inventory.transaction_time(),
	xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
	segment smallint NOT NULL
) PARTITION BY LIST (segment);

COMMENT ON TABLE inventory.outbox IS
'Messages that have been published, append-only, until every subscription has passed them and inventory.outbox_retention is over.';

COMMENT ON COLUMN inventory.outbox.message_id IS 'Number of the message, from the same sequence as events.';

COMMENT ON COLUMN inventory.outbox.topic IS 'What it is about; what subscriptions choose by.';

COMMENT ON COLUMN inventory.outbox.key IS 'Messages with the same key are delivered in order; NULL: in any.';

COMMENT ON COLUMN inventory.outbox.payload IS 'The content.';

COMMENT ON COLUMN inventory.outbox.headers IS 'A JSON object of strings that goes with it.';

COMMENT ON COLUMN inventory.outbox.created_at IS 'The start of the publishing transaction.';

COMMENT ON COLUMN inventory.outbox.xid IS 'The publishing transaction.';

COMMENT ON COLUMN inventory.outbox.segment IS 'Which table of the ring it is in.';

-- Rows that logical replication brings are refused, too: their transactions
-- are those of another server.
CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.outbox
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

CREATE TRIGGER engine_only_row BEFORE INSERT ON inventory.outbox
	FOR EACH ROW EXECUTE FUNCTION inventory.engine_only();

ALTER TABLE inventory.outbox ENABLE ALWAYS TRIGGER engine_only_row;

DO $$
DECLARE
	col record;
BEGIN
	FOR n IN 0..7 LOOP
		EXECUTE format('CREATE TABLE inventory.outbox_%1$s PARTITION OF inventory.outbox FOR VALUES IN (%1$s)
			WITH (fillfactor = 100, autovacuum_enabled = off, toast.autovacuum_enabled = off)', n);
		EXECUTE format('CREATE INDEX outbox_%1$s_xid_idx ON inventory.outbox_%1$s (xid)', n);
		EXECUTE format('COMMENT ON TABLE inventory.outbox_%1$s IS %2$L', n, 'A table of the ring of messages.');
		EXECUTE format('COMMENT ON INDEX inventory.outbox_%1$s_xid_idx IS %2$L', n, 'Query: the messages of a range of transactions (delivery).');
		EXECUTE format('CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.outbox_%1$s
			FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only()', n);
		EXECUTE format('ALTER TABLE inventory.outbox_%1$s ENABLE ALWAYS TRIGGER engine_only_row', n);
		FOR col IN
			SELECT a.attname, col_description(a.attrelid, a.attnum) AS comment FROM pg_attribute a
			WHERE a.attrelid = 'inventory.outbox'::regclass AND a.attnum > 0
		LOOP
			EXECUTE format('COMMENT ON COLUMN inventory.outbox_%s.%I IS %L', n, col.attname, col.comment);
		END LOOP;
	END LOOP;
END
$$;

-- Not dumped: post_restore() derives it from the tables.
CREATE TABLE inventory.outbox_segment (
	segment smallint NOT NULL CONSTRAINT outbox_segment_pkey PRIMARY KEY,
	state text NOT NULL CONSTRAINT outbox_segment_state_check CHECK (state IN ('free', 'current', 'closed')),
	opened_at timestamptz,
	closed_at timestamptz
);

COMMENT ON TABLE inventory.outbox_segment IS 'The state of the ring of tables that messages are in. Read the view outbox_ring.';

COMMENT ON COLUMN inventory.outbox_segment.segment IS 'Which table of the ring: outbox_0 to outbox_7.';

COMMENT ON COLUMN inventory.outbox_segment.state IS 'current: it takes messages; closed: it is full or old enough; free: it has been emptied.';

COMMENT ON COLUMN inventory.outbox_segment.opened_at IS 'When it began to take messages.';

COMMENT ON COLUMN inventory.outbox_segment.closed_at IS 'When it ceased to take messages.';

COMMENT ON INDEX inventory.outbox_segment_pkey IS 'Query: none; no table is twice in the ring.';

INSERT INTO inventory.outbox_segment (segment, state, opened_at)
SELECT n, CASE n WHEN 0 THEN 'current' ELSE 'free' END, CASE n WHEN 0 THEN clock_timestamp() END
FROM generate_series(0, 7) n;

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.outbox_segment
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

CREATE FUNCTION inventory.publish(topic text, key text, payload jsonb, headers jsonb DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'inventory_publish';

REVOKE ALL ON FUNCTION inventory.publish(text, text, jsonb, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.publish(text, text, jsonb, jsonb) IS
'Publishes a message with the transaction: subscriptions of its topic get it after commit, those with the same key in order. The topic is words of letters, digits, _ and - with dots between them; those that begin with "inventory." are the engine''s. Headers are a JSON object of strings. Returns the number of the message. Errors: IV023 for a topic, key or headers that cannot be, 54000 above inventory.max_message_size.';

CREATE FUNCTION inventory.topic_interest(topics text[]) RETURNS bigint
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_topic_interest';

REVOKE ALL ON FUNCTION inventory.topic_interest(text[]) FROM PUBLIC;

COMMENT ON FUNCTION inventory.topic_interest(text[]) IS
'The engine''s own: what can match one of some patterns, as bits: the types of events in their order from bit 0, and bit 31 for messages that are not events.';

-- Transactions are compared as signed numbers, so those of restored messages,
-- from 2^63 on, are before all others; see restore.sql.
CREATE FUNCTION inventory.unread_by(log regclass) RETURNS text[]
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	parent constant regclass := (SELECT i.inhparent::regclass FROM pg_inherits i WHERE i.inhrelid = log);
	of_events constant boolean := parent = 'inventory.event'::regclass;
	statement constant text := format(
		'SELECT EXISTS (SELECT FROM %s v
			WHERE (v.xid >= $1 AND (v.xid < ''9223372036854775808'' OR $1 >= ''9223372036854775808'')
					OR v.xid < ''9223372036854775808'' AND $1 >= ''9223372036854775808'')
				AND NOT inventory.included(v.xid, $2) %s)',
		log, CASE WHEN of_events THEN 'AND v.type = ANY ($3)' END);
	cursor record;
	unread boolean;
	result text[];
BEGIN
	IF of_events IS NULL OR parent NOT IN ('inventory.event'::regclass, 'inventory.outbox'::regclass) THEN
		RAISE EXCEPTION '"%" is neither a table of messages nor a partition of events', log
			USING ERRCODE = 'wrong_object_type';
	END IF;
	FOR cursor IN
		SELECT s.name, coalesce(c.after, '9223372036854775811:9223372036854775811:') AS after, i.interest,
			ARRAY(SELECT t FROM unnest(enum_range(NULL::inventory.event_type)) WITH ORDINALITY e(t, n)
				WHERE (i.interest >> (n - 1)::integer) & 1 = 1) AS types
		FROM inventory.subscription s
		LEFT JOIN inventory.cursors() c USING (subscription_id)
		CROSS JOIN LATERAL inventory.topic_interest(s.topics) i(interest)
		WHERE s.state <> 'finished'
		ORDER BY s.name, c.slice
	LOOP
		CONTINUE WHEN cursor.name = ANY (result)
			OR CASE WHEN of_events THEN cursor.types = '{}' ELSE (cursor.interest >> 31) & 1 = 0 END;
		EXECUTE statement INTO unread USING pg_snapshot_xmin(cursor.after), cursor.after, cursor.types;
		IF unread THEN
			result := result || cursor.name;
		END IF;
	END LOOP;
	RETURN result;
END
$$;

REVOKE ALL ON FUNCTION inventory.unread_by(regclass) FROM PUBLIC;

COMMENT ON FUNCTION inventory.unread_by(regclass) IS
'The subscriptions that have not passed all that they want of a table of the ring of messages, or of an event partition; NULL: none.';

CREATE FUNCTION inventory.empty_segment(segment smallint) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	EXECUTE format('TRUNCATE inventory.outbox_%s', segment);
	UPDATE inventory.outbox_segment s SET state = 'free', opened_at = NULL, closed_at = NULL
	WHERE s.segment = empty_segment.segment;
END
$$;

REVOKE ALL ON FUNCTION inventory.empty_segment(smallint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.empty_segment(smallint) IS
'The engine''s own: empties a table of the ring of messages.';

CREATE VIEW inventory.outbox_ring AS
SELECT s.segment, s.state, pg_stat_get_live_tuples(t.oid) AS messages, pg_table_size(t.oid) AS bytes,
	s.opened_at, s.closed_at, u.subscriptions,
	CASE
		WHEN s.state <> 'closed' THEN NULL
		WHEN s.closed_at > inventory.clock_time() - current_setting('inventory.outbox_retention')::interval
			THEN 'inventory.outbox_retention'
		WHEN u.subscriptions IS NOT NULL THEN 'subscriptions'
		ELSE 'transactions'
	END AS held_by
FROM inventory.outbox_segment s
JOIN pg_class t ON t.oid = to_regclass('inventory.outbox_' || s.segment)
CROSS JOIN LATERAL inventory.unread_by(t.oid::regclass) u(subscriptions);

COMMENT ON VIEW inventory.outbox_ring IS 'The tables that messages are in, and why each is not emptied yet.';

COMMENT ON COLUMN inventory.outbox_ring.segment IS 'Which table of the ring: outbox_0 to outbox_7.';

COMMENT ON COLUMN inventory.outbox_ring.state IS 'current: it takes messages; closed: it is full or old enough; free: it has been emptied.';

COMMENT ON COLUMN inventory.outbox_ring.messages IS 'About how many messages it has.';

COMMENT ON COLUMN inventory.outbox_ring.bytes IS 'Its size.';

COMMENT ON COLUMN inventory.outbox_ring.opened_at IS 'When it began to take messages.';

COMMENT ON COLUMN inventory.outbox_ring.closed_at IS 'When it ceased to take messages.';

COMMENT ON COLUMN inventory.outbox_ring.subscriptions IS 'The subscriptions that have not passed all of its messages.';

COMMENT ON COLUMN inventory.outbox_ring.held_by IS 'What a closed one waits for: the retention, the subscriptions, or transactions: ones that use the table, or the next maintenance.';

SELECT pg_extension_config_dump('inventory.outbox_0', '');

SELECT pg_extension_config_dump('inventory.outbox_1', '');

SELECT pg_extension_config_dump('inventory.outbox_2', '');

SELECT pg_extension_config_dump('inventory.outbox_3', '');

SELECT pg_extension_config_dump('inventory.outbox_4', '');

SELECT pg_extension_config_dump('inventory.outbox_5', '');

SELECT pg_extension_config_dump('inventory.outbox_6', '');

SELECT pg_extension_config_dump('inventory.outbox_7', '');

-- Where external sinks are and how to get in: foreign servers and user mappings
-- of four foreign data wrappers, which have no handler, only the check of their
-- options.

CREATE FUNCTION inventory.http_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_http_validator';

REVOKE ALL ON FUNCTION inventory.http_validator(text[], oid) FROM PUBLIC;

COMMENT ON FUNCTION inventory.http_validator(text[], oid) IS
'The engine''s own: checks the options of a server or user mapping of inventory_http.';

CREATE FUNCTION inventory.rabbitmq_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_rabbitmq_validator';

REVOKE ALL ON FUNCTION inventory.rabbitmq_validator(text[], oid) FROM PUBLIC;

COMMENT ON FUNCTION inventory.rabbitmq_validator(text[], oid) IS
'The engine''s own: checks the options of a server or user mapping of inventory_rabbitmq.';

CREATE FUNCTION inventory.redis_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_redis_validator';

REVOKE ALL ON FUNCTION inventory.redis_validator(text[], oid) FROM PUBLIC;

COMMENT ON FUNCTION inventory.redis_validator(text[], oid) IS
'The engine''s own: checks the options of a server or user mapping of inventory_redis.';

CREATE FUNCTION inventory.kafka_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_kafka_validator';

REVOKE ALL ON FUNCTION inventory.kafka_validator(text[], oid) FROM PUBLIC;

COMMENT ON FUNCTION inventory.kafka_validator(text[], oid) IS
'The engine''s own: checks the options of a server or user mapping of inventory_kafka.';

CREATE FOREIGN DATA WRAPPER inventory_http VALIDATOR inventory.http_validator;

COMMENT ON FOREIGN DATA WRAPPER inventory_http IS 'Webhooks: messages are posted to a URL.';

CREATE FOREIGN DATA WRAPPER inventory_rabbitmq VALIDATOR inventory.rabbitmq_validator;

COMMENT ON FOREIGN DATA WRAPPER inventory_rabbitmq IS 'RabbitMQ: messages are published to an exchange.';

CREATE FOREIGN DATA WRAPPER inventory_redis VALIDATOR inventory.redis_validator;

COMMENT ON FOREIGN DATA WRAPPER inventory_redis IS 'Redis: messages go to streams or channels, or keep a cache right.';

CREATE FOREIGN DATA WRAPPER inventory_kafka VALIDATOR inventory.kafka_validator;

COMMENT ON FOREIGN DATA WRAPPER inventory_kafka IS 'Kafka: messages are produced to a topic.';

-- Subscriptions: who gets which messages, how far each has come, and what could
-- not be delivered.

CREATE SEQUENCE inventory.subscription_subscription_id_seq AS integer;

CREATE TABLE inventory.subscription (
	subscription_id integer NOT NULL DEFAULT nextval('inventory.subscription_subscription_id_seq')
		CONSTRAINT subscription_pkey PRIMARY KEY,
	name text COLLATE "C" NOT NULL CONSTRAINT subscription_name_key UNIQUE,
	owner regrole NOT NULL,
	topics text[] NOT NULL,
	sink text NOT NULL,
	options jsonb NOT NULL,
	workers integer NOT NULL,
	state text NOT NULL CONSTRAINT subscription_state_check CHECK (state IN ('active', 'paused', 'finished')),
	generation bigint NOT NULL,
	created_at timestamptz NOT NULL
);

ALTER SEQUENCE inventory.subscription_subscription_id_seq OWNED BY inventory.subscription.subscription_id;

COMMENT ON TABLE inventory.subscription IS 'Which messages go to which sink. Write through the functions; read the view stat_subscription.';

COMMENT ON COLUMN inventory.subscription.subscription_id IS 'Number of the subscription.';

COMMENT ON COLUMN inventory.subscription.name IS 'Its name.';

COMMENT ON COLUMN inventory.subscription.owner IS 'Who has made it; a handler runs as this role.';

COMMENT ON COLUMN inventory.subscription.topics IS 'Patterns of topics.';

COMMENT ON COLUMN inventory.subscription.sink IS 'function, notify, command, or the name of a foreign server.';

COMMENT ON COLUMN inventory.subscription.options IS 'As given, with the defaults filled in.';

COMMENT ON COLUMN inventory.subscription.workers IS 'Number of slices, each with a process and a cursor of its own; a key belongs to one.';

COMMENT ON COLUMN inventory.subscription.state IS 'active, paused, or finished (a replay that has reached its end).';

COMMENT ON COLUMN inventory.subscription.generation IS 'Goes up with every change, so that a delivery process sees it.';

COMMENT ON COLUMN inventory.subscription.created_at IS 'When it was made.';

COMMENT ON INDEX inventory.subscription_pkey IS 'Query: a subscription by its number (delivery).';

COMMENT ON INDEX inventory.subscription_name_key IS 'Query: a subscription by its name.';

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.subscription
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

-- Only ever inserted into; the two tables are emptied in turn.
CREATE TABLE inventory.delivery_cursor (
	subscription_id integer NOT NULL,
	slice integer NOT NULL,
	cursor_no bigint NOT NULL,
	after pg_snapshot NOT NULL,
	upto pg_snapshot,
	last_number bigint NOT NULL,
	position bigint NOT NULL,
	epoch integer NOT NULL,
	timeline integer NOT NULL,
	since timestamptz,
	until timestamptz,
	written_at timestamptz NOT NULL,
	segment smallint NOT NULL
) PARTITION BY LIST (segment);

COMMENT ON TABLE inventory.delivery_cursor IS 'How far each subscription has come: the row with the largest cursor_no counts.';

COMMENT ON COLUMN inventory.delivery_cursor.subscription_id IS 'The subscription.';

COMMENT ON COLUMN inventory.delivery_cursor.slice IS 'Which of its slices, from 0.';

COMMENT ON COLUMN inventory.delivery_cursor.cursor_no IS 'Goes up with every row of the slice.';

COMMENT ON COLUMN inventory.delivery_cursor.after IS 'The transactions whose messages have all been delivered or parked.';

COMMENT ON COLUMN inventory.delivery_cursor.upto IS 'The window that is being delivered: the transactions up to here; NULL: none.';

COMMENT ON COLUMN inventory.delivery_cursor.last_number IS 'Within the window, messages up to this number have been delivered or parked.';

COMMENT ON COLUMN inventory.delivery_cursor.position IS 'The position of the last message that was delivered or parked: epoch * 2^40 and a number without gaps.';

COMMENT ON COLUMN inventory.delivery_cursor.epoch IS 'Goes up when positions could be given again: after a failover, seek and restore.';

COMMENT ON COLUMN inventory.delivery_cursor.timeline IS 'The server''s timeline when it was written.';

COMMENT ON COLUMN inventory.delivery_cursor.since IS 'Messages created before this are passed over; NULL: none.';

COMMENT ON COLUMN inventory.delivery_cursor.until IS 'Of a replay: messages created from here on are passed over; NULL: none.';

COMMENT ON COLUMN inventory.delivery_cursor.written_at IS 'When the row was written.';

COMMENT ON COLUMN inventory.delivery_cursor.segment IS 'Which of the two tables it is in.';

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.delivery_cursor
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

DO $$
DECLARE
	col record;
BEGIN
	FOR n IN 0..1 LOOP
		EXECUTE format('CREATE TABLE inventory.delivery_cursor_%1$s PARTITION OF inventory.delivery_cursor FOR VALUES IN (%1$s)
			WITH (fillfactor = 100, autovacuum_enabled = off)', n);
		EXECUTE format('COMMENT ON TABLE inventory.delivery_cursor_%1$s IS %2$L', n, 'One of the two tables of cursors.');
		EXECUTE format('CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.delivery_cursor_%1$s
			FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only()', n);
		FOR col IN
			SELECT a.attname, col_description(a.attrelid, a.attnum) AS comment FROM pg_attribute a
			WHERE a.attrelid = 'inventory.delivery_cursor'::regclass AND a.attnum > 0
		LOOP
			EXECUTE format('COMMENT ON COLUMN inventory.delivery_cursor_%s.%I IS %L', n, col.attname, col.comment);
		END LOOP;
	END LOOP;
END
$$;

CREATE TABLE inventory.parked_message (
	subscription_id integer NOT NULL,
	position bigint NOT NULL,
	slice integer NOT NULL,
	state text NOT NULL CONSTRAINT parked_message_state_check CHECK (state IN ('retry', 'delayed', 'deferred', 'dead', 'skipped')),
	key text COLLATE "C",
	number bigint NOT NULL,
	id text NOT NULL,
	topic text COLLATE "C" NOT NULL,
	sku text,
	payload jsonb,
	headers jsonb,
	created_at timestamptz NOT NULL,
	attempts integer NOT NULL,
	due_at timestamptz,
	first_failed_at timestamptz,
	last_failed_at timestamptz,
	last_error text,
	CONSTRAINT parked_message_pkey PRIMARY KEY (subscription_id, position)
);

CREATE INDEX parked_message_due_idx ON inventory.parked_message (subscription_id, slice, due_at) WHERE state IN ('retry', 'delayed');

CREATE INDEX parked_message_key_idx ON inventory.parked_message (subscription_id, key, position) WHERE state IN ('retry', 'deferred');

COMMENT ON TABLE inventory.parked_message IS 'Messages that could not be delivered. Read the views parked and dead_letter.';

COMMENT ON COLUMN inventory.parked_message.subscription_id IS 'The subscription.';

COMMENT ON COLUMN inventory.parked_message.position IS 'The message''s position in it.';

COMMENT ON COLUMN inventory.parked_message.slice IS 'The slice that it belongs to.';

COMMENT ON COLUMN inventory.parked_message.state IS 'retry: failed, and tried again at due_at; delayed: its time has not come; deferred: waits behind one with the same key; dead: given up; skipped: given up by skip().';

COMMENT ON COLUMN inventory.parked_message.key IS 'The message''s key.';

COMMENT ON COLUMN inventory.parked_message.number IS 'Its number in the log.';

COMMENT ON COLUMN inventory.parked_message.id IS 'Its id.';

COMMENT ON COLUMN inventory.parked_message.topic IS 'Its topic.';

COMMENT ON COLUMN inventory.parked_message.sku IS 'The SKU that it is about, if any.';

COMMENT ON COLUMN inventory.parked_message.payload IS 'Its content.';

COMMENT ON COLUMN inventory.parked_message.headers IS 'Its headers.';

COMMENT ON COLUMN inventory.parked_message.created_at IS 'When it was published.';

COMMENT ON COLUMN inventory.parked_message.attempts IS 'How often it has been tried.';

COMMENT ON COLUMN inventory.parked_message.due_at IS 'When it is tried next.';

COMMENT ON COLUMN inventory.parked_message.first_failed_at IS 'When it first failed.';

COMMENT ON COLUMN inventory.parked_message.last_failed_at IS 'When it last failed.';

COMMENT ON COLUMN inventory.parked_message.last_error IS 'Why it last failed.';

COMMENT ON INDEX inventory.parked_message_pkey IS 'Query: a parked message by its position.';

COMMENT ON INDEX inventory.parked_message_due_idx IS 'Query: what is to be tried again next.';

COMMENT ON INDEX inventory.parked_message_key_idx IS 'Query: what waits behind a message of the same key, in order.';

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.parked_message
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

-- What a handler is called with.
CREATE TYPE inventory.message AS (
	id text,
	topic text,
	key text,
	payload jsonb,
	headers jsonb,
	created_at timestamptz,
	number bigint,
	position bigint,
	attempt integer,
	replayed boolean,
	subscription text
);

COMMENT ON TYPE inventory.message IS 'A message as a handler gets it: id and position are the same when it comes again.';

COMMENT ON COLUMN inventory.message.id IS 'Unique, and the same in every subscription.';

COMMENT ON COLUMN inventory.message.topic IS 'What it is about.';

COMMENT ON COLUMN inventory.message.key IS 'Messages with the same key come in order.';

COMMENT ON COLUMN inventory.message.payload IS 'The content.';

COMMENT ON COLUMN inventory.message.headers IS 'What the publisher gave with it.';

COMMENT ON COLUMN inventory.message.created_at IS 'When the publishing transaction began.';

COMMENT ON COLUMN inventory.message.number IS 'Its number in the log.';

COMMENT ON COLUMN inventory.message.position IS 'Its position in the subscription, strictly increasing.';

COMMENT ON COLUMN inventory.message.attempt IS 'How often it has been tried, this time included.';

COMMENT ON COLUMN inventory.message.replayed IS 'Whether it comes from replay().';

COMMENT ON COLUMN inventory.message.subscription IS 'The name of the subscription.';

CREATE FUNCTION inventory.topic_matches(pattern text, topic text) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_topic_matches';

REVOKE ALL ON FUNCTION inventory.topic_matches(text, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.topic_matches(text, text) IS
'Whether a pattern of a subscription matches a topic: "*" stands for one word between dots, "#" for any number of words. An error if it is not a pattern.';

-- The functions run as their caller: whose rights count is who calls.

CREATE FUNCTION inventory.subscribe(name text, topics text[], sink text, options jsonb DEFAULT '{}') RETURNS integer
	LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_subscribe';

REVOKE ALL ON FUNCTION inventory.subscribe(text, text[], text, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.subscribe(text, text[], text, jsonb) IS
'Delivers the messages whose topics match one of the patterns ("*" one word, "#" any number) to a sink: function (option handler: schema.function), notify (option channel), or a foreign server. The caller owns the subscription and needs EXECUTE on the handler or USAGE on the server. Returns its number.';

CREATE FUNCTION inventory.unsubscribe(name text) RETURNS void
	LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_unsubscribe';

REVOKE ALL ON FUNCTION inventory.unsubscribe(text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.unsubscribe(text) IS
'Removes a subscription, what is parked and its dead letters.';

CREATE FUNCTION inventory.pause(name text) RETURNS void
	LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_pause';

REVOKE ALL ON FUNCTION inventory.pause(text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.pause(text) IS
'Stops delivering a subscription until resume(). What it has not had yet is kept.';

CREATE FUNCTION inventory.resume(name text) RETURNS void
	LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_resume';

REVOKE ALL ON FUNCTION inventory.resume(text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.resume(text) IS
'Goes on with a paused subscription, where it was; an error if its sink is gone or its owner may not use it any more.';

CREATE FUNCTION inventory.seek(name text, "to" text) RETURNS void
	LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_seek';

REVOKE ALL ON FUNCTION inventory.seek(text, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.seek(text, text) IS
'Moves a subscription: to earliest (everything that is kept), now, or the messages since a time. What is parked stays parked. Positions go on higher than all before.';

CREATE FUNCTION inventory.skip(name text, "position" bigint) RETURNS void
	LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_skip';

REVOKE ALL ON FUNCTION inventory.skip(text, bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.skip(text, bigint) IS
'Gives a parked message up, so that those behind it with the same key go on. It is among the dead letters then.';

CREATE FUNCTION inventory.redrive(name text, "position" bigint DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_redrive';

REVOKE ALL ON FUNCTION inventory.redrive(text, bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.redrive(text, bigint) IS
'Tries dead messages again, at once and with as many attempts as a new one: all of the subscription, or the one at a position, which may also be a skipped or a parked one. Returns how many.';

CREATE FUNCTION inventory.discard(name text, "position" bigint DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_discard';

REVOKE ALL ON FUNCTION inventory.discard(text, bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.discard(text, bigint) IS
'Removes dead letters: all of the subscription, or the one at a position. Returns how many.';

CREATE FUNCTION inventory.replay(name text, sink text, since timestamptz, until timestamptz DEFAULT NULL, options jsonb DEFAULT '{}') RETURNS text
	LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_replay';

REVOKE ALL ON FUNCTION inventory.replay(text, text, timestamptz, timestamptz, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.replay(text, text, timestamptz, timestamptz, jsonb) IS
'Delivers the messages of a subscription once more, those published from since until before until (NULL: now), to another sink or the same, marked as replayed. The subscription itself goes on. Returns the name of the one that does it; it is finished when all has been delivered.';

-- Where each subscription is.
CREATE FUNCTION inventory.cursors() RETURNS SETOF inventory.delivery_cursor
	LANGUAGE c VOLATILE ROWS 10 SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_cursors';

REVOKE ALL ON FUNCTION inventory.cursors() FROM PUBLIC;

COMMENT ON FUNCTION inventory.cursors() IS
'The rows of delivery_cursor that count: the latest of each slice of each subscription, as committed now.';

-- Payloads are shown to the owner of the subscription, and to that of the
-- extension; superusers have all roles.
CREATE FUNCTION inventory.may_read(owner regrole) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT pg_has_role(owner::oid, 'USAGE')
		OR pg_has_role((SELECT x.extowner FROM pg_extension x WHERE x.extname = 'inventory'), 'USAGE')
$$;

REVOKE ALL ON FUNCTION inventory.may_read(regrole) FROM PUBLIC;

COMMENT ON FUNCTION inventory.may_read(regrole) IS
'The engine''s own: whether the caller sees the messages of an owner''s subscriptions.';

CREATE VIEW inventory.parked WITH (security_barrier) AS
SELECT s.name AS subscription, p.position, p.state, p.key, p.topic, p.attempts, p.due_at,
	p.first_failed_at, p.last_failed_at, p.last_error, p.id, p.created_at, p.payload, p.headers
FROM inventory.parked_message p
JOIN inventory.subscription s USING (subscription_id)
WHERE p.state IN ('retry', 'delayed', 'deferred') AND inventory.may_read(s.owner);

COMMENT ON VIEW inventory.parked IS 'Messages that are to be delivered later: after a failure, or behind one with the same key. Of the caller''s subscriptions; all for the owner of the extension.';

CREATE VIEW inventory.dead_letter WITH (security_barrier) AS
SELECT s.name AS subscription, p.position, p.state, p.key, p.topic, p.attempts,
	p.first_failed_at, p.last_failed_at, p.last_error, p.id, p.created_at, p.payload, p.headers
FROM inventory.parked_message p
JOIN inventory.subscription s USING (subscription_id)
WHERE p.state IN ('dead', 'skipped') AND inventory.may_read(s.owner);

COMMENT ON VIEW inventory.dead_letter IS 'Messages that were given up. Of the caller''s subscriptions; all for the owner of the extension.';

DO $$
DECLARE
	col record;
BEGIN
	FOR col IN
		SELECT v.viewname, c.name, c.comment
		FROM (VALUES ('parked'), ('dead_letter')) v(viewname),
			(VALUES ('subscription', 'The subscription.'),
				('position', 'The message''s position in it; skip(), redrive() and discard() take it.'),
				('state', 'retry: tried again at due_at; delayed: its time has not come; deferred: waits behind one with the same key; dead: given up; skipped: given up by skip().'),
				('key', 'The message''s key.'),
				('topic', 'Its topic.'),
				('attempts', 'How often it has been tried.'),
				('due_at', 'When it is tried next.'),
				('first_failed_at', 'When it first failed.'),
				('last_failed_at', 'When it last failed.'),
				('last_error', 'Why it last failed.'),
				('id', 'Its id.'),
				('created_at', 'When it was published.'),
				('payload', 'Its content.'),
				('headers', 'Its headers.')) c(name, comment)
	LOOP
		IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = format('inventory.%I', col.viewname)::regclass AND a.attname = col.name) THEN
			EXECUTE format('COMMENT ON COLUMN inventory.%I.%I IS %L', col.viewname, col.name, col.comment);
		END IF;
	END LOOP;
END
$$;

SELECT pg_extension_config_dump('inventory.subscription', '');

SELECT pg_extension_config_dump('inventory.subscription_subscription_id_seq', '');

SELECT pg_extension_config_dump('inventory.delivery_cursor_0', '');

SELECT pg_extension_config_dump('inventory.delivery_cursor_1', '');

SELECT pg_extension_config_dump('inventory.parked_message', '');

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

-- Subscriptions at a glance: what the delivery processes say, what is parked,
-- and what is wrong before any process has tried.

CREATE VIEW inventory.stat_subscription AS
SELECT s.name AS subscription, s.owner, s.topics, s.sink,
	CASE WHEN s.state <> 'active' THEN s.state
		WHEN NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.owner)
			OR s.sink = 'function' AND NOT EXISTS (SELECT FROM pg_proc p
				JOIN pg_namespace n ON n.oid = p.pronamespace, parse_ident(s.options->>'handler') h(name)
				WHERE n.nspname = h.name[1] AND p.proname = h.name[2]
					AND p.pronargs = 1 AND p.proargtypes[0] = 'inventory.message'::regtype)
			OR s.sink NOT IN ('function', 'notify', 'command')
				AND NOT EXISTS (SELECT FROM pg_foreign_server f WHERE f.srvname = s.sink)
			THEN 'broken'
		ELSE coalesce((ARRAY['broken', 'crashed', 'no free worker process', 'backoff', 'running', 'idle'])[d.state],
			'stopped') END AS state,
	s.workers, coalesce(d.processes, 0) AS processes,
	coalesce(d.delivered, 0) AS delivered, coalesce(d.failed, 0) AS failed,
	coalesce(d.backlog, 0) AS backlog, d.lag_messages,
	extract(epoch FROM clock_timestamp() - d.behind_since)::double precision AS lag_seconds,
	coalesce(p.parked, 0) AS parked, coalesce(p.blocked_keys, 0) AS blocked_keys,
	coalesce(p.dead, 0) AS dead,
	d.last_delivered_at, d.last_error_at, d.retry_at,
	d.last_error
FROM inventory.subscription s
LEFT JOIN (
	SELECT t.subscription_id,
		min(array_position(ARRAY['broken', 'crashed', 'no free worker process', 'backoff', 'running', 'idle'], t.state)) AS state,
		count(t.pid) AS processes, sum(t.delivered)::bigint AS delivered, sum(t.failed)::bigint AS failed,
		sum(t.backlog)::bigint AS backlog, max(t.lag_messages) AS lag_messages, min(t.behind_since) AS behind_since,
		max(t.last_delivered_at) AS last_delivered_at, max(t.last_error_at) AS last_error_at,
		min(t.retry_at) AS retry_at,
		(array_agg(t.last_error ORDER BY t.last_error_at DESC NULLS LAST))[1] AS last_error
	FROM inventory.stat_deliveries() t GROUP BY t.subscription_id
) d USING (subscription_id)
LEFT JOIN (
	SELECT m.subscription_id, count(*) FILTER (WHERE m.state IN ('retry', 'delayed', 'deferred')) AS parked,
		count(DISTINCT m.key) FILTER (WHERE m.state IN ('retry', 'deferred')) AS blocked_keys,
		count(*) FILTER (WHERE m.state IN ('dead', 'skipped')) AS dead
	FROM inventory.parked_message m GROUP BY m.subscription_id
) p USING (subscription_id);

COMMENT ON VIEW inventory.stat_subscription IS 'One row per subscription: how its delivery is. What is counted is since the start of the server; what is parked and dead is as the tables have it.';

COMMENT ON COLUMN inventory.stat_subscription.subscription IS 'Its name.';

COMMENT ON COLUMN inventory.stat_subscription.owner IS 'Whose rights count on the sink.';

COMMENT ON COLUMN inventory.stat_subscription.topics IS 'Patterns of topics.';

COMMENT ON COLUMN inventory.stat_subscription.sink IS 'function, notify, command, or a foreign server.';

COMMENT ON COLUMN inventory.stat_subscription.state IS 'paused; finished; broken: the handler, the server or the owner is gone, or the sink refuses the configuration; or the state of the slice that is worst off, as in stat_delivery.';

COMMENT ON COLUMN inventory.stat_subscription.workers IS 'Number of its slices.';

COMMENT ON COLUMN inventory.stat_subscription.processes IS 'Number of them that have a process now.';

COMMENT ON COLUMN inventory.stat_subscription.delivered IS 'Messages delivered.';

COMMENT ON COLUMN inventory.stat_subscription.failed IS 'Attempts that failed.';

COMMENT ON COLUMN inventory.stat_subscription.backlog IS 'Messages of the open window that are not delivered yet.';

COMMENT ON COLUMN inventory.stat_subscription.lag_messages IS 'At most so many messages are not delivered yet: the backlog, and all that has been published since the process last looked; of several slices, the one that is furthest behind.';

COMMENT ON COLUMN inventory.stat_subscription.lag_seconds IS 'How long the oldest message that is being delivered has been waiting; NULL: none.';

COMMENT ON COLUMN inventory.stat_subscription.parked IS 'Messages that are to be tried again, or wait behind one.';

COMMENT ON COLUMN inventory.stat_subscription.blocked_keys IS 'Keys whose messages wait.';

COMMENT ON COLUMN inventory.stat_subscription.dead IS 'Messages that were given up.';

COMMENT ON COLUMN inventory.stat_subscription.last_delivered_at IS 'When a message was last delivered.';

COMMENT ON COLUMN inventory.stat_subscription.last_error_at IS 'When an attempt last failed.';

COMMENT ON COLUMN inventory.stat_subscription.retry_at IS 'When a sink that is down is tried again.';

COMMENT ON COLUMN inventory.stat_subscription.last_error IS 'Why; for the owner of the subscription and of the extension.';

-- The monthly partitions of the event table.  The engine calls
-- make_partitions() by itself when the months ahead run short; they are made
-- outside the extension's membership, so that pg_dump carries their rows.

CREATE OR REPLACE FUNCTION inventory.make_partition(month date) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET client_min_messages = warning
AS $$
DECLARE
	first_day date := date_trunc('month', month::timestamp)::date;
	next_first_day date := (date_trunc('month', month::timestamp) + interval '1 month')::date;
	partition_name text := 'event_' || to_char(first_day, 'YYYY_MM');
	name text;
	definition text;
	query text;
BEGIN
	-- Not in the way of writers; in the way of another maker.
	LOCK TABLE ONLY inventory.event IN SHARE UPDATE EXCLUSIVE MODE;
	IF to_regclass(format('inventory.%I', partition_name)) IS NOT NULL THEN
		RETURN false;
	END IF;
	EXECUTE format('CREATE TABLE inventory.%I (LIKE inventory.event INCLUDING DEFAULTS INCLUDING COMMENTS)',
		partition_name);
	-- Vacuum summarizes the index on event_id, so that reverse() finds events.
	EXECUTE format('ALTER TABLE inventory.%I SET (autovacuum_vacuum_insert_scale_factor = 0.02)',
		partition_name);
	EXECUTE format('REVOKE ALL ON inventory.%I FROM PUBLIC', partition_name);
	EXECUTE format('COMMENT ON TABLE inventory.%I IS %L', partition_name,
		'Events recorded in ' || to_char(first_day, 'YYYY-MM') || ' (UTC).');
	FOR name, definition, query IN VALUES
		('stock_id_xid', '(stock_id, xid)', 'the events of a stock item (level load, stock_level, history)'),
		('xid', '(xid)', 'the events of a range of transactions (the legs of a transfer; batches between two snapshots)'),
		('event_id', 'USING brin (event_id) WITH (pages_per_range = 16)', 'an event by its number (reverse)')
	LOOP
		EXECUTE format('CREATE INDEX %I ON inventory.%I %s', partition_name || '_' || name || '_idx', partition_name, definition);
		EXECUTE format('COMMENT ON INDEX inventory.%I IS %L', partition_name || '_' || name || '_idx', 'Query: ' || query || '.');
	END LOOP;
	EXECUTE format('ALTER TABLE inventory.event ATTACH PARTITION inventory.%I FOR VALUES FROM (%L) TO (%L)',
		partition_name, first_day::timestamp AT TIME ZONE 'UTC', next_first_day::timestamp AT TIME ZONE 'UTC');
	-- Statement triggers are not cloned to partitions, and the clones of row
	-- triggers must fire always too.
	EXECUTE format('CREATE TRIGGER event_no_truncate BEFORE TRUNCATE ON inventory.%I FOR EACH STATEMENT EXECUTE FUNCTION inventory.event_append_only()',
		partition_name);
	EXECUTE format('ALTER TABLE inventory.%I ENABLE ALWAYS TRIGGER event_no_truncate', partition_name);
	EXECUTE format('ALTER TABLE inventory.%I ENABLE ALWAYS TRIGGER event_applied', partition_name);
	EXECUTE format('ALTER TABLE inventory.%I ENABLE ALWAYS TRIGGER event_append_only', partition_name);
	RETURN true;
END
$$;

-- Ticks and snapshots: what the projection has written down.  A tick is a
-- recorded MVCC snapshot; the events visible in it and not in the tick before
-- are its batch, exactly, whatever order transactions have committed in.

CREATE TABLE inventory.tick (
	tick_id bigint NOT NULL CONSTRAINT tick_pkey PRIMARY KEY,
	ticked_at timestamptz NOT NULL,
	snapshot pg_snapshot NOT NULL,
	events bigint NOT NULL,
	snapshots bigint NOT NULL,
	key_id text,
	hash bytea NOT NULL
);

COMMENT ON TABLE inventory.tick IS
'Batches of events that have been added to the stock rows. Written only when there are events.';

COMMENT ON COLUMN inventory.tick.tick_id IS 'Number of the tick, from 1, without gaps until old ones are thinned.';

COMMENT ON COLUMN inventory.tick.ticked_at IS 'When it was written.';

COMMENT ON COLUMN inventory.tick.snapshot IS 'The transactions whose events are in this tick or one before it.';

COMMENT ON COLUMN inventory.tick.events IS 'Number of events in the batch.';

COMMENT ON COLUMN inventory.tick.snapshots IS 'Number of rows of the table snapshot that were made at this tick.';

COMMENT ON COLUMN inventory.tick.key_id IS 'Which inventory.hash_key the hash was made with: the first 16 digits of the key''s SHA-256; NULL for none.';

COMMENT ON COLUMN inventory.tick.hash IS 'SHA-256 (HMAC-SHA-256 with a key) of the hash before and the events of the batch.';

COMMENT ON INDEX inventory.tick_pkey IS 'Query: the latest tick (stock_level, level load), and a tick by its number (history, verify).';

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.tick
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

CREATE TABLE inventory.snapshot (
	stock_id bigint NOT NULL,
	tick_id bigint NOT NULL,
	previous_tick_id bigint,
	on_hand bigint NOT NULL,
	reserved bigint NOT NULL,
	committed bigint NOT NULL,
	event_count bigint NOT NULL,
	recorded_from timestamptz NOT NULL,
	recorded_until timestamptz NOT NULL,
	late boolean NOT NULL,
	CONSTRAINT snapshot_pkey PRIMARY KEY (stock_id, tick_id)
);

CREATE INDEX snapshot_stock_id_recorded_until_idx ON inventory.snapshot (stock_id, recorded_until, tick_id);

CREATE INDEX snapshot_late_idx ON inventory.snapshot (stock_id, recorded_from) WHERE late;

COMMENT ON TABLE inventory.snapshot IS
'What a stock item came to at a tick: every inventory.snapshot_events events, and once a day. History starts from the last one before the moment asked for.';

COMMENT ON COLUMN inventory.snapshot.stock_id IS 'The stock item.';

COMMENT ON COLUMN inventory.snapshot.tick_id IS 'The tick; its batch is included.';

COMMENT ON COLUMN inventory.snapshot.previous_tick_id IS 'The tick of the stock item''s snapshot before this one; NULL for the first.';

COMMENT ON COLUMN inventory.snapshot.on_hand IS 'Sum of on_hand_delta up to the tick, in base units.';

COMMENT ON COLUMN inventory.snapshot.reserved IS 'Sum of reserved_delta up to the tick, in base units.';

COMMENT ON COLUMN inventory.snapshot.committed IS 'Sum of committed_delta up to the tick, in base units.';

COMMENT ON COLUMN inventory.snapshot.event_count IS 'Number of events up to the tick.';

COMMENT ON COLUMN inventory.snapshot.recorded_from IS 'Earliest recorded_at of the events since the snapshot before.';

COMMENT ON COLUMN inventory.snapshot.recorded_until IS 'Latest recorded_at of all events up to the tick.';

COMMENT ON COLUMN inventory.snapshot.late IS 'Whether an event since the snapshot before was recorded earlier than what the snapshot two before includes: its transaction was open for that long.';

COMMENT ON INDEX inventory.snapshot_pkey IS 'Query: the snapshots of a stock item in order (projection, history, verify).';

COMMENT ON INDEX inventory.snapshot_stock_id_recorded_until_idx IS 'Query: the last snapshot of a stock item before a moment (stock_at).';

COMMENT ON INDEX inventory.snapshot_late_idx IS 'Query: the snapshots of a stock item with events from long before (stock_at).';

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.snapshot
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

SELECT pg_extension_config_dump('inventory.tick', '');

SELECT pg_extension_config_dump('inventory.snapshot', '');

CREATE INDEX reservation_expires_at_idx ON inventory.reservation (expires_at);

COMMENT ON INDEX inventory.reservation_expires_at_idx IS 'Query: the next deadline of all, and the holds past theirs (expiry, views).';

-- Reading.  One definition of available, used by every reader:
--
--   available = on hand - reserved - committed - safety stock
--
-- of a stock item that can be promised (good, its SKU, location and lot usable).
-- A stock item that cannot be promised has none available; one that holds and
-- owes nothing keeps no safety stock.  A hold past its deadline is not reserved.

CREATE OR REPLACE FUNCTION inventory.available_of(
	on_hand bigint, reserved bigint, committed bigint, safety_stock bigint, promisable boolean
) RETURNS bigint
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'inventory_available_of';

-- What is beyond the stock row of a stock item, for the views below.
CREATE FUNCTION inventory.tail_on_hand(stock_id bigint) RETURNS bigint
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10
	AS 'MODULE_PATHNAME', 'inventory_tail_on_hand';

CREATE FUNCTION inventory.tail_reserved(stock_id bigint) RETURNS bigint
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10
	AS 'MODULE_PATHNAME', 'inventory_tail_reserved';

CREATE FUNCTION inventory.tail_committed(stock_id bigint) RETURNS bigint
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10
	AS 'MODULE_PATHNAME', 'inventory_tail_committed';

CREATE FUNCTION inventory.tail_event_count(stock_id bigint) RETURNS bigint
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10
	AS 'MODULE_PATHNAME', 'inventory_tail_event_count';

REVOKE ALL ON FUNCTION inventory.tail_on_hand(bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION inventory.tail_reserved(bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION inventory.tail_committed(bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION inventory.tail_event_count(bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.tail_on_hand(bigint) IS 'Sum of on_hand_delta, in base units, of the events that the stock row does not include yet, as of the caller''s snapshot.';

COMMENT ON FUNCTION inventory.tail_reserved(bigint) IS 'Sum of reserved_delta, in base units, of the events that the stock row does not include yet, less the holds past their deadline, as of the caller''s snapshot.';

COMMENT ON FUNCTION inventory.tail_committed(bigint) IS 'Sum of committed_delta, in base units, of the events that the stock row does not include yet, as of the caller''s snapshot.';

COMMENT ON FUNCTION inventory.tail_event_count(bigint) IS 'Number of events that the stock row does not include yet, as of the caller''s snapshot.';

CREATE OR REPLACE VIEW inventory.stock_level AS
SELECT k.stock_id, s.sku, l.location, t.lot, k.condition,
	q.on_hand, q.reserved, q.committed,
	inventory.available_of(q.on_hand, q.reserved, q.committed, s.safety_stock, p.promisable) AS available,
	s.safety_stock, s.backorder_limit, p.promisable, t.expires_on,
	k.event_count + inventory.tail_event_count(k.stock_id) AS event_count
FROM inventory.stock k
JOIN inventory.sku s ON s.sku_id = k.sku_id
JOIN inventory.location l ON l.location_id = k.location_id
LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
CROSS JOIN LATERAL (
	SELECT k.on_hand + inventory.tail_on_hand(k.stock_id) AS on_hand,
		k.reserved + inventory.tail_reserved(k.stock_id) AS reserved,
		k.committed + inventory.tail_committed(k.stock_id) AS committed) q
CROSS JOIN LATERAL (
	SELECT k.condition = 'good' AND s.active AND l.active
		AND coalesce(t.status = 'active', true)
		AND (t.expires_on IS NULL OR t.expires_on >= (inventory.clock_time() AT TIME ZONE 'UTC')::date) AS promisable) p;

-- The projection: adds the events to the stock rows, tick by tick.

CREATE FUNCTION inventory.project() RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_project';

REVOKE ALL ON FUNCTION inventory.project() FROM PUBLIC;

COMMENT ON FUNCTION inventory.project() IS
'Adds all committed events to the stock rows, makes the snapshots that are due and extends the hash chain; returns the number of events. The worker does this by itself; without workers, schedule it.';

CREATE FUNCTION inventory.tick_hash(tick_id bigint, key text DEFAULT NULL) RETURNS bytea
	LANGUAGE c STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_tick_hash';

REVOKE ALL ON FUNCTION inventory.tick_hash(bigint, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.tick_hash(bigint, text) IS
'The hash of a tick, computed anew from its events and the stored hash of the tick before; with this key, or inventory.hash_key, if the tick is keyed. NULL if the tick or the one before is not there.';

CREATE FUNCTION inventory.hash_key_id() RETURNS text
	LANGUAGE c STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_hash_key_id';

REVOKE ALL ON FUNCTION inventory.hash_key_id() FROM PUBLIC;

COMMENT ON FUNCTION inventory.hash_key_id() IS
'Which key inventory.hash_key is, as in tick.key_id; NULL for none.';

-- How far long work has come.  The work reports to shared memory, so that
-- others see it before it commits; whatever ends its transaction ends its
-- report.

CREATE FUNCTION inventory.stat_progresses(
	OUT pid integer, OUT database oid, OUT operation text, OUT phase text,
	OUT done bigint, OUT total bigint, OUT started_at timestamptz) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_stat_progresses';

REVOKE ALL ON FUNCTION inventory.stat_progresses() FROM PUBLIC;

COMMENT ON FUNCTION inventory.stat_progresses() IS 'Source of the view stat_progress.';

CREATE VIEW inventory.stat_progress AS
SELECT p.pid, d.datname AS database, p.operation, p.phase, p.done, p.total, p.started_at
FROM inventory.stat_progresses() p
LEFT JOIN pg_database d ON d.oid = p.database;

COMMENT ON VIEW inventory.stat_progress IS 'Long work that is going on, in all databases: archive, verify, rebuild, a projection that catches up. pg_cancel_backend(pid) cancels it.';

COMMENT ON COLUMN inventory.stat_progress.pid IS 'The process that works.';

COMMENT ON COLUMN inventory.stat_progress.database IS 'Its database.';

COMMENT ON COLUMN inventory.stat_progress.operation IS 'What it does.';

COMMENT ON COLUMN inventory.stat_progress.phase IS 'Which part of that it is at.';

COMMENT ON COLUMN inventory.stat_progress.done IS 'Units of the phase that are done: rows, events, ticks or stock items.';

COMMENT ON COLUMN inventory.stat_progress.total IS 'Units that the phase has, in part an estimate; NULL when not known.';

COMMENT ON COLUMN inventory.stat_progress.started_at IS 'When the work began.';

CREATE FUNCTION inventory.progress_begin(operation text) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_progress_begin';

REVOKE ALL ON FUNCTION inventory.progress_begin(text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.progress_begin(text) IS 'The engine''s own: begins to report long work.';

CREATE FUNCTION inventory.progress_phase(phase text, total bigint) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_progress_phase';

REVOKE ALL ON FUNCTION inventory.progress_phase(text, bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.progress_phase(text, bigint) IS 'The engine''s own: begins a part of the work, of so many units (0: not known).';

CREATE FUNCTION inventory.progress_done(units bigint) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_progress_done';

REVOKE ALL ON FUNCTION inventory.progress_done(bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.progress_done(bigint) IS 'The engine''s own: so many more units are done.';

-- Called for every row that is read, so without SECURITY DEFINER and SET, which
-- would cost more than reading it.
CREATE FUNCTION inventory.progress_row() RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'inventory_progress_row';

REVOKE ALL ON FUNCTION inventory.progress_row() FROM PUBLIC;

COMMENT ON FUNCTION inventory.progress_row() IS 'The engine''s own: true, and one unit more is done.';

CREATE FUNCTION inventory.progress_end() RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_progress_end';

REVOKE ALL ON FUNCTION inventory.progress_end() FROM PUBLIC;

COMMENT ON FUNCTION inventory.progress_end() IS 'The engine''s own: the work is done.';

-- Archiving: old event partitions are added up into a baseline and detached.
--
--   stock = baseline + the events that are left, up to the latest tick
--
-- holds before and after, and is checked in between.  A partition is one
-- transaction: it is archived or it is not.  Nobody's reading needs the events
-- of a partition any more when every snapshot in use sees a tick that includes
-- them all: then they are in the stock rows for everybody.
--
-- LOCKING, in this order: SHARE UPDATE EXCLUSIVE on baseline keeps a second
-- archiver out.  SHARE on the partition keeps late events out while it is read;
-- readers do not notice.  The projection lock comes when all has been read and
-- only rows of old snapshots and ticks go.  At the end DETACH takes ACCESS
-- EXCLUSIVE on the event table, for the moment until commit; nobody queues up
-- behind it for longer than its lock_timeout, and it tries again.  (DETACH
-- CONCURRENTLY cannot run inside a function, and would let the baseline and
-- the detaching commit apart.)

CREATE TABLE inventory.baseline (
	stock_id bigint NOT NULL CONSTRAINT baseline_pkey PRIMARY KEY,
	on_hand bigint NOT NULL,
	reserved bigint NOT NULL,
	committed bigint NOT NULL,
	event_count bigint NOT NULL
);

COMMENT ON TABLE inventory.baseline IS 'What the archived events of each stock item came to.';

COMMENT ON COLUMN inventory.baseline.stock_id IS 'The stock item.';

COMMENT ON COLUMN inventory.baseline.on_hand IS 'Sum of on_hand_delta, in base units.';

COMMENT ON COLUMN inventory.baseline.reserved IS 'Sum of reserved_delta, in base units.';

COMMENT ON COLUMN inventory.baseline.committed IS 'Sum of committed_delta, in base units.';

COMMENT ON COLUMN inventory.baseline.event_count IS 'Number of archived events.';

COMMENT ON INDEX inventory.baseline_pkey IS 'Query: the baseline of a stock item (history, verify, rebuild).';

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.baseline
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

CREATE TABLE inventory.archived (
	archive_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT archived_pkey PRIMARY KEY,
	partition text NOT NULL,
	kept_as text,
	recorded_from timestamptz NOT NULL,
	recorded_until timestamptz NOT NULL,
	events bigint NOT NULL,
	first_event_id bigint,
	last_event_id bigint,
	tick_id bigint,
	archived_at timestamptz NOT NULL
);

COMMENT ON TABLE inventory.archived IS 'The partitions that archive() has detached.';

COMMENT ON COLUMN inventory.archived.archive_id IS 'Number of the row.';

COMMENT ON COLUMN inventory.archived.partition IS 'Name that the partition had in the schema inventory.';

COMMENT ON COLUMN inventory.archived.kept_as IS 'Name of the table that it is now, if it was kept.';

COMMENT ON COLUMN inventory.archived.recorded_from IS 'Its events were recorded from this moment on,';

COMMENT ON COLUMN inventory.archived.recorded_until IS 'and before this one.';

COMMENT ON COLUMN inventory.archived.events IS 'Number of events in it.';

COMMENT ON COLUMN inventory.archived.first_event_id IS 'The smallest event number in it; NULL if it was empty.';

COMMENT ON COLUMN inventory.archived.last_event_id IS 'The largest event number in it; NULL if it was empty.';

COMMENT ON COLUMN inventory.archived.tick_id IS 'The first tick that includes all of its events: the anchor that the rest of the hash chain starts from. NULL if there was none.';

COMMENT ON COLUMN inventory.archived.archived_at IS 'When it was archived.';

COMMENT ON INDEX inventory.archived_pkey IS 'Query: the partitions in the order in which they were archived.';

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.archived
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

SELECT pg_extension_config_dump('inventory.baseline', '');

SELECT pg_extension_config_dump('inventory.archived', '');

SELECT pg_extension_config_dump('inventory.archived_archive_id_seq', '');

-- Transaction ids from 2^63 on are of the cluster that a dump was made in (see
-- restore.sql); all of that is before anything that happened here.
CREATE FUNCTION inventory.included(xid xid8, snapshot pg_snapshot) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE
		WHEN (xid >= '9223372036854775808'::xid8) = (pg_snapshot_xmax(snapshot) >= '9223372036854775808'::xid8)
			THEN pg_visible_in_snapshot(xid, snapshot)
		WHEN snapshot IS NOT NULL THEN xid >= '9223372036854775808'::xid8
	END;

REVOKE ALL ON FUNCTION inventory.included(xid8, pg_snapshot) FROM PUBLIC;

COMMENT ON FUNCTION inventory.included(xid8, pg_snapshot) IS 'The engine''s own: whether a tick with this snapshot includes the events of a transaction.';

CREATE FUNCTION inventory.included_until(last_xid xid8, snapshot pg_snapshot) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN (pg_snapshot_xmin(snapshot) < '9223372036854775808'::xid8, pg_snapshot_xmin(snapshot)) > (last_xid < '9223372036854775808'::xid8, last_xid);

REVOKE ALL ON FUNCTION inventory.included_until(xid8, pg_snapshot) FROM PUBLIC;

COMMENT ON FUNCTION inventory.included_until(xid8, pg_snapshot) IS 'The engine''s own: whether a tick with this snapshot includes the events of a transaction and of all before it.';

CREATE FUNCTION inventory.lock_projection() RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_lock_projection';

REVOKE ALL ON FUNCTION inventory.lock_projection() FROM PUBLIC;

COMMENT ON FUNCTION inventory.lock_projection() IS
'The engine''s own: lets no tick be written until the end of the transaction. Movements go on.';

CREATE FUNCTION inventory.seen_by_all(xid xid) RETURNS boolean
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_seen_by_all';

REVOKE ALL ON FUNCTION inventory.seen_by_all(xid) FROM PUBLIC;

COMMENT ON FUNCTION inventory.seen_by_all(xid) IS
'The engine''s own: whether every snapshot in use in this database sees what a committed transaction wrote.';

CREATE FUNCTION inventory.oldest_snapshot_holder() RETURNS text
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT h.holder FROM (
		SELECT age(a.backend_xmin) AS age, format('The oldest snapshot is that of process %s (%s, %s), in a transaction since %s.',
			a.pid, coalesce(nullif(a.application_name, ''), a.backend_type), coalesce(a.usename, '-'), a.xact_start) AS holder
		FROM pg_stat_activity a WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid()
		UNION ALL
		SELECT age(a.backend_xid), format('The oldest transaction is that of process %s (%s, %s), open since %s.',
			a.pid, coalesce(nullif(a.application_name, ''), a.backend_type), coalesce(a.usename, '-'), a.xact_start)
		FROM pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
		UNION ALL
		SELECT age(p.transaction), format('The oldest transaction is the prepared one %L, since %s.', p.gid, p.prepared)
		FROM pg_prepared_xacts p
		UNION ALL
		SELECT age(s.xmin), format('The oldest snapshot is that of replication slot %s.', s.slot_name)
		FROM pg_replication_slots s WHERE s.xmin IS NOT NULL
	) h ORDER BY h.age DESC LIMIT 1
$$;

REVOKE ALL ON FUNCTION inventory.oldest_snapshot_holder() FROM PUBLIC;

COMMENT ON FUNCTION inventory.oldest_snapshot_holder() IS
'The engine''s own: a sentence that names who holds the oldest snapshot or transaction; NULL if nobody.';

-- The first tick that includes every transaction up to the given one.  A tick's
-- oldest open transaction never goes back, so it can be searched by halves.
CREATE FUNCTION inventory.covering_tick(last_xid xid8) RETURNS bigint
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	low bigint := 1;
	high bigint := (SELECT max(t.tick_id) FROM inventory.tick t);
	middle bigint;
BEGIN
	IF NOT EXISTS (SELECT FROM inventory.tick t WHERE t.tick_id = high AND inventory.included_until(last_xid, t.snapshot)) THEN
		RETURN NULL;
	END IF;
	WHILE low < high LOOP
		middle := (low + high) / 2;
		IF (SELECT inventory.included_until(last_xid, t.snapshot) FROM inventory.tick t
				WHERE t.tick_id >= middle ORDER BY t.tick_id LIMIT 1) THEN
			high := middle;
		ELSE
			low := middle + 1;
		END IF;
	END LOOP;
	RETURN (SELECT min(t.tick_id) FROM inventory.tick t WHERE t.tick_id >= low);
END
$$;

REVOKE ALL ON FUNCTION inventory.covering_tick(xid8) FROM PUBLIC;

COMMENT ON FUNCTION inventory.covering_tick(xid8) IS
'The engine''s own: the first tick that includes every transaction up to this one; NULL if there is none yet.';

CREATE FUNCTION inventory.archivable(before timestamptz)
	RETURNS TABLE (partition regclass, recorded_from timestamptz, recorded_until timestamptz)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
AS $$
	SELECT c.oid::regclass, b.bounds[1]::timestamptz, b.bounds[2]::timestamptz
	FROM pg_inherits i
	JOIN pg_class c ON c.oid = i.inhrelid
	CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid),
		'^FOR VALUES FROM \(''([^'']*)''\) TO \(''([^'']*)''\)$') AS b(bounds)
	WHERE i.inhparent = 'inventory.event'::regclass
		AND b.bounds[2]::timestamptz <= least(before, inventory.clock_time())
	ORDER BY 3
$$;

REVOKE ALL ON FUNCTION inventory.archivable(timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION inventory.archivable(timestamptz) IS
'The event partitions that have ended at or before a moment, oldest first, with their bounds.';

-- Detaches a partition.  Waits for its lock a moment at a time, because while
-- it waits everybody else waits behind it.
CREATE FUNCTION inventory.detach_partition(partition regclass) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms'
AS $$
BEGIN
	FOR attempt IN 1 .. 20 LOOP
		BEGIN
			EXECUTE format('ALTER TABLE inventory.event DETACH PARTITION %s', partition);
			RETURN;
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			NULL;
		END;
		PERFORM pg_sleep(0.01 * attempt);
	END LOOP;
	RAISE EXCEPTION 'cannot archive %: the event table is in use all the time', partition
		USING ERRCODE = 'lock_not_available',
			DETAIL = inventory.oldest_snapshot_holder(),
			HINT = 'Call archive() again when no long transaction is reading or writing events.';
END
$$;

REVOKE ALL ON FUNCTION inventory.detach_partition(regclass) FROM PUBLIC;

COMMENT ON FUNCTION inventory.detach_partition(regclass) IS
'The engine''s own: detaches an event partition without keeping others waiting for long.';

-- What a subscription has not had yet must stay where it is read.
CREATE FUNCTION inventory.check_delivered(partition regclass) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	names constant text[] := inventory.unread_by(partition);
BEGIN
	IF names IS NOT NULL THEN
		RAISE EXCEPTION 'cannot archive %: a subscription has not had all of its events', partition
			USING ERRCODE = 'object_in_use',
				DETAIL = format('Subscriptions: %s.', array_to_string(names, ', ')),
				HINT = 'Wait until it has been delivered to, resume() it if it is paused, or seek() or unsubscribe() it.';
	END IF;
END
$$;

REVOKE ALL ON FUNCTION inventory.check_delivered(regclass) FROM PUBLIC;

COMMENT ON FUNCTION inventory.check_delivered(regclass) IS
'The engine''s own: an error unless every subscription has had the events of a partition that it wants.';

-- Fails, and says what holds it up, unless every event of the partition is in
-- the stock rows for everybody.  Returns the first tick that includes them all.
CREATE FUNCTION inventory.check_archivable(partition regclass, recorded_until timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	last_xid xid8;
	anchor bigint;
BEGIN
	EXECUTE format($sql$
		SELECT coalesce((SELECT v.xid FROM %1$s v WHERE v.xid < '9223372036854775808'::xid8 ORDER BY v.xid DESC LIMIT 1),
			(SELECT v.xid FROM %1$s v ORDER BY v.xid DESC LIMIT 1))
	$sql$, partition) INTO last_xid;
	IF last_xid IS NULL THEN
		RETURN (SELECT max(t.tick_id) FROM inventory.tick t WHERE t.ticked_at < recorded_until);
	END IF;
	anchor := inventory.covering_tick(last_xid);
	IF anchor IS NULL THEN
		RAISE EXCEPTION 'cannot archive %: not all of its events have been projected', partition
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = coalesce(inventory.oldest_snapshot_holder(), 'No tick includes transaction ' || last_xid || '.'),
				HINT = 'Call project(), or wait for the worker, after the transactions older than its last event have ended.';
	END IF;
	IF NOT EXISTS (SELECT FROM inventory.tick t WHERE t.tick_id = anchor AND inventory.seen_by_all(t.xmin))
		AND NOT (SELECT inventory.seen_by_all(t.xmin) FROM inventory.tick t ORDER BY t.tick_id DESC LIMIT 1)
	THEN
		RAISE EXCEPTION 'cannot archive %: a transaction is older than the projection of its events', partition
			USING ERRCODE = 'object_in_use',
				DETAIL = inventory.oldest_snapshot_holder(),
				HINT = 'Call archive() again when it has ended.';
	END IF;
	RETURN anchor;
END
$$;

REVOKE ALL ON FUNCTION inventory.check_archivable(regclass, timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION inventory.check_archivable(regclass, timestamptz) IS
'The engine''s own: an error unless every event of a partition is in the stock rows for everybody; otherwise the first tick that includes them all.';

-- baseline + the events that are left = stock, for every stock item with a
-- baseline.  The partition and all before it end where the rest begins.  The
-- baseline has just been filled and has no statistics: a nested loop would look
-- cheap.
CREATE FUNCTION inventory.check_baseline(partition regclass, recorded_until timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET enable_nestloop = off
AS $$
DECLARE
	wrong record;
BEGIN
	SELECT b.stock_id,
		format('on hand %s, reserved %s, committed %s', b.on_hand + coalesce(e.on_hand, 0),
			b.reserved + coalesce(e.reserved, 0), b.committed + coalesce(e.committed, 0)) AS expected,
		format('on hand %s, reserved %s, committed %s', k.on_hand, k.reserved, k.committed) AS found
	INTO wrong
	FROM inventory.baseline b
	LEFT JOIN inventory.stock k ON k.stock_id = b.stock_id
	LEFT JOIN (
		SELECT v.stock_id, sum(v.on_hand_delta)::bigint AS on_hand,
			sum(v.reserved_delta)::bigint AS reserved,
			sum(v.committed_delta)::bigint AS committed, count(*) AS event_count
		FROM inventory.event v
		WHERE v.recorded_at >= check_baseline.recorded_until AND inventory.progress_row()
			AND inventory.included(v.xid, (SELECT t.snapshot FROM inventory.tick t ORDER BY t.tick_id DESC LIMIT 1))
		GROUP BY v.stock_id) e ON e.stock_id = b.stock_id
	WHERE (b.on_hand + coalesce(e.on_hand, 0), b.reserved + coalesce(e.reserved, 0),
			b.committed + coalesce(e.committed, 0), b.event_count + coalesce(e.event_count, 0))
		IS DISTINCT FROM (k.on_hand, k.reserved, k.committed, k.event_count)
	ORDER BY b.stock_id LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'cannot archive %: stock item % does not agree with its events', partition, wrong.stock_id
			USING ERRCODE = 'data_corrupted',
				DETAIL = format('Its events say %s; its row says %s.', wrong.expected, wrong.found),
				HINT = 'verify() shows all differences, rebuild() repairs them.';
	END IF;
END
$$;

REVOKE ALL ON FUNCTION inventory.check_baseline(regclass, timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION inventory.check_baseline(regclass, timestamptz) IS
'The engine''s own: an error unless baseline and the events recorded from a moment on come to the stock rows.';

-- What the time before the anchor keeps: no snapshot, and one tick a day.
CREATE FUNCTION inventory.thin_ticks(anchor bigint) RETURNS void
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM inventory.snapshot p WHERE p.tick_id < anchor;
	UPDATE inventory.snapshot p SET previous_tick_id = NULL WHERE p.previous_tick_id < anchor;
	DELETE FROM inventory.tick t
	WHERE t.tick_id < anchor AND t.tick_id NOT IN (
		SELECT max(d.tick_id) FROM inventory.tick d WHERE d.tick_id < anchor
		GROUP BY (d.ticked_at AT TIME ZONE 'UTC')::date)
$$;

REVOKE ALL ON FUNCTION inventory.thin_ticks(bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.thin_ticks(bigint) IS
'The engine''s own: removes the snapshots before a tick, and all ticks before it but the last of each day.';

-- Makes a detached partition a table of its own, or drops it.  Returns its name.
CREATE FUNCTION inventory.put_away(partition regclass, keep boolean) RETURNS text
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
	former text := (SELECT c.relname FROM pg_class c WHERE c.oid = partition);
	base text := 'event_archive_' || regexp_replace(former, '^event_', '');
	kept text := base;
	reader record;
	index record;
BEGIN
	IF NOT keep THEN
		EXECUTE format('DROP TABLE %s', partition);
		RETURN NULL;
	END IF;
	-- The clock was set back, and the month was written anew.
	FOR n IN 2 .. 1000 LOOP
		EXIT WHEN to_regclass(format('inventory.%I', kept)) IS NULL;
		kept := base || '_' || n;
	END LOOP;
	EXECUTE format('ALTER TABLE %s RENAME TO %I', partition, kept);
	-- A month that is made anew needs the names.
	FOR index IN
		SELECT c.oid::regclass AS name, overlay(c.relname PLACING kept FROM 1 FOR length(former)) AS new_name
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE i.indrelid = partition AND starts_with(c.relname, former)
	LOOP
		EXECUTE format('ALTER INDEX %s RENAME TO %I', index.name, index.new_name);
	END LOOP;
	EXECUTE format('COMMENT ON TABLE inventory.%I IS %L', kept,
		'Archived: ' || coalesce(obj_description(partition, 'pg_class'), former));
	-- It has lost the triggers that it had from the event table.
	EXECUTE format('CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE ON inventory.%I FOR EACH ROW EXECUTE FUNCTION inventory.event_append_only()', kept);
	EXECUTE format('ALTER TABLE inventory.%I ENABLE ALWAYS TRIGGER event_append_only', kept);
	-- Who reads events reads them there too.
	FOR reader IN
		SELECT a.grantee FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
		WHERE c.oid = 'inventory.event'::regclass AND a.privilege_type = 'SELECT' AND a.grantee <> 0
	LOOP
		EXECUTE format('GRANT SELECT ON inventory.%I TO %s', kept, reader.grantee::regrole);
	END LOOP;
	RETURN kept;
END
$$;

REVOKE ALL ON FUNCTION inventory.put_away(regclass, boolean) FROM PUBLIC;

COMMENT ON FUNCTION inventory.put_away(regclass, boolean) IS
'The engine''s own: keeps a detached partition as a table that can only be read, or drops it.';

CREATE FUNCTION inventory.archive_oldest(before timestamptz, keep boolean) RETURNS text
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	part record;
	name text;
	anchor bigint;
	summed record;
	kept text;
BEGIN
	PERFORM inventory.progress_begin('archive');
	LOCK TABLE inventory.baseline IN SHARE UPDATE EXCLUSIVE MODE;
	SELECT * INTO part FROM inventory.archivable(before) LIMIT 1;
	IF NOT FOUND THEN
		PERFORM inventory.progress_end();
		RETURN NULL;
	END IF;
	SELECT c.relname INTO name FROM pg_class c WHERE c.oid = part.partition;
	EXECUTE format('LOCK TABLE %s IN SHARE MODE', part.partition);
	anchor := inventory.check_archivable(part.partition, part.recorded_until);
	PERFORM inventory.check_delivered(part.partition);

	PERFORM inventory.progress_phase('adding up ' || name,
		(SELECT c.reltuples::bigint FROM pg_class c WHERE c.oid = part.partition));
	EXECUTE format($sql$
		WITH summed AS MATERIALIZED (
			SELECT v.stock_id, sum(v.on_hand_delta)::bigint AS on_hand,
				sum(v.reserved_delta)::bigint AS reserved,
				sum(v.committed_delta)::bigint AS committed, count(*) AS event_count,
				min(v.event_id) AS first_event_id, max(v.event_id) AS last_event_id
			FROM %s v WHERE inventory.progress_row() GROUP BY v.stock_id
		), written AS (
			INSERT INTO inventory.baseline AS b (stock_id, on_hand, reserved, committed, event_count)
			SELECT s.stock_id, s.on_hand, s.reserved, s.committed, s.event_count FROM summed s
			ON CONFLICT (stock_id) DO UPDATE SET on_hand = b.on_hand + excluded.on_hand,
				reserved = b.reserved + excluded.reserved, committed = b.committed + excluded.committed,
				event_count = b.event_count + excluded.event_count
		)
		SELECT coalesce(sum(s.event_count), 0)::bigint AS events,
			min(s.first_event_id) AS first_event_id, max(s.last_event_id) AS last_event_id FROM summed s
	$sql$, part.partition) INTO summed;

	PERFORM inventory.progress_phase('checking ' || name, (
		SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'inventory.event'::regclass AND c.oid <> part.partition));
	PERFORM inventory.check_baseline(part.partition, part.recorded_until);

	PERFORM inventory.progress_phase('detaching ' || name, 0);
	PERFORM inventory.lock_projection();
	PERFORM inventory.thin_ticks(anchor);
	PERFORM inventory.detach_partition(part.partition);
	kept := inventory.put_away(part.partition, keep AND summed.events > 0);
	INSERT INTO inventory.archived (partition, kept_as, recorded_from, recorded_until, events,
		first_event_id, last_event_id, tick_id, archived_at)
	VALUES (name, kept, part.recorded_from, part.recorded_until, summed.events,
		summed.first_event_id, summed.last_event_id, anchor, inventory.clock_time());
	PERFORM inventory.progress_end();
	RETURN name;
END
$$;

REVOKE ALL ON FUNCTION inventory.archive_oldest(timestamptz, boolean) FROM PUBLIC;

COMMENT ON FUNCTION inventory.archive_oldest(timestamptz, boolean) IS
'The engine''s own: the work of archive_partition().';

CREATE FUNCTION inventory.archive_partition(before timestamptz, keep boolean DEFAULT true) RETURNS text
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_archive_partition';

REVOKE ALL ON FUNCTION inventory.archive_partition(timestamptz, boolean) FROM PUBLIC;

COMMENT ON FUNCTION inventory.archive_partition(timestamptz, boolean) IS
'Archives the oldest event partition that has ended at or before a moment: adds it up into the baseline, checks, detaches it, and keeps it as table event_archive_YYYY_MM or drops it (also if it is empty). Returns the name that it had; NULL if there is none. The event table is locked until the end of the transaction.';

-- Not SECURITY DEFINER and without SET: either would forbid the COMMIT.  It
-- acts as the caller.
CREATE PROCEDURE inventory.archive(before timestamptz, keep boolean DEFAULT true, INOUT archived integer DEFAULT 0)
	LANGUAGE plpgsql
AS $$
BEGIN
	archived := 0;
	WHILE inventory.archive_partition(before, keep) IS NOT NULL LOOP
		archived := archived OPERATOR(pg_catalog.+) 1;
		COMMIT;
	END LOOP;
END
$$;

REVOKE ALL ON PROCEDURE inventory.archive(timestamptz, boolean, integer) FROM PUBLIC;

COMMENT ON PROCEDURE inventory.archive(timestamptz, boolean, integer) IS
'Archives the event partitions that have ended at or before a moment, oldest first, each in a transaction of its own, and returns how many. Cancelled or failed, it has archived the ones before; call it again. CALL it outside of a transaction block.';

-- What has to be done now and then.  The worker of the database does it by
-- itself; without workers, call maintain() from pg_cron, say once an hour.

CREATE FUNCTION inventory.maintain(OUT task text, OUT done bigint) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_maintain';

REVOKE ALL ON FUNCTION inventory.maintain() FROM PUBLIC;

COMMENT ON FUNCTION inventory.maintain() IS
'Makes event partitions ahead, removes request rows older than inventory.request_retention, keeps the index on event numbers up, and closes and empties tables of messages; returns how much of each it did. Workers do this by themselves.';

-- Commands: stock operations that are handed in, executed later by a worker, and
-- compensated when that fails; sagas, several of them in a row.
--
-- A command is a message.  What has become of it is inserted here, once: the key
-- decides between whoever executes it, cancel() and any other.  Nothing is ever
-- updated.  A saga's next command is handed in by the execution of the one before.

CREATE TABLE inventory.command_result (
	message_id bigint NOT NULL CONSTRAINT command_result_pkey PRIMARY KEY,
	command text NOT NULL,
	key text COLLATE "C",
	submitted_by regrole NOT NULL,
	submitted_at timestamptz NOT NULL,
	state text NOT NULL CONSTRAINT command_result_state_check CHECK (state IN ('done', 'dead', 'cancelled')),
	result jsonb,
	error text,
	sqlstate text,
	attempts integer NOT NULL,
	finished_at timestamptz NOT NULL,
	saga_id bigint
);

COMMENT ON TABLE inventory.command_result IS 'What has become of commands, for inventory.request_retention days. Read it by command_result() and the view command.';

COMMENT ON COLUMN inventory.command_result.message_id IS 'Number of the command.';

COMMENT ON COLUMN inventory.command_result.command IS 'Which function.';

COMMENT ON COLUMN inventory.command_result.key IS 'The message''s key.';

COMMENT ON COLUMN inventory.command_result.submitted_by IS 'Who has submitted it, and whom it was executed as.';

COMMENT ON COLUMN inventory.command_result.submitted_at IS 'When.';

COMMENT ON COLUMN inventory.command_result.state IS 'done; dead: has failed and is not tried any more; cancelled.';

COMMENT ON COLUMN inventory.command_result.result IS 'What the function returned.';

COMMENT ON COLUMN inventory.command_result.error IS 'Why it failed.';

COMMENT ON COLUMN inventory.command_result.sqlstate IS 'The error''s SQLSTATE, if it was one.';

COMMENT ON COLUMN inventory.command_result.attempts IS 'How often it was tried.';

COMMENT ON COLUMN inventory.command_result.finished_at IS 'When this was decided.';

COMMENT ON COLUMN inventory.command_result.saga_id IS 'The saga that it belongs to.';

COMMENT ON INDEX inventory.command_result_pkey IS 'Query: a command by its number; and decides who finishes it.';

CREATE TABLE inventory.saga_run (
	saga_id bigint NOT NULL CONSTRAINT saga_run_pkey PRIMARY KEY,
	commands jsonb NOT NULL,
	submitted_by regrole NOT NULL,
	submitted_as jsonb NOT NULL,
	submitted_at timestamptz NOT NULL
);

COMMENT ON TABLE inventory.saga_run IS 'Sagas, as they were handed in. Read the view saga.';

COMMENT ON COLUMN inventory.saga_run.saga_id IS 'Number of the saga.';

COMMENT ON COLUMN inventory.saga_run.commands IS 'Its commands, in order.';

COMMENT ON COLUMN inventory.saga_run.submitted_by IS 'Who has submitted it, and whom its commands are executed as.';

COMMENT ON COLUMN inventory.saga_run.submitted_as IS 'The role as messages name it.';

COMMENT ON COLUMN inventory.saga_run.submitted_at IS 'When.';

COMMENT ON INDEX inventory.saga_run_pkey IS 'Query: a saga by its number.';

CREATE TABLE inventory.saga_step (
	saga_id bigint NOT NULL,
	step integer NOT NULL,
	compensation boolean NOT NULL,
	message_id bigint NOT NULL,
	CONSTRAINT saga_step_pkey PRIMARY KEY (saga_id, step, compensation)
);

COMMENT ON TABLE inventory.saga_step IS 'The commands of sagas that have been handed in so far.';

COMMENT ON COLUMN inventory.saga_step.saga_id IS 'The saga.';

COMMENT ON COLUMN inventory.saga_step.step IS 'Which of its commands, from 1.';

COMMENT ON COLUMN inventory.saga_step.compensation IS 'Whether it undoes that command.';

COMMENT ON COLUMN inventory.saga_step.message_id IS 'Number of the command.';

COMMENT ON INDEX inventory.saga_step_pkey IS 'Query: the commands of a saga.';

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.command_result
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.saga_run
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.saga_step
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

SELECT pg_extension_config_dump('inventory.command_result', '');

SELECT pg_extension_config_dump('inventory.saga_run', '');

SELECT pg_extension_config_dump('inventory.saga_step', '');

-- Checking

CREATE FUNCTION inventory.command_names() RETURNS text[]
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY['receive', 'issue', 'adjust', 'set_on_hand', 'transfer', 'reverse', 'post', 'reserve',
		'try_reserve', 'confirm', 'ship', 'release', 'extend', 'release_owner']
$$;

REVOKE ALL ON FUNCTION inventory.command_names() FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_names() IS 'The engine''s own: the functions that can be submitted as commands.';

-- Of functions with the same name, the one whose parameters these are.
CREATE FUNCTION inventory.command_function(command text, arguments jsonb) RETURNS regprocedure
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	given text[];
	found regprocedure[];
	wrong text;
	lacking text;
BEGIN
	IF NOT coalesce(command = ANY (inventory.command_names()), false) THEN
		RAISE EXCEPTION 'unknown command "%"', command
			USING ERRCODE = 'IV026', HINT = 'The commands are ' || array_to_string(inventory.command_names(), ', ') || '.';
	END IF;
	IF coalesce(jsonb_typeof(arguments), '') <> 'object' THEN
		RAISE EXCEPTION 'the arguments of command "%" must be a JSON object', command
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The function''s named parameters, like {"sku": "A", "quantity": 1}.';
	END IF;
	given := ARRAY(SELECT jsonb_object_keys(arguments));
	SELECT array_agg(p.oid::regprocedure ORDER BY p.oid) INTO found
	FROM pg_proc p
	WHERE p.proname = command AND p.pronamespace = 'inventory'::regnamespace
		AND given <@ p.proargnames[1:p.pronargs]
		AND p.proargnames[1:p.pronargs - p.pronargdefaults] <@ given;
	IF cardinality(found) = 1 THEN
		RETURN found[1];
	END IF;
	SELECT min(g) INTO wrong FROM unnest(given) g
	WHERE NOT EXISTS (SELECT FROM pg_proc p WHERE p.proname = command
		AND p.pronamespace = 'inventory'::regnamespace AND g = ANY (p.proargnames[1:p.pronargs]));
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'command "%" has no argument "%"', command, wrong USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT string_agg(format('%s(%s)', command, array_to_string(p.proargnames[1:p.pronargs - p.pronargdefaults], ', ')), ' or ')
	INTO lacking FROM pg_proc p
	WHERE p.proname = command AND p.pronamespace = 'inventory'::regnamespace;
	RAISE EXCEPTION 'command "%" does not go with these arguments: %', command, array_to_string(given, ', ')
		USING ERRCODE = 'invalid_parameter_value', HINT = format('It needs %s.', lacking);
END
$$;

REVOKE ALL ON FUNCTION inventory.command_function(text, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_function(text, jsonb) IS
'The engine''s own: the function that a command with these arguments calls.';

-- What executes the command; $1 are its arguments.
CREATE FUNCTION inventory.command_statement(command text, arguments jsonb) RETURNS text
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT pg_catalog.to_jsonb(inventory.%I(%s)) FROM pg_catalog.jsonb_to_record($1) AS a(%s)', command,
		string_agg(format('%1$I => a.%1$I', p.name), ', ' ORDER BY p.number),
		string_agg(format('%I %s', p.name, format_type(p.type, NULL)), ', ' ORDER BY p.number))
	FROM (SELECT a.name, a.number, f.proargtypes[a.number - 1] AS type
		FROM pg_proc f, unnest(f.proargnames) WITH ORDINALITY a(name, number)
		WHERE f.oid = inventory.command_function(command, arguments) AND arguments ? a.name) p
$$;

REVOKE ALL ON FUNCTION inventory.command_statement(text, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_statement(text, jsonb) IS
'The engine''s own: the SQL statement that executes a command, with its arguments as $1.';

-- Strings that stand for a result: $1 for that of a saga's first command, $result
-- for that of the command that is compensated.  $$1 is the string $1.
CREATE FUNCTION inventory.command_substitute(template jsonb, results jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	string text;
BEGIN
	CASE jsonb_typeof(template)
		WHEN 'object' THEN
			RETURN (SELECT coalesce(jsonb_object_agg(e.key, inventory.command_substitute(e.value, results)), '{}') FROM jsonb_each(template) e);
		WHEN 'array' THEN
			RETURN (SELECT coalesce(jsonb_agg(inventory.command_substitute(e.value, results) ORDER BY e.n), '[]')
				FROM jsonb_array_elements(template) WITH ORDINALITY e(value, n));
		WHEN 'string' THEN
			string := template #>> '{}';
			IF string ~ '^\$(result|[0-9]+)$' THEN
				RETURN coalesce(results -> substr(string, 2), 'null');
			ELSIF string ~ '^\$\$+(result|[0-9]+)$' THEN
				RETURN to_jsonb(substr(string, 2));
			END IF;
			RETURN template;
		ELSE
			RETURN template;
	END CASE;
END
$$;

REVOKE ALL ON FUNCTION inventory.command_substitute(jsonb, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_substitute(jsonb, jsonb) IS
'The engine''s own: arguments with results in place of the strings that stand for them.';

-- The function exists, takes these arguments, and the role may call it.
CREATE FUNCTION inventory.command_check(role oid, command text, arguments jsonb) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	function regprocedure := inventory.command_function(command, arguments);
	columns text;
BEGIN
	IF NOT has_function_privilege(role, function, 'EXECUTE') THEN
		RAISE EXCEPTION 'permission denied for function %', command USING ERRCODE = 'insufficient_privilege';
	END IF;
	-- Their types, of those that are known already.
	SELECT string_agg(format('%I %s', a.name, format_type(f.proargtypes[a.number - 1], NULL)), ', ') INTO columns
	FROM pg_proc f, unnest(f.proargnames) WITH ORDINALITY a(name, number)
	WHERE f.oid = function AND arguments ? a.name AND (arguments -> a.name)::text !~ '"\$';
	IF columns IS NOT NULL THEN
		EXECUTE format('SELECT FROM jsonb_to_record($1) AS a(%s)', columns) USING arguments;
	END IF;
END
$$;

REVOKE ALL ON FUNCTION inventory.command_check(oid, text, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_check(oid, text, jsonb) IS
'The engine''s own: an error unless a role may submit a command with these arguments.';

-- Strings in there that stand for a result which there will not be.
CREATE FUNCTION inventory.command_check_references(arguments jsonb, steps integer, result boolean, what text) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	reference text;
BEGIN
	SELECT min(r.string) INTO reference
	FROM (SELECT j #>> '{}' AS string FROM jsonb_path_query(arguments, 'strict $.**') j WHERE jsonb_typeof(j) = 'string') r
	WHERE r.string ~ '^\$(result|[0-9]+)$' AND NOT (r.string = '$result' AND result)
		AND NOT (r.string ~ '^\$[1-9][0-9]{0,2}$' AND substr(r.string, 2, 3)::integer <= steps);
	IF reference IS NOT NULL THEN
		RAISE EXCEPTION '% cannot use %', what, reference
			USING ERRCODE = 'IV015', HINT = 'In a saga, $1 stands for the result of the first command, and in compensate_with $result for that of the command itself. Write $' || reference || ' for the string.';
	END IF;
	-- What cannot be done then is refused now: arrays nested too deeply.
	PERFORM inventory.command_substitute(arguments, '{}');
END
$$;

REVOKE ALL ON FUNCTION inventory.command_check_references(jsonb, integer, boolean, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_check_references(jsonb, integer, boolean, text) IS
'The engine''s own: an error if arguments use results that there will not be.';

CREATE FUNCTION inventory.command_check_compensation(role oid, compensate_with jsonb, steps integer) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF jsonb_typeof(compensate_with) <> 'object' OR NOT compensate_with ? 'command'
		OR compensate_with - ARRAY['command', 'arguments'] <> '{}' THEN
		RAISE EXCEPTION 'compensate_with must be a JSON object with command and arguments'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Like {"command": "release", "arguments": {"reservation_id": "$result"}}.';
	END IF;
	PERFORM inventory.command_check(role, compensate_with ->> 'command', coalesce(compensate_with -> 'arguments', '{}'));
	PERFORM inventory.command_check_references(compensate_with, steps, true, 'compensate_with');
END
$$;

REVOKE ALL ON FUNCTION inventory.command_check_compensation(oid, jsonb, integer) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_check_compensation(oid, jsonb, integer) IS
'The engine''s own: an error unless a role may submit this as a compensation.';

CREATE FUNCTION inventory.command_check_times(not_before timestamptz, deadline timestamptz) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT isfinite(not_before) OR NOT isfinite(deadline) THEN
		RAISE EXCEPTION 'not_before and deadline must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF deadline <= not_before THEN
		RAISE EXCEPTION 'deadline must be later than not_before' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$$;

REVOKE ALL ON FUNCTION inventory.command_check_times(timestamptz, timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_check_times(timestamptz, timestamptz) IS
'The engine''s own: an error unless a command can have these times.';

-- Times are those of the session that hands in: the worker may have another time
-- zone, and read 01/02 otherwise.
CREATE FUNCTION inventory.command_arguments(command text, arguments jsonb) RETURNS jsonb
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT arguments || coalesce(jsonb_object_agg(a.name, CASE f.proargtypes[a.number - 1]
			WHEN 'date'::regtype THEN to_jsonb((arguments ->> a.name)::date)
			ELSE to_jsonb((arguments ->> a.name)::timestamptz) END), '{}')
	FROM pg_proc f, unnest(f.proargnames) WITH ORDINALITY a(name, number)
	WHERE f.oid = inventory.command_function(command, arguments)
		AND f.proargtypes[a.number - 1] IN ('timestamptz'::regtype, 'date'::regtype)
		AND jsonb_typeof(arguments -> a.name) = 'string' AND arguments ->> a.name !~ '^\$'
$$;

REVOKE ALL ON FUNCTION inventory.command_arguments(text, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_arguments(text, jsonb) IS
'The engine''s own: the arguments of a command with times that mean the same everywhere.';

CREATE FUNCTION inventory.command_as_meant(command jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN command
		|| jsonb_build_object('arguments',
			inventory.command_arguments(command ->> 'command', coalesce(command -> 'arguments', '{}')))
		|| jsonb_strip_nulls(jsonb_build_object('not_before', (command ->> 'not_before')::timestamptz,
			'deadline', (command ->> 'deadline')::timestamptz))
		|| CASE WHEN command ? 'compensate_with'
			THEN jsonb_build_object('compensate_with', inventory.command_as_meant(command -> 'compensate_with')) ELSE '{}' END;
END
$$;

REVOKE ALL ON FUNCTION inventory.command_as_meant(jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_as_meant(jsonb) IS
'The engine''s own: a command of a saga, or a compensation, with times that mean the same everywhere.';

-- Roles.  A message names the role by name and number: within one cluster the
-- number counts, so that a new role with the name of a dropped one is nobody;
-- after a dump was restored elsewhere, the name.

CREATE FUNCTION inventory.command_cluster() RETURNS text
	LANGUAGE c STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_command_cluster';

REVOKE ALL ON FUNCTION inventory.command_cluster() FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_cluster() IS 'The engine''s own: the cluster''s system identifier.';

CREATE FUNCTION inventory.command_role(payload jsonb) RETURNS regrole
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN payload ->> 'cluster' = inventory.command_cluster() THEN (payload ->> 'role_id')::oid
		ELSE coalesce((SELECT r.oid FROM pg_roles r WHERE r.rolname = payload ->> 'role'), 0) END
$$;

REVOKE ALL ON FUNCTION inventory.command_role(jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_role(jsonb) IS
'The role that a command''s message names.';

-- Commands are shown to who has submitted them, and to who may retry them.
CREATE FUNCTION inventory.may_see_command(submitted_by regrole) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT pg_has_role(submitted_by::oid, 'USAGE')
		OR has_function_privilege('inventory.retry_pending(interval)', 'EXECUTE')
$$;

REVOKE ALL ON FUNCTION inventory.may_see_command(regrole) FROM PUBLIC;

COMMENT ON FUNCTION inventory.may_see_command(regrole) IS
'Whether the caller sees the commands that a role has submitted, and may cancel them.';

-- Handing in

CREATE FUNCTION inventory.command_append(command text, key text, payload jsonb) RETURNS bigint
	LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_command_append';

REVOKE ALL ON FUNCTION inventory.command_append(text, text, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_append(text, text, jsonb) IS 'The engine''s own: writes the message of a command.';

CREATE FUNCTION inventory.command_as(role oid) RETURNS jsonb
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('role', pg_get_userbyid(role), 'role_id', role::bigint, 'cluster', inventory.command_cluster())
$$;

REVOKE ALL ON FUNCTION inventory.command_as(oid) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_as(oid) IS 'The engine''s own: a role as the message of a command names it.';

CREATE FUNCTION inventory.command_payload(role oid, command text, arguments jsonb) RETURNS jsonb
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('command', command, 'arguments', arguments) || inventory.command_as(role)
$$;

REVOKE ALL ON FUNCTION inventory.command_payload(oid, text, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_payload(oid, text, jsonb) IS
'The engine''s own: what the message of a command has at least.';

CREATE FUNCTION inventory.command_submit(role oid, command text, arguments jsonb, not_before timestamptz,
	deadline timestamptz, compensate_with jsonb, key text) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM inventory.command_check(role, command, arguments);
	PERFORM inventory.command_check_times(not_before, deadline);
	IF compensate_with IS NOT NULL THEN
		PERFORM inventory.command_check_compensation(role, compensate_with, 0);
	END IF;
	RETURN inventory.command_append(command, key,
		inventory.command_payload(role, command, inventory.command_arguments(command, arguments))
		|| jsonb_strip_nulls(jsonb_build_object('not_before', not_before, 'deadline', deadline))
		|| CASE WHEN compensate_with IS NULL THEN '{}'
			ELSE jsonb_build_object('compensate_with', inventory.command_as_meant(compensate_with)) END);
END
$$;

REVOKE ALL ON FUNCTION inventory.command_submit(oid, text, jsonb, timestamptz, timestamptz, jsonb, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_submit(oid, text, jsonb, timestamptz, timestamptz, jsonb, text) IS
'The engine''s own: the work of submit().';

CREATE FUNCTION inventory.submit(command text, arguments jsonb, request_id text DEFAULT NULL,
	not_before timestamptz DEFAULT NULL, deadline timestamptz DEFAULT NULL,
	compensate_with jsonb DEFAULT NULL, key text DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_submit';

REVOKE ALL ON FUNCTION inventory.submit(text, jsonb, text, timestamptz, timestamptz, jsonb, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.submit(text, jsonb, text, timestamptz, timestamptz, jsonb, text) IS
'Hands in a stock operation (receive, issue, reserve, ...; arguments: its named parameters) that is executed once, after the commit, as the caller; not before not_before, not at all after deadline. Tried again when it fails; compensate_with ({"command", "arguments"}) is submitted when it is given up. Commands with the same key are executed in order. Returns its number.';

-- Sagas

CREATE FUNCTION inventory.saga_check(role oid, commands jsonb) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	step jsonb;
	n integer;
BEGIN
	IF coalesce(jsonb_typeof(commands), '') <> 'array' OR jsonb_array_length(commands) NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'commands must be a JSON array of 1 to 100 objects' USING ERRCODE = 'IV015';
	END IF;
	FOR step, n IN SELECT e.value, e.n FROM jsonb_array_elements(commands) WITH ORDINALITY e(value, n) LOOP
		IF jsonb_typeof(step) <> 'object' OR NOT step ? 'command' OR NOT step ? 'arguments'
			OR step - ARRAY['command', 'arguments', 'compensate_with', 'not_before', 'deadline'] <> '{}' THEN
			RAISE EXCEPTION 'command % of the saga must be an object with command, arguments, and perhaps compensate_with, not_before, deadline', n
				USING ERRCODE = 'IV015';
		END IF;
		IF jsonb_typeof(step -> 'not_before') NOT IN ('string', 'null') OR jsonb_typeof(step -> 'deadline') NOT IN ('string', 'null') THEN
			RAISE EXCEPTION 'not_before and deadline of command % of the saga must be strings', n USING ERRCODE = 'IV015';
		END IF;
		PERFORM inventory.command_check(role, step ->> 'command', step -> 'arguments');
		PERFORM inventory.command_check_times((step ->> 'not_before')::timestamptz, (step ->> 'deadline')::timestamptz);
		IF step ? 'compensate_with' THEN
			PERFORM inventory.command_check_compensation(role, step -> 'compensate_with', n);
		END IF;
		PERFORM inventory.command_check_references(step -> 'arguments', n - 1, false, format('command %s of the saga', n));
	END LOOP;
END
$$;

REVOKE ALL ON FUNCTION inventory.saga_check(oid, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.saga_check(oid, jsonb) IS
'The engine''s own: an error unless a role may submit this saga.';

-- A saga's command, with the results of those before it.  The rights were
-- checked when it was submitted, and are again when it is executed.
CREATE FUNCTION inventory.saga_append(saga bigint, number integer, undo boolean) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	run inventory.saga_run;
	step jsonb;
	template jsonb;
	results jsonb;
BEGIN
	SELECT * INTO STRICT run FROM inventory.saga_run r WHERE r.saga_id = saga;
	step := run.commands -> (number - 1);
	template := CASE WHEN undo THEN step -> 'compensate_with' ELSE step END;
	SELECT coalesce(jsonb_object_agg(s.step::text, c.result), '{}') INTO results
	FROM inventory.saga_step s JOIN inventory.command_result c USING (message_id)
	WHERE s.saga_id = saga AND NOT s.compensation AND c.state = 'done';
	IF undo THEN
		results := results || jsonb_build_object('result', results -> number::text);
	END IF;
	INSERT INTO inventory.saga_step (saga_id, step, compensation, message_id)
	VALUES (saga, number, undo, inventory.command_append(template ->> 'command', 'saga-' || saga,
		jsonb_build_object('command', template ->> 'command', 'arguments',
			inventory.command_substitute(coalesce(template -> 'arguments', '{}'), results))
		|| run.submitted_as
		|| CASE WHEN undo THEN '{}' ELSE jsonb_strip_nulls(jsonb_build_object('not_before', template -> 'not_before', 'deadline', template -> 'deadline')) END
		|| jsonb_build_object('saga', saga, 'step', number, 'compensation', undo)));
END
$$;

REVOKE ALL ON FUNCTION inventory.saga_append(bigint, integer, boolean) FROM PUBLIC;

COMMENT ON FUNCTION inventory.saga_append(bigint, integer, boolean) IS
'The engine''s own: hands in a command of a saga, or what undoes it.';

-- One of its commands has come to an end: the next, or what undoes those before.
CREATE FUNCTION inventory.saga_continue(saga bigint, number integer, undo boolean, state text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	commands jsonb := (SELECT r.commands FROM inventory.saga_run r WHERE r.saga_id = saga);
	next integer;
BEGIN
	IF NOT undo AND state = 'done' THEN
		IF number < jsonb_array_length(commands) THEN
			PERFORM inventory.saga_append(saga, number + 1, false);
		END IF;
		RETURN;
	END IF;
	SELECT max(s.step) INTO next
	FROM inventory.saga_step s JOIN inventory.command_result c USING (message_id)
	WHERE s.saga_id = saga AND NOT s.compensation AND s.step < number AND c.state = 'done'
		AND commands -> (s.step - 1) ? 'compensate_with';
	IF next IS NOT NULL THEN
		PERFORM inventory.saga_append(saga, next, true);
	END IF;
END
$$;

REVOKE ALL ON FUNCTION inventory.saga_continue(bigint, integer, boolean, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.saga_continue(bigint, integer, boolean, text) IS
'The engine''s own: what follows in a saga when one of its commands has come to an end.';

CREATE FUNCTION inventory.saga_submit(role oid, commands jsonb) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	saga bigint := nextval('inventory.event_event_id_seq');
BEGIN
	PERFORM inventory.saga_check(role, commands);
	INSERT INTO inventory.saga_run (saga_id, commands, submitted_by, submitted_as, submitted_at)
	SELECT saga, jsonb_agg(inventory.command_as_meant(e.value) ORDER BY e.n), role::regrole,
		inventory.command_as(role), inventory.transaction_time()
	FROM jsonb_array_elements(commands) WITH ORDINALITY e(value, n);
	PERFORM inventory.saga_append(saga, 1, false);
	RETURN saga;
END
$$;

REVOKE ALL ON FUNCTION inventory.saga_submit(oid, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.saga_submit(oid, jsonb) IS 'The engine''s own: the work of saga().';

CREATE FUNCTION inventory.saga(commands jsonb, request_id text DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_saga';

REVOKE ALL ON FUNCTION inventory.saga(jsonb, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.saga(jsonb, text) IS
'Hands in several commands, [{"command", "arguments", "compensate_with"}, ...], that are executed one after the other; "$1" in arguments stands for the result of the first. When one is given up, those that were done are compensated in reverse order. Returns the number of the saga: see the view saga.';

-- A dead command's own compensation.
CREATE FUNCTION inventory.command_compensate(message_id bigint, key text, payload jsonb) RETURNS void
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT inventory.command_append(c ->> 'command', key,
		inventory.command_payload(inventory.command_role(payload)::oid, c ->> 'command',
			inventory.command_substitute(coalesce(c -> 'arguments', '{}'), '{}'))
		|| jsonb_build_object('compensation', true, 'compensates', message_id))
	FROM (SELECT payload -> 'compensate_with') x(c)
$$;

REVOKE ALL ON FUNCTION inventory.command_compensate(bigint, text, jsonb) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_compensate(bigint, text, jsonb) IS
'The engine''s own: hands in the compensation of a command that was given up.';

-- What there is

CREATE INDEX parked_message_command_idx ON inventory.parked_message (number)
	WHERE topic >= 'inventory.command.' AND topic < 'inventory.command/';

COMMENT ON INDEX inventory.parked_message_command_idx IS 'Query: a parked command by its number (command_result, cancel).';

-- Transactions are compared as signed numbers, so those of restored messages, from
-- 2^63 on, are before all others; see restore.sql.
CREATE FUNCTION inventory.first_after(boundary pg_snapshot) RETURNS xid8
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE WHEN pg_snapshot_xmin(boundary) < '9223372036854775808'::xid8 THEN pg_snapshot_xmin(boundary) ELSE '0'::xid8 END;

REVOKE ALL ON FUNCTION inventory.first_after(pg_snapshot) FROM PUBLIC;

COMMENT ON FUNCTION inventory.first_after(pg_snapshot) IS 'The engine''s own: transactions before this one need not be looked for beyond a cursor; 0 if there is no cursor.';

CREATE VIEW inventory.pending_command WITH (security_barrier) AS
WITH waiting AS (
	(SELECT DISTINCT ON (p.number) p.number AS message_id, p.key, p.payload, p.created_at, p.state, p.attempts, p.due_at, p.last_error
	FROM inventory.parked_message p
	JOIN inventory.subscription s USING (subscription_id)
	WHERE s.name = 'inventory.commands' AND p.state IN ('retry', 'delayed', 'deferred')
		AND p.topic >= 'inventory.command.' AND p.topic < 'inventory.command/'
		AND p.topic NOT IN ('inventory.command.dead', 'inventory.command.cancelled')
	ORDER BY p.number, p.position DESC)
	UNION ALL
	SELECT o.message_id, o.key, o.payload, o.created_at, 'pending', 0, NULL, NULL
	FROM inventory.subscription s
	-- As this statement sees it, like the results: cursors() would be later than these.
	-- A snapshot from before the journal was emptied finds no cursor, but the results.
	LEFT JOIN LATERAL (SELECT k.after, k.upto, k.last_number FROM inventory.delivery_cursor k
		WHERE k.subscription_id = s.subscription_id ORDER BY k.cursor_no DESC LIMIT 1) c ON true
	JOIN inventory.outbox o ON o.xid >= inventory.first_after(c.after)
	WHERE s.name = 'inventory.commands' AND o.topic ^@ 'inventory.command.' AND o.topic NOT IN ('inventory.command.dead', 'inventory.command.cancelled')
		AND inventory.included(o.xid, c.after) IS NOT TRUE
		AND (c.upto IS NULL OR o.message_id > c.last_number OR NOT inventory.included(o.xid, c.upto))
		AND NOT EXISTS (SELECT FROM inventory.parked_message p
			WHERE p.subscription_id = s.subscription_id AND p.number = o.message_id)
)
SELECT w.message_id, w.payload ->> 'command' AS command, w.payload -> 'arguments' AS arguments, w.key,
	CASE w.state WHEN 'retry' THEN CASE WHEN w.attempts > 0 THEN 'retrying' ELSE 'pending' END
		WHEN 'deferred' THEN 'pending' ELSE w.state END AS state,
	w.attempts, w.due_at, w.last_error,
	inventory.command_role(w.payload) AS submitted_by, w.created_at AS submitted_at,
	t.waiting, t.waiting > current_setting('inventory.command_overdue')::interval AS overdue,
	(w.payload ->> 'saga')::bigint AS saga_id
FROM waiting w
CROSS JOIN LATERAL (SELECT greatest(inventory.clock_time()
	- greatest(w.created_at, (w.payload ->> 'not_before')::timestamptz), interval '0') AS waiting) t
WHERE NOT EXISTS (SELECT FROM inventory.command_result r WHERE r.message_id = w.message_id)
	AND inventory.may_see_command(inventory.command_role(w.payload));

COMMENT ON VIEW inventory.pending_command IS 'Commands that are not finished: of the caller, of everybody for managers.';

COMMENT ON COLUMN inventory.pending_command.message_id IS 'Number of the command.';

COMMENT ON COLUMN inventory.pending_command.command IS 'Which function.';

COMMENT ON COLUMN inventory.pending_command.arguments IS 'Its arguments.';

COMMENT ON COLUMN inventory.pending_command.key IS 'Commands with the same key are executed in order.';

COMMENT ON COLUMN inventory.pending_command.state IS 'pending; delayed: until not_before; retrying: has failed and is tried again at due_at.';

COMMENT ON COLUMN inventory.pending_command.attempts IS 'How often it has been tried.';

COMMENT ON COLUMN inventory.pending_command.due_at IS 'When it is tried next; NULL: as soon as it is its turn.';

COMMENT ON COLUMN inventory.pending_command.last_error IS 'Why it last failed.';

COMMENT ON COLUMN inventory.pending_command.submitted_by IS 'Who has submitted it.';

COMMENT ON COLUMN inventory.pending_command.submitted_at IS 'When.';

COMMENT ON COLUMN inventory.pending_command.waiting IS 'For how long it could have been executed already.';

COMMENT ON COLUMN inventory.pending_command.overdue IS 'Whether that is longer than inventory.command_overdue.';

COMMENT ON COLUMN inventory.pending_command.saga_id IS 'The saga that it belongs to.';

CREATE VIEW inventory.command WITH (security_barrier) AS
SELECT r.message_id, r.command, r.key, r.state, r.result, r.error, r.sqlstate, r.attempts, NULL::timestamptz AS due_at,
	r.submitted_by, r.submitted_at, r.finished_at, r.saga_id
FROM inventory.command_result r
WHERE inventory.may_see_command(r.submitted_by)
UNION ALL
SELECT p.message_id, p.command, p.key, p.state, NULL, p.last_error, NULL, p.attempts, p.due_at,
	p.submitted_by, p.submitted_at, NULL, p.saga_id
FROM inventory.pending_command p;

COMMENT ON VIEW inventory.command IS 'Commands, finished ones for inventory.request_retention days: of the caller, of everybody for managers.';

COMMENT ON COLUMN inventory.command.message_id IS 'Number of the command.';

COMMENT ON COLUMN inventory.command.command IS 'Which function.';

COMMENT ON COLUMN inventory.command.key IS 'Commands with the same key are executed in order.';

COMMENT ON COLUMN inventory.command.state IS 'pending; delayed: until not_before; retrying: has failed and is tried again at due_at; done; dead: has failed and is not tried any more; cancelled.';

COMMENT ON COLUMN inventory.command.result IS 'What the function returned.';

COMMENT ON COLUMN inventory.command.error IS 'Why it has failed, or last failed.';

COMMENT ON COLUMN inventory.command.sqlstate IS 'The error''s SQLSTATE, of one that is dead.';

COMMENT ON COLUMN inventory.command.attempts IS 'How often it has been tried.';

COMMENT ON COLUMN inventory.command.due_at IS 'When it is tried next.';

COMMENT ON COLUMN inventory.command.submitted_by IS 'Who has submitted it, and whom it is executed as.';

COMMENT ON COLUMN inventory.command.submitted_at IS 'When.';

COMMENT ON COLUMN inventory.command.finished_at IS 'When it came to its end.';

COMMENT ON COLUMN inventory.command.saga_id IS 'The saga that it belongs to.';

CREATE FUNCTION inventory.command_result(message_id bigint, OUT state text, OUT result jsonb, OUT error text,
	OUT sqlstate text, OUT attempts integer, OUT due_at timestamptz, OUT finished_at timestamptz) RETURNS record
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.state, c.result, c.error, c.sqlstate, c.attempts, c.due_at, c.finished_at
	FROM inventory.command c WHERE c.message_id = command_result.message_id
$$;

REVOKE ALL ON FUNCTION inventory.command_result(bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_result(bigint) IS
'What has become of a command: state (pending, delayed, retrying, done, dead, cancelled), result, error, attempts, and when it is tried next. NULLs for a number that is not a command of the caller''s.';

CREATE VIEW inventory.saga WITH (security_barrier) AS
SELECT r.saga_id,
	CASE WHEN NOT t.failing THEN CASE WHEN t.done = t.steps THEN 'done' ELSE 'running' END
		WHEN t.undoing THEN 'compensating'
		WHEN t.not_undone OR t.undone < t.owed THEN 'failed' ELSE 'compensated' END AS state,
	t.done, t.steps, t.undone, t.error, r.submitted_by, r.submitted_at,
	CASE WHEN t.done = t.steps OR t.failing AND NOT t.undoing THEN t.last_finished_at END AS finished_at
FROM inventory.saga_run r
CROSS JOIN LATERAL (
	SELECT jsonb_array_length(r.commands) AS steps,
		count(*) FILTER (WHERE NOT s.compensation AND c.state = 'done')::integer AS done,
		count(*) FILTER (WHERE s.compensation AND c.state = 'done')::integer AS undone,
		count(*) FILTER (WHERE NOT s.compensation AND c.state = 'done' AND r.commands -> (s.step - 1) ? 'compensate_with')::integer AS owed,
		coalesce(bool_or(NOT s.compensation AND c.state IN ('dead', 'cancelled')), false) AS failing,
		coalesce(bool_or(s.compensation AND c.state IS NULL), false) AS undoing,
		coalesce(bool_or(s.compensation AND c.state IN ('dead', 'cancelled')), false) AS not_undone,
		string_agg(CASE WHEN c.state IN ('dead', 'cancelled') THEN
			format('%s %s: %s', CASE WHEN s.compensation THEN 'compensation of command' ELSE 'command' END, s.step, coalesce(c.error, c.state)) END,
			'; ' ORDER BY s.compensation, s.step DESC) AS error,
		max(c.finished_at) AS last_finished_at
	FROM inventory.saga_step s LEFT JOIN inventory.command_result c USING (message_id)
	WHERE s.saga_id = r.saga_id
) t
WHERE inventory.may_see_command(r.submitted_by);

COMMENT ON VIEW inventory.saga IS 'Sagas: of the caller, of everybody for managers.';

COMMENT ON COLUMN inventory.saga.saga_id IS 'Number of the saga.';

COMMENT ON COLUMN inventory.saga.state IS 'running; done; compensating: a command was given up or cancelled, and those before it are being undone; compensated; failed: one of these could not be undone.';

COMMENT ON COLUMN inventory.saga.done IS 'How many commands have been done.';

COMMENT ON COLUMN inventory.saga.steps IS 'How many commands there are.';

COMMENT ON COLUMN inventory.saga.undone IS 'How many commands have been compensated.';

COMMENT ON COLUMN inventory.saga.error IS 'Why it has failed.';

COMMENT ON COLUMN inventory.saga.submitted_by IS 'Who has submitted it, and whom its commands are executed as.';

COMMENT ON COLUMN inventory.saga.submitted_at IS 'When.';

COMMENT ON COLUMN inventory.saga.finished_at IS 'When it came to its end.';

-- Cancelling and retrying

CREATE FUNCTION inventory.command_find(message_id bigint, OUT command text, OUT key text, OUT payload jsonb,
	OUT submitted_by regrole, OUT submitted_at timestamptz, OUT state text, OUT attempts integer) RETURNS SETOF record
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.command, c.key,
		coalesce((SELECT p.payload FROM inventory.parked_message p JOIN inventory.subscription s USING (subscription_id)
			WHERE s.name = 'inventory.commands' AND p.number = c.message_id
				AND p.topic >= 'inventory.command.' AND p.topic < 'inventory.command/'
			LIMIT 1),
			(SELECT o.payload FROM inventory.outbox o
			WHERE o.message_id = c.message_id AND c.state = 'pending'
				AND o.xid >= inventory.first_after((SELECT k.after FROM inventory.delivery_cursor k JOIN inventory.subscription s USING (subscription_id)
					WHERE s.name = 'inventory.commands' ORDER BY k.cursor_no DESC LIMIT 1)))),
		c.submitted_by, c.submitted_at, c.state, c.attempts
	FROM inventory.command c WHERE c.message_id = command_find.message_id
$$;

REVOKE ALL ON FUNCTION inventory.command_find(bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_find(bigint) IS 'The engine''s own: what cancel() has to know of a command.';

CREATE FUNCTION inventory.command_retry(before timestamptz) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_command_retry';

REVOKE ALL ON FUNCTION inventory.command_retry(timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_retry(timestamptz) IS
'The engine''s own: makes failed commands due that could have been executed before a time.';

CREATE FUNCTION inventory.cancel(message_id bigint) RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_cancel';

REVOKE ALL ON FUNCTION inventory.cancel(bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.cancel(bigint) IS
'Cancels a command of the caller''s that is not finished; managers, anybody''s. Waits for one that is just being executed, and fails with IV027 if it is done or dead. False if it had been cancelled already. In a saga, those done before are compensated.';

CREATE FUNCTION inventory.retry_pending(older_than interval DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	before timestamptz := inventory.clock_time()
		- coalesce(older_than, current_setting('inventory.command_overdue')::interval);
	count bigint := (SELECT count(*) FROM inventory.pending_command p
		WHERE p.state <> 'delayed' AND inventory.clock_time() - p.waiting <= before);
BEGIN
	IF count = 0 THEN
		RETURN 0;
	END IF;
	PERFORM inventory.command_retry(before);
	PERFORM inventory.deliver('inventory.commands');
	RETURN count;
EXCEPTION WHEN object_in_use THEN
	-- A delivery process does it, when this has been committed.
	PERFORM inventory.command_retry(before);
	RETURN count;
END
$$;

REVOKE ALL ON FUNCTION inventory.retry_pending(interval) FROM PUBLIC;

COMMENT ON FUNCTION inventory.retry_pending(interval) IS
'Tries commands at once that have been pending for longer than this, or than inventory.command_overdue; in the caller''s session where no delivery process runs. Returns how many there were.';

-- Old ones go: a saga with all of its commands, when it has come to its end.
CREATE FUNCTION inventory.command_sweep(first tid, until tid, before timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	removed bigint[];
	sagas bigint[];
BEGIN
	SELECT array_agg(DISTINCT s.saga_id) INTO sagas
	FROM inventory.saga s
	WHERE s.finished_at < before AND s.saga_id IN (SELECT r.saga_id FROM inventory.command_result r
		WHERE r.ctid >= first AND r.ctid < until AND r.finished_at < before);
	WITH gone AS (
		DELETE FROM inventory.command_result r
		WHERE r.ctid >= first AND r.ctid < until AND r.finished_at < before AND r.saga_id IS NULL
				-- While its message is still to be delivered, it must not be executed again.
				AND NOT EXISTS (SELECT FROM inventory.parked_message p
					WHERE p.number = r.message_id AND p.topic >= 'inventory.command.' AND p.topic < 'inventory.command/'
						AND p.state IN ('retry', 'delayed', 'deferred'))
			OR r.message_id IN (SELECT s.message_id FROM inventory.saga_step s WHERE s.saga_id = ANY (sagas))
		RETURNING r.message_id)
	SELECT array_agg(g.message_id) INTO removed FROM gone g;
	DELETE FROM inventory.saga_step s WHERE s.saga_id = ANY (sagas);
	DELETE FROM inventory.saga_run s WHERE s.saga_id = ANY (sagas);
	-- Without its result, a dead one could be executed again.
	DELETE FROM inventory.parked_message p USING inventory.subscription s
	WHERE p.subscription_id = s.subscription_id AND s.sink = 'command'
		AND p.state IN ('dead', 'skipped') AND p.number = ANY (removed);
	RETURN coalesce(cardinality(removed), 0);
END
$$;

REVOKE ALL ON FUNCTION inventory.command_sweep(tid, tid, timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION inventory.command_sweep(tid, tid, timestamptz) IS
'The engine''s own: removes old results of commands from some blocks.';

-- Only what has not been archived can be told event by event.
CREATE FUNCTION inventory.check_kept(at timestamptz) RETURNS boolean
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	archived_until timestamptz := (SELECT max(a.recorded_until) FROM inventory.archived a);
BEGIN
	IF at < archived_until THEN
		RAISE EXCEPTION 'the events before % have been archived', archived_until
			USING ERRCODE = 'IV022', HINT = 'The tables named in inventory.archived have them, if they were kept.';
	END IF;
	RETURN at IS NOT NULL;
END
$$;

REVOKE ALL ON FUNCTION inventory.check_kept(timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION inventory.check_kept(timestamptz) IS 'The engine''s own: an error (IV022) if the events of a moment have been archived.';

CREATE OR REPLACE FUNCTION inventory.history(
	sku text, location text, lot text DEFAULT NULL, condition text DEFAULT 'good'
) RETURNS TABLE (
	event_id bigint, type inventory.event_type, on_hand_delta bigint, reserved_delta bigint,
	committed_delta bigint, on_hand bigint, reserved bigint, committed bigint,
	reservation_id bigint, request_id text, reference text, reason text, actor text,
	recorded_at timestamptz, effective_at timestamptz, metadata jsonb)
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT v.event_id, v.type, v.on_hand_delta, v.reserved_delta, v.committed_delta,
		(coalesce(b.on_hand, 0) + sum(v.on_hand_delta) OVER upto)::bigint,
		(coalesce(b.reserved, 0) + sum(v.reserved_delta) OVER upto)::bigint,
		(coalesce(b.committed, 0) + sum(v.committed_delta) OVER upto)::bigint,
		v.reservation_id, v.request_id, v.reference, v.reason, v.actor,
		v.recorded_at, coalesce(v.effective_at, v.recorded_at), v.metadata
	FROM inventory.event v
	LEFT JOIN inventory.baseline b ON b.stock_id = v.stock_id
	WHERE v.stock_id = (
		SELECT k.stock_id
		FROM inventory.stock k
		JOIN inventory.sku s ON s.sku_id = k.sku_id
		JOIN inventory.location l ON l.location_id = k.location_id
		LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
		WHERE s.sku = history.sku AND l.location = history.location
			AND t.lot IS NOT DISTINCT FROM history.lot AND k.condition = history.condition)
	WINDOW upto AS (ORDER BY v.event_id ROWS UNBOUNDED PRECEDING)
	ORDER BY v.event_id
$$;

COMMENT ON FUNCTION inventory.history(text, text, text, text) IS
'The events of one stock item, oldest first, each with the quantities after it, in base units; from the end of the archived time on.';

CREATE FUNCTION inventory.item_at(
	stock_id bigint, at timestamptz,
	OUT on_hand bigint, OUT reserved bigint, OUT committed bigint, OUT event_count bigint) RETURNS record
	LANGUAGE c STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_item_at';

REVOKE ALL ON FUNCTION inventory.item_at(bigint, timestamptz) FROM PUBLIC;

COMMENT ON FUNCTION inventory.item_at(bigint, timestamptz) IS
'What the events of a stock item that were recorded up to a moment come to, in base units; from its last snapshot before.';

CREATE TYPE inventory.stock_position AS (
	sku text,
	location text,
	lot text,
	condition text,
	on_hand bigint,
	reserved bigint,
	committed bigint,
	event_count bigint
);

COMMENT ON TYPE inventory.stock_position IS 'What a stock item came to at a moment.';

COMMENT ON COLUMN inventory.stock_position.sku IS 'SKU code.';

COMMENT ON COLUMN inventory.stock_position.location IS 'Location code.';

COMMENT ON COLUMN inventory.stock_position.lot IS 'Lot code; NULL when the SKU is not tracked.';

COMMENT ON COLUMN inventory.stock_position.condition IS 'good, damaged, quality_control or quarantine.';

COMMENT ON COLUMN inventory.stock_position.on_hand IS 'Base units physically there.';

COMMENT ON COLUMN inventory.stock_position.reserved IS 'Base units held; a hold counts until its expire event.';

COMMENT ON COLUMN inventory.stock_position.committed IS 'Base units promised to confirmed orders.';

COMMENT ON COLUMN inventory.stock_position.event_count IS 'Number of events up to the moment.';

-- The stock items that match; no code is all of them.
CREATE FUNCTION inventory.stock_items(sku text, location text) RETURNS SETOF inventory.stock
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF stock_items.sku IS NOT NULL AND NOT EXISTS (SELECT FROM inventory.sku s WHERE s.sku = stock_items.sku) THEN
		RAISE EXCEPTION 'unknown SKU "%"', stock_items.sku USING ERRCODE = 'IV002';
	END IF;
	IF stock_items.location IS NOT NULL AND NOT EXISTS (SELECT FROM inventory.location l WHERE l.location = stock_items.location) THEN
		RAISE EXCEPTION 'unknown location "%"', stock_items.location USING ERRCODE = 'IV002';
	END IF;
	IF stock_items.sku IS NULL THEN
		RETURN QUERY SELECT k.* FROM inventory.stock k JOIN inventory.location l ON l.location_id = k.location_id
			WHERE stock_items.location IS NULL OR l.location = stock_items.location;
	ELSE
		RETURN QUERY SELECT k.* FROM inventory.sku s
			JOIN inventory.stock k ON k.sku_id = s.sku_id
			JOIN inventory.location l ON l.location_id = k.location_id
			WHERE s.sku = stock_items.sku AND (stock_items.location IS NULL OR l.location = stock_items.location);
	END IF;
END
$$;

REVOKE ALL ON FUNCTION inventory.stock_items(text, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.stock_items(text, text) IS
'The stock items of a SKU, in a location, or both; of all for NULL. Unknown codes: IV002.';

CREATE FUNCTION inventory.stock_at(at timestamptz, sku text DEFAULT NULL, location text DEFAULT NULL)
	RETURNS SETOF inventory.stock_position
	LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.sku, l.location, t.lot, k.condition, q.on_hand, q.reserved, q.committed, q.event_count
	FROM inventory.stock_items(stock_at.sku, stock_at.location) k
	JOIN inventory.sku s ON s.sku_id = k.sku_id
	JOIN inventory.location l ON l.location_id = k.location_id
	LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
	CROSS JOIN LATERAL inventory.item_at(k.stock_id, stock_at.at) q
	WHERE (SELECT inventory.check_kept(stock_at.at)) AND q.event_count > 0
$$;

REVOKE ALL ON FUNCTION inventory.stock_at(timestamptz, text, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.stock_at(timestamptz, text, text) IS
'What there was, as far as the engine had learned it by then: the sum of the events with recorded_at up to the moment, in base units, of all stock items, or those of a SKU, a location, or both. Unknown codes: IV002; archived moments: IV022.';

CREATE FUNCTION inventory.position(effective_at timestamptz, sku text DEFAULT NULL, location text DEFAULT NULL)
	RETURNS SETOF inventory.stock_position
	LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.sku, l.location, t.lot, k.condition, q.on_hand, q.reserved, q.committed, q.event_count
	FROM inventory.stock_items("position".sku, "position".location) k
	JOIN inventory.sku s ON s.sku_id = k.sku_id
	JOIN inventory.location l ON l.location_id = k.location_id
	LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
	LEFT JOIN inventory.baseline b ON b.stock_id = k.stock_id
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(v.on_hand_delta), 0) AS on_hand, coalesce(sum(v.reserved_delta), 0) AS reserved,
			coalesce(sum(v.committed_delta), 0) AS committed, count(*) AS event_count
		FROM inventory.event v
		WHERE v.stock_id = k.stock_id
			AND coalesce(v.effective_at, v.recorded_at) <= "position".effective_at) e
	CROSS JOIN LATERAL (
		SELECT (coalesce(b.on_hand, 0) + e.on_hand)::bigint AS on_hand, (coalesce(b.reserved, 0) + e.reserved)::bigint AS reserved,
			(coalesce(b.committed, 0) + e.committed)::bigint AS committed, coalesce(b.event_count, 0) + e.event_count AS event_count) q
	WHERE (SELECT inventory.check_kept("position".effective_at)) AND q.event_count > 0
$$;

REVOKE ALL ON FUNCTION inventory.position(timestamptz, text, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.position(timestamptz, text, text) IS
'What there really was, as far as is known now: the sum of the events with effective_at up to the moment, in base units, whenever they were recorded; of all stock items, or those of a SKU, a location, or both. Reads all events of them. Unknown codes: IV002; archived moments: IV022.';

-- The hash chain: each tick's hash covers the hash before and the events of its
-- batch.  So whoever keeps the hash of a tick somewhere else can tell later
-- that nothing before it was changed, by nobody, the superuser included.

CREATE FUNCTION inventory.verify_chain(from_tick bigint DEFAULT NULL, to_tick bigint DEFAULT NULL, key text DEFAULT NULL)
	RETURNS TABLE (tick_id bigint, expected bytea, found bytea, detail text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- Events up to here may have been archived.
	anchor bigint := coalesce((SELECT max(a.tick_id) FROM inventory.archived a), 0);
	previous bigint := greatest(anchor, coalesce(from_tick, 1) - 1);
	row record;
	computed bytea;
BEGIN
	IF anchor > 0 AND NOT EXISTS (SELECT FROM inventory.tick t WHERE t.tick_id = anchor) THEN
		RETURN QUERY SELECT anchor, NULL::bytea, NULL::bytea, 'the tick is missing';
	END IF;
	FOR row IN
		SELECT k.tick_id, k.hash, k.key_id FROM inventory.tick k
		WHERE k.tick_id > previous AND (to_tick IS NULL OR k.tick_id <= to_tick)
		ORDER BY k.tick_id
	LOOP
		IF row.tick_id <> previous + 1 THEN
			RETURN QUERY SELECT n, NULL::bytea, NULL::bytea, 'the tick is missing'
			FROM generate_series(previous + 1, row.tick_id - 1) AS n;
		END IF;
		previous := row.tick_id;
		PERFORM inventory.progress_done(1);
		CONTINUE WHEN key IS NULL AND row.key_id <> coalesce(inventory.hash_key_id(), '');
		computed := inventory.tick_hash(row.tick_id, key);
		IF computed IS DISTINCT FROM row.hash THEN
			RETURN QUERY SELECT row.tick_id, computed, row.hash,
				CASE WHEN computed IS NULL THEN 'the tick before is missing'
					ELSE 'its hash does not agree with its events and the hash before' END;
		END IF;
	END LOOP;
	-- Ticks that were taken away at the end.
	IF to_tick IS NULL AND previous < (SELECT max(v.tick_id) FROM inventory.verification v) THEN
		RETURN QUERY SELECT n, NULL::bytea, NULL::bytea, 'the tick is missing'
		FROM generate_series(previous + 1, (SELECT max(v.tick_id) FROM inventory.verification v)) AS n;
	END IF;
END
$$;

REVOKE ALL ON FUNCTION inventory.verify_chain(bigint, bigint, text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.verify_chain(bigint, bigint, text) IS
'Computes the hashes of a range of ticks anew from their events: one row per tick whose hash differs or that is missing. Ticks with a key are compared if it is inventory.hash_key, or all of them with the key that is given. Ticks whose events have been archived are not computed; the last of them is where the chain starts.';

CREATE FUNCTION inventory.chain_anchor(OUT tick_id bigint, OUT ticked_at timestamptz, OUT events bigint, OUT hash bytea)
	RETURNS record
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.tick_id, t.ticked_at, t.events, t.hash FROM inventory.tick t ORDER BY t.tick_id DESC LIMIT 1
$$;

REVOKE ALL ON FUNCTION inventory.chain_anchor() FROM PUBLIC;

COMMENT ON FUNCTION inventory.chain_anchor() IS
'The latest tick with its hash, which stands for everything up to it: keep it somewhere that the database''s administrator cannot change, and give it to check_anchor() later.';

CREATE FUNCTION inventory.check_anchor(tick_id bigint, hash bytea) RETURNS boolean
	LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT (SELECT t.hash = check_anchor.hash FROM inventory.tick t WHERE t.tick_id = check_anchor.tick_id)
$$;

REVOKE ALL ON FUNCTION inventory.check_anchor(bigint, bytea) FROM PUBLIC;

COMMENT ON FUNCTION inventory.check_anchor(bigint, bytea) IS
'Whether an anchor that was kept outside agrees with the chain; false if the chain was written anew. NULL if the tick is not there: of archived time, one tick a day is kept.';

-- The background workers, as they show themselves in shared memory.

CREATE FUNCTION inventory.stat_workers(
	OUT database text, OUT task text, OUT pid integer, OUT state text,
	OUT last_start timestamptz, OUT last_end timestamptz, OUT runs bigint,
	OUT rows bigint, OUT failures bigint, OUT last_failure timestamptz,
	OUT last_error text, OUT next_run timestamptz, OUT backlog bigint,
	OUT lag interval) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_stat_workers';

REVOKE ALL ON FUNCTION inventory.stat_workers() FROM PUBLIC;

COMMENT ON FUNCTION inventory.stat_workers() IS 'Source of the view stat_worker.';

CREATE VIEW inventory.stat_worker AS SELECT * FROM inventory.stat_workers();

COMMENT ON VIEW inventory.stat_worker IS 'One row for the launcher, and one per task of the worker of each database with the extension, also while there is no worker; since the start of the server.';

COMMENT ON COLUMN inventory.stat_worker.database IS 'The database; NULL for the launcher, which is the server''s.';

COMMENT ON COLUMN inventory.stat_worker.task IS 'launcher, projection, expiry, maintenance or delivery: looking after the delivery processes (see stat_delivery).';

COMMENT ON COLUMN inventory.stat_worker.pid IS 'The process, the same for all tasks of a database; NULL while there is none.';

COMMENT ON COLUMN inventory.stat_worker.state IS 'running; idle; backoff: it failed and waits to try again; stopped: it was asked to; crashed: the process failed and will be started again; needs update: the extension is not of the library''s version; no free worker process: see max_worker_processes.';

COMMENT ON COLUMN inventory.stat_worker.last_start IS 'When it last began to run.';

COMMENT ON COLUMN inventory.stat_worker.last_end IS 'When it last ended, in whatever way.';

COMMENT ON COLUMN inventory.stat_worker.runs IS 'Times it ran without a failure.';

COMMENT ON COLUMN inventory.stat_worker.rows IS 'Events projected, lines expired, units of maintenance, delivery processes started; of the launcher, workers started.';

COMMENT ON COLUMN inventory.stat_worker.failures IS 'Times it failed.';

COMMENT ON COLUMN inventory.stat_worker.last_failure IS 'When it last failed.';

COMMENT ON COLUMN inventory.stat_worker.last_error IS 'Why it last failed, or why there is no worker. Of other databases only for pg_read_all_stats.';

COMMENT ON COLUMN inventory.stat_worker.next_run IS 'When it will run next, if nothing happens before; NULL: when there is something to do. While there is no worker: when one will be started.';

COMMENT ON COLUMN inventory.stat_worker.backlog IS 'What it knows to be left to do; NULL: it has not counted.';

COMMENT ON COLUMN inventory.stat_worker.lag IS 'How long the oldest work has been waiting.';

CREATE TABLE inventory.verification (
	verification_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT verification_pkey PRIMARY KEY,
	tick_id bigint NOT NULL,
	scope text COLLATE "C" NOT NULL,
	verified_at timestamptz NOT NULL
);

COMMENT ON TABLE inventory.verification IS 'What verify() has found to be without discrepancy: verify(''recent'') goes on from there.';

COMMENT ON COLUMN inventory.verification.verification_id IS 'Number of the verification.';

COMMENT ON COLUMN inventory.verification.tick_id IS 'The tick up to which everything agreed.';

COMMENT ON COLUMN inventory.verification.scope IS 'What was asked for: all or recent.';

COMMENT ON COLUMN inventory.verification.verified_at IS 'When it was verified.';

COMMENT ON INDEX inventory.verification_pkey IS 'Query: the last verification (verify).';

SELECT pg_extension_config_dump('inventory.verification', '');

SELECT pg_extension_config_dump('inventory.verification_verification_id_seq', '');

-- Where to look in an index for the transactions beyond a tick (NULL: from the
-- beginning) and up to another (NULL: now): one range, or one of restored
-- transactions and one of this cluster's.  Ranges hold others too: filter by
-- included().
CREATE FUNCTION inventory.xid_ranges(after pg_snapshot, upto pg_snapshot, OUT first xid8, OUT last xid8) RETURNS SETOF record
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(pg_snapshot_xmin(after), '9223372036854775808'::xid8),
		CASE WHEN pg_snapshot_xmax(upto) >= '9223372036854775808'::xid8 THEN pg_snapshot_xmax(upto) ELSE '18446744073709551615'::xid8 END
	WHERE after IS NULL OR pg_snapshot_xmax(after) >= '9223372036854775808'::xid8
	UNION ALL
	SELECT CASE WHEN pg_snapshot_xmax(after) < '9223372036854775808'::xid8 THEN pg_snapshot_xmin(after) ELSE '0'::xid8 END,
		coalesce(pg_snapshot_xmax(upto), '9223372036854775807'::xid8)
	WHERE upto IS NULL OR pg_snapshot_xmax(upto) < '9223372036854775808'::xid8;
END;
REVOKE ALL ON FUNCTION inventory.xid_ranges(pg_snapshot, pg_snapshot) FROM PUBLIC;

COMMENT ON FUNCTION inventory.xid_ranges(pg_snapshot, pg_snapshot) IS
'The engine''s own: ranges of transaction ids with all that are beyond one tick and included in another.';

-- What the events of each stock item come to: now, and as of the latest tick,
-- which is what the stock rows should say (row_...).  Of all items or the given
-- ones, from the baseline; or of those with events since a tick, from their last
-- snapshot up to it, which has been verified.
CREATE FUNCTION inventory.booked(since bigint, items bigint[] DEFAULT NULL) RETURNS TABLE (
	stock_id bigint, on_hand bigint, reserved bigint, committed bigint,
	row_on_hand bigint, row_reserved bigint, row_committed bigint, row_event_count bigint)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	latest pg_snapshot := (SELECT t.snapshot FROM inventory.tick t ORDER BY t.tick_id DESC LIMIT 1);
	verified pg_snapshot := (SELECT t.snapshot FROM inventory.tick t WHERE t.tick_id = since);
BEGIN
	IF verified IS NULL THEN
		RETURN QUERY
		SELECT coalesce(b.stock_id, e.stock_id),
			coalesce(b.on_hand, 0) + coalesce(e.on_hand, 0), coalesce(b.reserved, 0) + coalesce(e.reserved, 0),
			coalesce(b.committed, 0) + coalesce(e.committed, 0),
			coalesce(b.on_hand, 0) + coalesce(e.row_on_hand, 0), coalesce(b.reserved, 0) + coalesce(e.row_reserved, 0),
			coalesce(b.committed, 0) + coalesce(e.row_committed, 0), coalesce(b.event_count, 0) + coalesce(e.row_event_count, 0)
		FROM inventory.baseline b
		FULL JOIN (
			SELECT v.stock_id, sum(v.on_hand_delta)::bigint AS on_hand,
				sum(v.reserved_delta)::bigint AS reserved, sum(v.committed_delta)::bigint AS committed,
				sum(v.on_hand_delta) FILTER (WHERE v.ticked)::bigint AS row_on_hand,
				sum(v.reserved_delta) FILTER (WHERE v.ticked)::bigint AS row_reserved,
				sum(v.committed_delta) FILTER (WHERE v.ticked)::bigint AS row_committed,
				count(*) FILTER (WHERE v.ticked) AS row_event_count
			FROM (SELECT v.*, coalesce(inventory.included(v.xid, latest), false) AS ticked
				FROM inventory.event v
				WHERE (items IS NULL OR v.stock_id = ANY (items)) AND inventory.progress_row() OFFSET 0) v
			GROUP BY v.stock_id) e ON e.stock_id = b.stock_id
		WHERE items IS NULL OR coalesce(b.stock_id, e.stock_id) = ANY (items);
		RETURN;
	END IF;
	RETURN QUERY
	WITH touched AS MATERIALIZED (
		SELECT DISTINCT v.stock_id FROM inventory.xid_ranges(verified, NULL) r
		JOIN inventory.event v ON v.xid >= r.first AND v.xid <= r.last
		WHERE NOT inventory.included(v.xid, verified)
	)
	SELECT d.stock_id,
		coalesce(p.on_hand, b.on_hand, 0) + e.on_hand, coalesce(p.reserved, b.reserved, 0) + e.reserved,
		coalesce(p.committed, b.committed, 0) + e.committed,
		coalesce(p.on_hand, b.on_hand, 0) + e.row_on_hand, coalesce(p.reserved, b.reserved, 0) + e.row_reserved,
		coalesce(p.committed, b.committed, 0) + e.row_committed, coalesce(p.event_count, b.event_count, 0) + e.row_event_count
	FROM touched d
	LEFT JOIN LATERAL (
		SELECT p.*, t.snapshot FROM inventory.snapshot p JOIN inventory.tick t ON t.tick_id = p.tick_id
		WHERE p.stock_id = d.stock_id AND p.tick_id <= since ORDER BY p.tick_id DESC LIMIT 1) p ON true
	LEFT JOIN inventory.baseline b ON b.stock_id = d.stock_id
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(v.on_hand_delta), 0)::bigint AS on_hand,
			coalesce(sum(v.reserved_delta), 0)::bigint AS reserved,
			coalesce(sum(v.committed_delta), 0)::bigint AS committed,
			coalesce(sum(v.on_hand_delta) FILTER (WHERE v.ticked), 0)::bigint AS row_on_hand,
			coalesce(sum(v.reserved_delta) FILTER (WHERE v.ticked), 0)::bigint AS row_reserved,
			coalesce(sum(v.committed_delta) FILTER (WHERE v.ticked), 0)::bigint AS row_committed,
			count(*) FILTER (WHERE v.ticked) AS row_event_count
		FROM (SELECT v.*, coalesce(inventory.included(v.xid, latest), false) AS ticked
			FROM inventory.xid_ranges(p.snapshot, NULL) r
			JOIN inventory.event v ON v.stock_id = d.stock_id AND v.xid >= r.first AND v.xid <= r.last
			WHERE NOT coalesce(inventory.included(v.xid, p.snapshot), false)
				AND inventory.progress_row() OFFSET 0) v) e;
END
$$;

REVOKE ALL ON FUNCTION inventory.booked(bigint, bigint[]) FROM PUBLIC;

COMMENT ON FUNCTION inventory.booked(bigint, bigint[]) IS
'The engine''s own: what the events of each stock item come to, in base units, now and as of the latest tick: of all, of the given ones, or of those with events since a tick.';

-- What the checks find; verify() adds the codes.
CREATE TYPE inventory.finding AS (check_name text, stock_id bigint, expected bigint, found bigint, detail text);

COMMENT ON TYPE inventory.finding IS 'One difference, before verify() has added the codes.';

COMMENT ON COLUMN inventory.finding.check_name IS 'Which comparison failed.';

COMMENT ON COLUMN inventory.finding.stock_id IS 'The stock item.';

COMMENT ON COLUMN inventory.finding.expected IS 'What the events say.';

COMMENT ON COLUMN inventory.finding.found IS 'What was found instead.';

COMMENT ON COLUMN inventory.finding.detail IS 'What was compared with what.';

CREATE FUNCTION inventory.verify_items(since bigint) RETURNS SETOF inventory.finding
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	RETURN QUERY
	WITH booked AS MATERIALIZED (SELECT * FROM inventory.booked(since)),
	item AS MATERIALIZED (
		SELECT coalesce(b.stock_id, k.stock_id) AS stock_id, k.stock_id IS NOT NULL AS known,
			coalesce(b.on_hand, 0) AS on_hand, coalesce(b.reserved, 0) AS reserved, coalesce(b.committed, 0) AS committed,
			coalesce(b.row_on_hand, 0) AS row_on_hand, coalesce(b.row_reserved, 0) AS row_reserved,
			coalesce(b.row_committed, 0) AS row_committed, coalesce(b.row_event_count, 0) AS row_event_count,
			k.on_hand AS found_on_hand, k.reserved AS found_reserved, k.committed AS found_committed, k.event_count AS found_event_count
		FROM booked b
		FULL JOIN (SELECT k.* FROM inventory.stock k
			WHERE since IS NULL OR k.stock_id IN (SELECT b.stock_id FROM booked b)) k ON k.stock_id = b.stock_id
	)
	SELECT 'stock item', i.stock_id, 1::bigint, 0::bigint, 'events of a stock item that does not exist'
	FROM item i WHERE NOT i.known
	UNION ALL
	SELECT 'on hand', i.stock_id, 0, i.on_hand, 'on hand is negative' FROM item i WHERE i.on_hand < 0
	UNION ALL
	SELECT 'stock row', i.stock_id, x.expected, x.found, x.detail
	FROM item i CROSS JOIN LATERAL (VALUES
		(i.row_on_hand, i.found_on_hand, 'on_hand of the stock row, against the events up to the latest tick'),
		(i.row_reserved, i.found_reserved, 'reserved of the stock row, against the events up to the latest tick'),
		(i.row_committed, i.found_committed, 'committed of the stock row, against the events up to the latest tick'),
		(i.row_event_count, i.found_event_count, 'event_count of the stock row, against the events up to the latest tick')
	) x(expected, found, detail)
	WHERE i.known AND x.expected <> x.found
	UNION ALL
	SELECT x.check_name, i.stock_id, x.expected, x.found, x.detail
	FROM item i
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(r.quantity - r.shipped - r.released) FILTER (WHERE r.state = 'held'), 0)::bigint AS reserved,
			coalesce(sum(r.quantity - r.shipped - r.released) FILTER (WHERE r.state = 'committed'), 0)::bigint AS committed
		FROM inventory.reservation r WHERE r.stock_id = i.stock_id) r
	CROSS JOIN LATERAL (VALUES
		('reserved', i.reserved, r.reserved, 'sum of reserved_delta, against the held reservation lines'),
		('committed', i.committed, r.committed, 'sum of committed_delta, against the committed reservation lines')
	) x(check_name, expected, found, detail)
	WHERE x.expected <> x.found;
END
$$;

REVOKE ALL ON FUNCTION inventory.verify_items(bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.verify_items(bigint) IS
'The engine''s own: compares stock rows and open reservations with the events: of all stock items, or of those with events since a tick.';

CREATE FUNCTION inventory.verify_lines() RETURNS SETOF inventory.finding
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT 'reservation', r.stock_id, r.quantity, r.shipped + r.released,
		format('reservation %s line %s: shipped + released is out of range for state %s', r.reservation_id, r.line_no, r.state)
	FROM inventory.reservation r
	WHERE inventory.progress_row() AND (r.shipped < 0 OR r.released < 0 OR r.quantity <= 0
		OR CASE WHEN r.state IN ('held', 'committed') THEN r.shipped + r.released >= r.quantity
			ELSE r.shipped + r.released <> r.quantity END)
	UNION ALL
	SELECT 'stock item', r.stock_id, 1, 0,
		format('reservation %s line %s of a stock item that does not exist', r.reservation_id, r.line_no)
	FROM inventory.reservation r
	WHERE NOT EXISTS (SELECT FROM inventory.stock k WHERE k.stock_id = r.stock_id)
	UNION ALL
	SELECT 'event', d.stock_id, 1, d.n, format('event_id %s stands more than once', d.event_id)
	FROM (SELECT v.event_id, min(v.stock_id) AS stock_id, count(*) AS n
		FROM inventory.event v WHERE inventory.progress_row()
		GROUP BY v.event_id HAVING count(*) > 1) d
$$;

REVOKE ALL ON FUNCTION inventory.verify_lines() FROM PUBLIC;

COMMENT ON FUNCTION inventory.verify_lines() IS
'The engine''s own: compares each reservation line with its state, and each event number with all others.';

-- Snapshots computed anew.  Each is the one before it and the events between
-- their ticks; the first one is the baseline and the events up to its tick.  So
-- each event is read about once.  The sums run on, so that a wrong snapshot
-- does not make the next ones wrong.
CREATE FUNCTION inventory.snapshots_anew(since bigint, items bigint[] DEFAULT NULL) RETURNS TABLE (
	stock_id bigint, tick_id bigint, ticked boolean, previous_tick_id bigint,
	on_hand bigint, reserved bigint, committed bigint, event_count bigint,
	recorded_from timestamptz, recorded_until timestamptz, late boolean)
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	WITH step AS MATERIALIZED (
		SELECT p.stock_id, p.tick_id, t.tick_id IS NOT NULL AS ticked, q.tick_id AS previous_tick_id,
			b.stock_id IS NOT NULL AND q.tick_id IS NULL AS based, o.*, e.*,
			q.recorded_until AS previous_until, r.recorded_until AS last_but_one_until
		FROM inventory.snapshot p
		LEFT JOIN inventory.tick t ON t.tick_id = p.tick_id
		LEFT JOIN LATERAL (
			SELECT q.*, u.snapshot FROM inventory.snapshot q JOIN inventory.tick u ON u.tick_id = q.tick_id
			WHERE q.stock_id = p.stock_id AND q.tick_id < p.tick_id ORDER BY q.tick_id DESC LIMIT 1) q ON true
		LEFT JOIN LATERAL (
			SELECT r.recorded_until FROM inventory.snapshot r
			WHERE r.stock_id = p.stock_id AND r.tick_id < q.tick_id ORDER BY r.tick_id DESC LIMIT 1) r ON true
		LEFT JOIN inventory.baseline b ON b.stock_id = p.stock_id
		CROSS JOIN LATERAL (
			SELECT q.on_hand AS from_on_hand, q.reserved AS from_reserved, q.committed AS from_committed, q.event_count AS from_event_count
			WHERE q.tick_id <= since
			UNION ALL
			SELECT coalesce(b.on_hand, 0), coalesce(b.reserved, 0), coalesce(b.committed, 0), coalesce(b.event_count, 0)
			WHERE q.tick_id IS NULL
			UNION ALL
			SELECT 0, 0, 0, 0 WHERE q.tick_id > coalesce(since, 0)) o
		CROSS JOIN LATERAL (
			SELECT coalesce(sum(v.on_hand_delta), 0)::bigint AS more_on_hand,
				coalesce(sum(v.reserved_delta), 0)::bigint AS more_reserved,
				coalesce(sum(v.committed_delta), 0)::bigint AS more_committed, count(*) AS more_event_count,
				min(v.recorded_at) AS first_recorded, max(v.recorded_at) AS last_recorded
			FROM inventory.xid_ranges(q.snapshot, t.snapshot) r
			JOIN inventory.event v ON v.stock_id = p.stock_id AND v.xid >= r.first AND v.xid <= r.last
			WHERE inventory.included(v.xid, t.snapshot) AND NOT coalesce(inventory.included(v.xid, q.snapshot), false)) e
		WHERE p.tick_id > coalesce(since, 0) AND (items IS NULL OR p.stock_id = ANY (items)) AND inventory.progress_row()
	)
	SELECT s.stock_id, s.tick_id, s.ticked, s.previous_tick_id,
		(sum(s.from_on_hand + s.more_on_hand) OVER upto)::bigint,
		(sum(s.from_reserved + s.more_reserved) OVER upto)::bigint,
		(sum(s.from_committed + s.more_committed) OVER upto)::bigint,
		(sum(s.from_event_count + s.more_event_count) OVER upto)::bigint,
		-- Of what was archived, only the sums are known.
		CASE WHEN NOT s.based THEN s.first_recorded END,
		CASE WHEN NOT s.based THEN greatest(s.previous_until, s.last_recorded) END,
		s.last_but_one_until > s.first_recorded
	FROM step s
	WINDOW upto AS (PARTITION BY s.stock_id ORDER BY s.tick_id)
$$;

REVOKE ALL ON FUNCTION inventory.snapshots_anew(bigint, bigint[]) FROM PUBLIC;

COMMENT ON FUNCTION inventory.snapshots_anew(bigint, bigint[]) IS
'The engine''s own: the snapshots of all or the given stock items, or those since a tick, computed anew from the events up to their ticks. NULL where the events that would tell have been archived; ticked is false if its tick is not there.';

CREATE FUNCTION inventory.verify_snapshots(since bigint) RETURNS SETOF inventory.finding
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT 'snapshot', p.stock_id, x.expected, x.found, format('%s of the snapshot at tick %s', x.name, p.tick_id)
	FROM inventory.snapshots_anew(since) a
	JOIN inventory.snapshot p ON p.stock_id = a.stock_id AND p.tick_id = a.tick_id
	CROSS JOIN LATERAL (VALUES
		('on_hand', a.on_hand, p.on_hand), ('reserved', a.reserved, p.reserved),
		('committed', a.committed, p.committed), ('event_count', a.event_count, p.event_count),
		('previous_tick_id', coalesce(a.previous_tick_id, 0), coalesce(p.previous_tick_id, 0)),
		('recorded_from (microseconds)', extract(epoch FROM a.recorded_from)::numeric * 1000000, extract(epoch FROM p.recorded_from)::numeric * 1000000),
		('recorded_until (microseconds)', extract(epoch FROM a.recorded_until)::numeric * 1000000, extract(epoch FROM p.recorded_until)::numeric * 1000000),
		('late', a.late::integer, p.late::integer),
		('tick', a.ticked::integer, 1)
	) x(name, expected, found)
	WHERE x.expected <> x.found AND (a.ticked OR x.name = 'tick')
$$;

REVOKE ALL ON FUNCTION inventory.verify_snapshots(bigint) FROM PUBLIC;

COMMENT ON FUNCTION inventory.verify_snapshots(bigint) IS
'The engine''s own: compares the snapshots, or those since a tick, with the events up to their ticks.';

CREATE FUNCTION inventory.verify_levels() RETURNS SETOF inventory.finding
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'level', v.stock_id, x.expected, x.found, x.detail
	FROM inventory.levels() v
	CROSS JOIN LATERAL inventory.level_differs(v.stock_id) d
	CROSS JOIN LATERAL (VALUES
		(d.expected_on_hand, d.found_on_hand, 'on hand in shared memory, against the stock row and the events beyond it'),
		(d.expected_available, d.found_available, 'available (before safety stock) in shared memory, against the stock row and the events beyond it')
	) x(expected, found, detail)
	WHERE inventory.progress_row() AND x.expected <> x.found
$$;

REVOKE ALL ON FUNCTION inventory.verify_levels() FROM PUBLIC;

COMMENT ON FUNCTION inventory.verify_levels() IS
'The engine''s own: compares the levels in shared memory with the tables, each while no transaction is moving it.';

-- From where verify('recent') goes on: the last verified tick, or the last one
-- that archived time left.
CREATE FUNCTION inventory.verified_tick() RETURNS bigint
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT greatest(v.tick_id, (SELECT max(a.tick_id) FROM inventory.archived a))
	FROM inventory.verification v ORDER BY v.verification_id DESC LIMIT 1
$$;

REVOKE ALL ON FUNCTION inventory.verified_tick() FROM PUBLIC;

COMMENT ON FUNCTION inventory.verified_tick() IS 'The engine''s own: the tick up to which verify() has last found no discrepancy; NULL before the first time.';

CREATE FUNCTION inventory.verify(scope text DEFAULT 'all') RETURNS SETOF inventory.discrepancy
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	SET jit = off
AS $$
DECLARE
	since bigint;
	upto bigint := (SELECT max(t.tick_id) FROM inventory.tick t);
	events bigint := (SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_inherits i
		JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'inventory.event'::regclass);
	findings inventory.finding[];
BEGIN
	IF scope IS NULL OR scope NOT IN ('all', 'recent') THEN
		RAISE EXCEPTION 'unknown scope "%"', scope
			USING ERRCODE = 'IV020', HINT = 'The scopes are all and recent.';
	END IF;
	PERFORM inventory.progress_begin('verify');
	IF scope = 'recent' THEN
		since := inventory.verified_tick();
	END IF;

	-- One statement, so that all of it sees the same snapshot.
	SELECT array_agg(f) INTO findings FROM (
		SELECT f FROM inventory.progress_phase('stock rows', events), inventory.verify_items(since) f
		UNION ALL
		SELECT f FROM inventory.progress_phase('reservation lines and event numbers', events), inventory.verify_lines() f WHERE since IS NULL
		UNION ALL
		SELECT f FROM inventory.progress_phase('snapshots', 0), inventory.verify_snapshots(since) f
		UNION ALL
		SELECT ROW('tick', NULL, NULL, NULL, format('tick %s: %s', c.tick_id, c.detail))::inventory.finding
		FROM inventory.progress_phase('hash chain', coalesce(upto - coalesce(since, 0), 0)), inventory.verify_chain(since + 1) c) x;
	PERFORM inventory.progress_phase('levels', (SELECT s.entries FROM inventory.stat_levels() s));
	findings := findings || (SELECT array_agg(f) FROM inventory.verify_levels() f);

	IF findings IS NULL AND upto > coalesce(inventory.verified_tick(), 0)
		AND NOT current_setting('transaction_read_only')::boolean
	THEN
		INSERT INTO inventory.verification (tick_id, scope, verified_at)
		VALUES (upto, verify.scope, inventory.clock_time());
	END IF;
	PERFORM inventory.progress_end();
	RETURN QUERY
	SELECT f.check_name, f.stock_id, s.sku, l.location, t.lot, k.condition, f.expected, f.found, f.detail
	FROM unnest(findings) f
	LEFT JOIN inventory.stock k ON k.stock_id = f.stock_id
	LEFT JOIN inventory.sku s ON s.sku_id = k.sku_id
	LEFT JOIN inventory.location l ON l.location_id = k.location_id
	LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id;
END
$$;

REVOKE ALL ON FUNCTION inventory.verify(text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.verify(text) IS
'Compares stock rows, reservations, snapshots, the hash chain and the levels in shared memory with the events; no row means no discrepancy. all: everything; recent: what has changed since the last time that nothing was found. Does not stop anybody; can be cancelled.';

-- Repair: what is kept is computed anew from the events, which are the truth.

CREATE FUNCTION inventory.rebuild_snapshots(items bigint[]) RETURNS TABLE (stock_id bigint, snapshots bigint)
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	WITH anew AS MATERIALIZED (
		SELECT * FROM inventory.snapshots_anew(NULL, items)
	), gone AS (
		DELETE FROM inventory.snapshot p USING anew a
		WHERE p.stock_id = a.stock_id AND p.tick_id = a.tick_id AND NOT a.ticked
		RETURNING p.stock_id
	), repaired AS (
		UPDATE inventory.snapshot p SET previous_tick_id = a.previous_tick_id, on_hand = a.on_hand,
			reserved = a.reserved, committed = a.committed, event_count = a.event_count,
			recorded_from = coalesce(a.recorded_from, p.recorded_from),
			recorded_until = coalesce(a.recorded_until, p.recorded_until), late = coalesce(a.late, p.late)
		FROM anew a
		WHERE p.stock_id = a.stock_id AND p.tick_id = a.tick_id AND a.ticked
			AND (p.on_hand, p.reserved, p.committed, p.event_count, p.previous_tick_id, p.recorded_from, p.recorded_until, p.late)
				IS DISTINCT FROM (a.on_hand, a.reserved, a.committed, a.event_count, a.previous_tick_id,
					coalesce(a.recorded_from, p.recorded_from), coalesce(a.recorded_until, p.recorded_until), coalesce(a.late, p.late))
		RETURNING p.stock_id
	)
	SELECT r.stock_id, count(*) FROM (SELECT * FROM gone UNION ALL SELECT * FROM repaired) r GROUP BY r.stock_id
$$;

REVOKE ALL ON FUNCTION inventory.rebuild_snapshots(bigint[]) FROM PUBLIC;

COMMENT ON FUNCTION inventory.rebuild_snapshots(bigint[]) IS
'The engine''s own: repairs the snapshots of the given stock items, or of all; returns how many of which.';

-- The row, and what the projection goes on from: the last snapshot, and the
-- times of the events since.
CREATE FUNCTION inventory.rebuild_rows(items bigint[]) RETURNS TABLE (stock_id bigint, changes jsonb)
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	WITH wrong AS MATERIALIZED (
		SELECT k.stock_id, coalesce(b.row_on_hand, 0) AS on_hand, coalesce(b.row_reserved, 0) AS reserved,
			coalesce(b.row_committed, 0) AS committed, coalesce(b.row_event_count, 0) AS event_count,
			k.on_hand AS found_on_hand, k.reserved AS found_reserved, k.committed AS found_committed,
			k.event_count AS found_event_count
		FROM inventory.stock k
		LEFT JOIN inventory.booked(NULL, items) b ON b.stock_id = k.stock_id
		WHERE (items IS NULL OR k.stock_id = ANY (items))
			AND (k.on_hand, k.reserved, k.committed, k.event_count) IS DISTINCT FROM
				(coalesce(b.row_on_hand, 0), coalesce(b.row_reserved, 0), coalesce(b.row_committed, 0), coalesce(b.row_event_count, 0))
	), repaired AS (
		UPDATE inventory.stock k SET on_hand = w.on_hand, reserved = w.reserved, committed = w.committed,
			event_count = w.event_count, snapshot_count = coalesce(p.event_count, 0),
			recorded_from = e.recorded_from, recorded_until = greatest(p.recorded_until, e.recorded_until, b.recorded_until)
		FROM wrong w
		LEFT JOIN LATERAL (
			SELECT p.event_count, p.recorded_until, t.snapshot FROM inventory.snapshot p JOIN inventory.tick t ON t.tick_id = p.tick_id
			WHERE p.stock_id = w.stock_id ORDER BY p.tick_id DESC LIMIT 1) p ON true
		LEFT JOIN LATERAL (
			SELECT max(a.recorded_until) AS recorded_until FROM inventory.archived a, inventory.baseline b
			WHERE b.stock_id = w.stock_id AND a.events > 0) b ON true
		CROSS JOIN LATERAL (
			SELECT min(v.recorded_at) AS recorded_from, max(v.recorded_at) AS recorded_until
			FROM inventory.xid_ranges(p.snapshot, NULL) r
			JOIN inventory.event v ON v.stock_id = w.stock_id AND v.xid >= r.first AND v.xid <= r.last
			WHERE NOT coalesce(inventory.included(v.xid, p.snapshot), false)
				AND inventory.included(v.xid, (SELECT t.snapshot FROM inventory.tick t ORDER BY t.tick_id DESC LIMIT 1))) e
		WHERE k.stock_id = w.stock_id
	)
	SELECT w.stock_id, (
		SELECT jsonb_object_agg(x.name, jsonb_build_object('from', x.found, 'to', x.expected))
		FROM (VALUES ('on_hand', w.found_on_hand, w.on_hand), ('reserved', w.found_reserved, w.reserved),
			('committed', w.found_committed, w.committed), ('event_count', w.found_event_count, w.event_count)) x(name, found, expected)
		WHERE x.found <> x.expected)
	FROM wrong w
$$;

REVOKE ALL ON FUNCTION inventory.rebuild_rows(bigint[]) FROM PUBLIC;

COMMENT ON FUNCTION inventory.rebuild_rows(bigint[]) IS
'The engine''s own: repairs the stock rows of the given stock items, or of all; returns what it has changed.';

-- Under the projection lock, in statements of their own: each sees what the one
-- before has repaired.
CREATE FUNCTION inventory.rebuild_tables(sku text) RETURNS TABLE (stock_id bigint, changes jsonb)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	items bigint[];
	of_snapshots jsonb;
	of_rows jsonb;
	of_levels jsonb;
BEGIN
	IF sku IS NOT NULL THEN
		IF NOT EXISTS (SELECT FROM inventory.sku s WHERE s.sku = rebuild_tables.sku) THEN
			RAISE EXCEPTION 'unknown SKU "%"', sku USING ERRCODE = 'IV002';
		END IF;
		items := ARRAY(SELECT k.stock_id FROM inventory.stock k JOIN inventory.sku s ON s.sku_id = k.sku_id WHERE s.sku = rebuild_tables.sku);
	END IF;
	PERFORM inventory.progress_phase('snapshots', 0);
	SELECT jsonb_object_agg(r.stock_id, r.snapshots) INTO of_snapshots FROM inventory.rebuild_snapshots(items) r;
	PERFORM inventory.progress_phase('stock rows', (
		SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'inventory.event'::regclass));
	SELECT jsonb_object_agg(r.stock_id, r.changes) INTO of_rows FROM inventory.rebuild_rows(items) r;
	PERFORM inventory.progress_phase('levels', 0);
	SELECT jsonb_object_agg(v.stock_id, jsonb_build_object(
		'on_hand', jsonb_build_object('from', d.found_on_hand, 'to', d.expected_on_hand),
		'available', jsonb_build_object('from', d.found_available, 'to', d.expected_available)))
	INTO of_levels
	FROM inventory.levels() v CROSS JOIN LATERAL inventory.level_differs(v.stock_id) d
	WHERE (items IS NULL OR v.stock_id = ANY (items)) AND d.expected_on_hand IS NOT NULL;

	RETURN QUERY
	SELECT n.id::bigint, jsonb_strip_nulls(jsonb_build_object(
		'snapshots', of_snapshots -> n.id, 'stock_row', of_rows -> n.id, 'level', of_levels -> n.id))
	FROM (SELECT jsonb_object_keys(of_snapshots) UNION SELECT jsonb_object_keys(of_rows)
		UNION SELECT jsonb_object_keys(of_levels)) n(id)
	WHERE EXISTS (SELECT FROM inventory.stock k WHERE k.stock_id = n.id::bigint);
END
$$;

REVOKE ALL ON FUNCTION inventory.rebuild_tables(text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.rebuild_tables(text) IS
'The engine''s own: the part of rebuild() that is SQL.';

CREATE FUNCTION inventory.rebuild(sku text DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_rebuild';

REVOKE ALL ON FUNCTION inventory.rebuild(text) FROM PUBLIC;

COMMENT ON FUNCTION inventory.rebuild(text) IS
'Repairs stock rows, snapshots and levels of a SKU, or of all, from the events; each stock item that was wrong gets an event of type rebuild with deltas of 0 whose metadata says what was changed. Returns the number of them. Sales go on; the projection waits, and so does, until commit, who moves a stock item that is repaired.';

-- After the rows of a dump have been loaded: docs/restore.md.
--
-- The dump is one snapshot of its database, so stock rows, ticks, snapshots and
-- events agree with each other as they come.  What does not fit are transaction
-- ids.  Where those of this server are smaller, it would give an id a second
-- time, or take a restored event for one of a transaction that is yet to come.
-- Then all stored ids are moved, by the same distance, to where no transaction
-- of this server can be: below zero, as signed numbers.  That is how the library
-- compares them, so restored transactions are before all others and keep their
-- order among themselves, ticks and the chain of their hashes included.

-- The distance; a server would have to make more transactions than this.
CREATE FUNCTION inventory.restored_xid(xid xid8) RETURNS xid8
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ((xid::text::numeric - 281474976710656 + 18446744073709551616) % 18446744073709551616)::text::xid8
$$;

REVOKE ALL ON FUNCTION inventory.restored_xid(xid8) FROM PUBLIC;

COMMENT ON FUNCTION inventory.restored_xid(xid8) IS
'The engine''s own: 2^48 before a transaction id, as unsigned number.';

CREATE FUNCTION inventory.restored_snapshot(snapshot pg_snapshot) RETURNS pg_snapshot
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat_ws(':', inventory.restored_xid(pg_snapshot_xmin(snapshot)),
		inventory.restored_xid(pg_snapshot_xmax(snapshot)),
		(SELECT coalesce(string_agg(inventory.restored_xid(x)::text, ',' ORDER BY x), '')
			FROM pg_snapshot_xip(snapshot) x))::pg_snapshot
$$;

REVOKE ALL ON FUNCTION inventory.restored_snapshot(pg_snapshot) FROM PUBLIC;

COMMENT ON FUNCTION inventory.restored_snapshot(pg_snapshot) IS
'The engine''s own: a snapshot with all its transaction ids moved as restored_xid() does.';

-- Ids from 2^63 on have been moved before, and are in nobody's way.
CREATE FUNCTION inventory.restore_xids() RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	zero constant xid8 := '9223372036854775808';
	oldest constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
BEGIN
	IF NOT EXISTS (SELECT FROM inventory.event v WHERE v.xid >= oldest AND v.xid < zero)
		AND NOT EXISTS (SELECT FROM inventory.tick t
			WHERE pg_snapshot_xmax(t.snapshot) > oldest AND pg_snapshot_xmax(t.snapshot) < zero)
		AND NOT EXISTS (SELECT FROM inventory.delivery_cursor c, LATERAL (VALUES (c.after), (c.upto)) b(boundary)
			WHERE pg_snapshot_xmax(b.boundary) > oldest AND pg_snapshot_xmax(b.boundary) < zero)
		AND NOT EXISTS (SELECT FROM inventory.outbox o WHERE o.xid >= oldest AND o.xid < zero)
	THEN
		RETURN false;
	END IF;
	UPDATE inventory.event v SET xid = inventory.restored_xid(v.xid);
	UPDATE inventory.outbox o SET xid = inventory.restored_xid(o.xid);
	UPDATE inventory.tick t SET snapshot = inventory.restored_snapshot(t.snapshot);
	-- One that is at the beginning stays there.
	UPDATE inventory.delivery_cursor c SET upto = inventory.restored_snapshot(c.upto),
		after = CASE WHEN pg_snapshot_xmax(c.after) = '9223372036854775811' THEN c.after ELSE inventory.restored_snapshot(c.after) END;
	RETURN true;
END
$$;

REVOKE ALL ON FUNCTION inventory.restore_xids() FROM PUBLIC;

COMMENT ON FUNCTION inventory.restore_xids() IS
'The engine''s own: makes the transaction ids of restored events, ticks and cursors smaller than those of this server, where they are not; returns whether it has.';

-- pg_restore --disable-triggers leaves the triggers of events and messages as
-- ordinary ones.
CREATE FUNCTION inventory.restore_triggers() RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	trigger record;
BEGIN
	FOR trigger IN
		SELECT g.tgrelid::regclass AS on_table, g.tgname FROM pg_trigger g
		JOIN pg_class c ON c.oid = g.tgrelid
		WHERE c.relnamespace = 'inventory'::regnamespace AND g.tgenabled <> 'A'
			AND (g.tgfoid IN ('inventory.event_applied()'::regprocedure, 'inventory.event_append_only()'::regprocedure)
				OR g.tgname = 'engine_only_row')
	LOOP
		EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', trigger.on_table, trigger.tgname);
	END LOOP;
END
$$;

REVOKE ALL ON FUNCTION inventory.restore_triggers() FROM PUBLIC;

COMMENT ON FUNCTION inventory.restore_triggers() IS
'The engine''s own: the triggers of events and messages fire always again.';

-- The first table of the ring is current; the others are kept from now on for as
-- long as if they had just been closed.
CREATE FUNCTION inventory.restore_ring() RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	used boolean;
BEGIN
	FOR n IN 0..7 LOOP
		EXECUTE format('SELECT EXISTS (SELECT FROM inventory.outbox_%s)', n) INTO used;
		UPDATE inventory.outbox_segment s SET state = 'closed', opened_at = inventory.clock_time(), closed_at = inventory.clock_time()
		WHERE s.segment = n AND s.state = 'free' AND used;
	END LOOP;
END
$$;

REVOKE ALL ON FUNCTION inventory.restore_ring() FROM PUBLIC;

COMMENT ON FUNCTION inventory.restore_ring() IS
'The engine''s own: the state of the ring of messages follows from where the messages are.';

CREATE FUNCTION inventory.restore_sequences() RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part record;
BEGIN
	FOR part IN
		SELECT d.objid::regclass AS sequence, d.refobjid::regclass AS on_table, a.attname
		FROM pg_depend d
		JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' AND c.relnamespace = 'inventory'::regnamespace
		JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
		WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
	LOOP
		EXECUTE format('SELECT setval(%1$L, m.last) FROM (SELECT max(%2$I) AS last FROM %3$s) m, %1$s s WHERE m.last > s.last_value OR m.last = s.last_value AND NOT s.is_called',
			part.sequence, part.attname, part.on_table);
	END LOOP;
	-- Messages have theirs from the sequence of events.
	PERFORM setval('inventory.event_event_id_seq', m.last)
	FROM (SELECT max(o.message_id) AS last FROM inventory.outbox o) m, inventory.event_event_id_seq s
	WHERE m.last > s.last_value OR m.last = s.last_value AND NOT s.is_called;
END
$$;

REVOKE ALL ON FUNCTION inventory.restore_sequences() FROM PUBLIC;

COMMENT ON FUNCTION inventory.restore_sequences() IS
'The engine''s own: no number that a row has is given again.';

-- Nobody has asked that this database, a copy perhaps, delivers to the same
-- sinks as the one that was dumped.  And where that one has gone on, positions
-- that it has given since would be given again.
CREATE FUNCTION inventory.restore_subscriptions() RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	names text;
BEGIN
	PERFORM setval('inventory.subscription_subscription_id_seq', m.last)
	FROM (SELECT max(c.epoch) AS last FROM inventory.delivery_cursor c) m,
		inventory.subscription_subscription_id_seq s
	WHERE m.last > s.last_value OR m.last = s.last_value AND NOT s.is_called;

	-- A dump that began while the journal was being emptied may lack a cursor:
	-- then everything that is kept is delivered once more.
	INSERT INTO inventory.delivery_cursor
	SELECT s.subscription_id, n.slice, coalesce(c.cursor_no, 0) + 1,
		coalesce(c.after, '9223372036854775811:9223372036854775811:'), c.upto,
		coalesce(c.last_number, (-9223372036854775808)::bigint), e.epoch << 40, e.epoch,
		(SELECT k.timeline_id FROM pg_control_checkpoint() k), c.since, c.until, clock_timestamp(), 0
	FROM inventory.subscription s
	CROSS JOIN generate_series(0, s.workers - 1) n(slice)
	LEFT JOIN inventory.cursors() c ON c.subscription_id = s.subscription_id AND c.slice = n.slice
	CROSS JOIN LATERAL (SELECT nextval('inventory.subscription_subscription_id_seq') AS epoch
		WHERE s.subscription_id IS NOT NULL AND n.slice IS NOT NULL) e;

	WITH changed AS (
		UPDATE inventory.subscription s SET state = 'paused', generation = s.generation + 1
		WHERE s.state = 'active' RETURNING s.name
	)
	SELECT string_agg(format('"%s"', c.name), ', ' ORDER BY c.name) INTO names FROM changed c;
	IF names IS NOT NULL THEN
		RAISE NOTICE 'subscriptions are paused: %', names
			USING HINT = 'resume() those that are to deliver from this database, too; seek() first if messages that were published before the dump are not to be delivered once more.';
	END IF;
END
$$;

REVOKE ALL ON FUNCTION inventory.restore_subscriptions() FROM PUBLIC;

COMMENT ON FUNCTION inventory.restore_subscriptions() IS
'The engine''s own: pauses restored subscriptions and begins new epochs of their positions.';

CREATE FUNCTION inventory.restore_check() RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	wrong text[];
BEGIN
	SELECT array_agg(format('location "%s": the location that it lies in is missing', l.location)) INTO wrong
	FROM inventory.location l
	WHERE l.parent_id IS NOT NULL AND NOT EXISTS (SELECT FROM inventory.location p WHERE p.location_id = l.parent_id);

	SELECT wrong || array_agg(format('%s, stock item %s: expected %s, found %s; %s',
		v.check_name, v.stock_id, v.expected, v.found, v.detail)) INTO wrong
	FROM inventory.verify() v;

	IF cardinality(wrong) > 0 THEN
		RAISE EXCEPTION 'the dump is not loaded completely: % discrepancies', cardinality(wrong)
			USING ERRCODE = 'data_corrupted',
				DETAIL = array_to_string(wrong[1:10], E'\n'),
				HINT = 'Look for errors of the load, and load the dump again into an empty database. verify() shows all discrepancies.';
	END IF;
END
$$;

REVOKE ALL ON FUNCTION inventory.restore_check() FROM PUBLIC;

COMMENT ON FUNCTION inventory.restore_check() IS
'The engine''s own: an error if what was restored does not agree with its events.';

CREATE FUNCTION inventory.post_restore() RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	SET jit = off
AS $$
BEGIN
	PERFORM inventory.lock_projection();
	IF NOT current_setting('inventory.restoring')::boolean THEN
		RAISE EXCEPTION 'no dump is being loaded into this database: inventory.restoring is off'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = format('Before loading a dump: ALTER DATABASE %I SET inventory.restoring = on.', current_database());
	END IF;
	LOCK TABLE inventory.event, inventory.stock, inventory.reservation, inventory.tick,
		inventory.subscription, inventory.delivery_cursor, inventory.outbox IN SHARE ROW EXCLUSIVE MODE;
	PERFORM inventory.restore_triggers();
	PERFORM inventory.restore_xids();
	PERFORM inventory.restore_ring();
	PERFORM inventory.restore_sequences();
	PERFORM inventory.restore_subscriptions();
	PERFORM inventory.make_foreign_keys();
	EXECUTE format('ALTER DATABASE %I RESET inventory.restoring', current_database());
	PERFORM set_config('inventory.restoring', 'off', false);
	PERFORM inventory.project();
	PERFORM inventory.restore_check();
	RAISE NOTICE 'the restored stock agrees with its events'
		USING HINT = 'Now VACUUM ANALYZE: the statistics are not part of a dump.';
END
$$;

REVOKE ALL ON FUNCTION inventory.post_restore() FROM PUBLIC;

COMMENT ON FUNCTION inventory.post_restore() IS
'Ends the loading of a dump, after which stock moves again: fits the transaction ids of the events and messages to this server, adds those events to the stock rows that are not in them yet, sets the sequences, pauses the subscriptions, resets inventory.restoring, and verifies. If anything differs it is an error, and the database remains as it was. For the owner of the extension.';

-- Who may do what.  Nothing is granted to PUBLIC; grant_access() gives a role
-- one of three levels, each with all of the one before.

CREATE OR REPLACE FUNCTION inventory.grant_access(role regrole, level text) RETURNS void
	LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rank integer := array_position(ARRAY['reader', 'operator', 'manager'], level);
	relation regclass;
	signature regprocedure;
BEGIN
	IF role IS NULL OR level IS NULL THEN
		RAISE EXCEPTION 'role and level must not be NULL' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	IF rank IS NULL THEN
		RAISE EXCEPTION 'unknown access level "%"', level
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'The levels are reader, operator and manager.';
	END IF;
	EXECUTE format('GRANT USAGE ON SCHEMA inventory TO %s', role);
	EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA inventory TO %s', role);
	-- The messages themselves; views show everybody those of his own subscriptions, and his own commands.
	FOR relation IN
		SELECT c.oid FROM pg_class c
		WHERE c.relnamespace = 'inventory'::regnamespace AND c.relname ~ '^(outbox(_[0-7])?|delivery_cursor(_[01])?|parked_message|command_result|saga_run)$'
	LOOP
		EXECUTE format('REVOKE SELECT ON %s FROM %s', relation, role);
	END LOOP;
	IF rank >= 3 THEN
		EXECUTE format('GRANT SELECT ON inventory.outbox TO %s', role);
		EXECUTE format('GRANT INSERT, UPDATE, DELETE ON inventory.sku, inventory.location, inventory.lot TO %s', role);
		EXECUTE format('GRANT USAGE ON SEQUENCE inventory.sku_sku_id_seq, inventory.location_location_id_seq, inventory.lot_lot_id_seq TO %s', role);
	END IF;
	FOR signature IN
		SELECT p.oid FROM pg_proc p
		JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname = 'inventory' AND (
			p.proname = ANY (ARRAY['available', 'on_hand', 'history', 'stock_at', 'position',
				'item_at', 'stock_items', 'check_kept', 'available_of', 'tail_on_hand',
				'tail_reserved', 'tail_committed', 'tail_event_count', 'version',
				'clock_time', 'transaction_time', 'stat_operations', 'stat_levels', 'stat_progresses',
				'stat_workers', 'levels', 'cursors', 'may_read', 'topic_matches', 'unread_by', 'stat_deliveries',
				'may_see_command', 'command_role', 'included', 'first_after'])
			OR rank >= 2 AND p.proname = ANY (ARRAY['receive', 'issue', 'adjust', 'set_on_hand',
				'transfer', 'reverse', 'post', 'reserve', 'try_reserve', 'confirm', 'ship',
				'release', 'extend', 'release_owner', 'expire_due', 'publish',
				'submit', 'saga', 'command_result', 'cancel'])
			OR rank >= 3 AND p.proname = ANY (ARRAY['verify', 'rebuild', 'verify_chain',
				'chain_anchor', 'check_anchor', 'level_differs', 'stat_reset', 'project', 'tick_hash', 'hash_key_id',
				'make_partition', 'make_partitions', 'maintain', 'archivable', 'archive', 'archive_partition',
				'subscribe', 'unsubscribe', 'pause', 'resume', 'seek', 'skip', 'redrive', 'discard', 'replay', 'deliver',
				'retry_pending']))
	LOOP
		EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', signature, role);
	END LOOP;
END
$$;

COMMENT ON FUNCTION inventory.grant_access(regrole, text) IS
'Gives a role a level of access: reader sees stock, history and counters; operator also moves, reserves and publishes; manager also keeps master data, verifies, makes partitions, and subscribes. Call it as the owner of the extension or a superuser.';
