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
