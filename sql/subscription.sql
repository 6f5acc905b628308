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
