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
