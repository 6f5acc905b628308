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

DO $$
BEGIN
	FOR n IN 0..7 LOOP
		EXECUTE format('CREATE TABLE inventory.outbox_%1$s PARTITION OF inventory.outbox FOR VALUES IN (%1$s)
			WITH (fillfactor = 100, autovacuum_enabled = off, toast.autovacuum_enabled = off)', n);
		EXECUTE format('CREATE INDEX outbox_%1$s_xid_idx ON inventory.outbox_%1$s (xid)', n);
		EXECUTE format('COMMENT ON TABLE inventory.outbox_%1$s IS %2$L', n, 'A table of the ring of messages.');
		EXECUTE format('COMMENT ON INDEX inventory.outbox_%1$s_xid_idx IS %2$L', n, 'Query: the messages of a range of transactions (delivery).');
		EXECUTE format('CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.outbox_%1$s
			FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only()', n);
	END LOOP;
END
$$;
SELECT pg_extension_config_dump('inventory.outbox_0', '');
SELECT pg_extension_config_dump('inventory.outbox_1', '');
SELECT pg_extension_config_dump('inventory.outbox_2', '');
SELECT pg_extension_config_dump('inventory.outbox_3', '');
SELECT pg_extension_config_dump('inventory.outbox_4', '');
SELECT pg_extension_config_dump('inventory.outbox_5', '');
SELECT pg_extension_config_dump('inventory.outbox_6', '');
SELECT pg_extension_config_dump('inventory.outbox_7', '');
