-- What reading is measured on: every day of :days each of 100,000 SKUs is received
-- once, and the first one a thousand times more, in ten transactions.
CREATE EXTENSION inventory;
INSERT INTO inventory.location(location) VALUES ('MAIN');
INSERT INTO inventory.sku(sku) SELECT 'SKU' || n FROM generate_series(1, 100000) AS n;
CREATE PROCEDURE pg_temp.make(days integer)
	LANGUAGE plpgsql
AS $$
BEGIN
	FOR day IN 0 .. days - 1 LOOP
		PERFORM inventory.set_test_clock('2026-01-01 00:00+00'::timestamptz + day * interval '1 day');
		PERFORM inventory.post('receive', array_agg('SKU' || n), array_agg('MAIN'::text), array_agg(1))
		FROM generate_series(1, 100000) AS n;
		COMMIT;
		FOR part IN 1 .. 10 LOOP
			PERFORM inventory.set_test_clock('2026-01-01 00:00+00'::timestamptz + day * interval '1 day' + part * interval '2 hours');
			PERFORM inventory.post('receive', array_agg('SKU1'::text), array_agg('MAIN'::text), array_agg(1))
			FROM generate_series(1, 102);
			COMMIT;
		END LOOP;
	END LOOP;
	PERFORM inventory.set_test_clock(NULL);
END
$$;
CALL pg_temp.make(:days);
