-- Who may do what.  Nothing is granted to PUBLIC; grant_access() gives a role
-- one of three levels, each with all of the one before.

CREATE FUNCTION inventory.grant_access(role regrole, level text) RETURNS void
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
REVOKE ALL ON FUNCTION inventory.grant_access(regrole, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.grant_access(regrole, text) IS
'Gives a role a level of access: reader sees stock, history and counters; operator also moves, reserves and publishes; manager also keeps master data, verifies, makes partitions, and subscribes. Call it as the owner of the extension or a superuser.';

-- The partitions of this month and of the next ones; outside the extension, so
-- that pg_dump carries their rows.  A dump brings its own.
SELECT inventory.make_partitions((inventory.clock_time() AT TIME ZONE 'UTC')::date, 3)
WHERE NOT current_setting('inventory.restoring')::boolean;
DO $$
DECLARE
	partition regclass;
BEGIN
	FOR partition IN SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'inventory.event'::regclass
	LOOP
		EXECUTE format('ALTER EXTENSION inventory DROP TABLE %s', partition);
	END LOOP;
END
$$;
