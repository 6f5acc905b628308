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
