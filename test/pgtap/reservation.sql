-- The life of a reservation: held for an owner until a deadline that is exact,
-- committed to an order, shipped in one go or in parts, or given back.
--
-- Runs in a database of its own, because much of it must commit, and stops the
-- engine's clock.
\set database inventory_pgtap_reservation
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
SELECT no_plan();

-- on hand / reserved / committed / available of a stock item
CREATE FUNCTION pg_temp.level(sku text, location text DEFAULT 'L') RETURNS text
	LANGUAGE sql AS $$
	SELECT format('%s/%s/%s/%s', v.on_hand, v.reserved, v.committed, v.available)
	FROM inventory.stock_level v WHERE v.sku = level.sku AND v.location = level.location AND v.condition = 'good'
$$;
-- state quantity-shipped-released of every line
CREATE FUNCTION pg_temp.lines(reservation_id bigint) RETURNS text
	LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s-%s-%s', r.state, r.quantity, r.shipped, r.released), ', ' ORDER BY r.line_no)
	FROM inventory.reservation r WHERE r.reservation_id = lines.reservation_id
$$;
-- the events of a reservation: type on_hand_delta/reserved_delta/committed_delta
CREATE FUNCTION pg_temp.events(reservation_id bigint) RETURNS text
	LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s/%s/%s', v.type, v.on_hand_delta, v.reserved_delta, v.committed_delta), ', ' ORDER BY v.event_id)
	FROM inventory.event v WHERE v.reservation_id = events.reservation_id
$$;

INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.sku (sku) SELECT '' || x FROM unnest(ARRAY['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'M', 'N', 'O', 'P', 'Q', 'R']) x;
INSERT INTO inventory.sku (sku, tracking) VALUES ('LOT', 'lot');
INSERT INTO inventory.lot (sku_id, lot, expires_on) SELECT sku_id, 'X', '2031-04-10' FROM inventory.sku WHERE sku = 'LOT';
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'Y' FROM inventory.sku WHERE sku = 'LOT';
SELECT inventory.post('receive', array_agg(sku), array_agg('L'::text), array_agg(10::bigint)) AS events FROM inventory.sku WHERE sku LIKE '_' \gset

-- Reserve, confirm, ship

SELECT inventory.reserve('A', 'L', 4, owner => 'cart-1', reference => 'WEB-1') AS id \gset
SELECT is(pg_temp.level('A'), '10/4/0/6', 'reserve holds goods');
SELECT results_eq(format('SELECT line_no, state::text, quantity, shipped, released, expires_at, created_at, owner COLLATE "default", reference FROM inventory.reservation WHERE reservation_id = %s', :id),
	$$VALUES (1, 'held', 4::bigint, 0::bigint, 0::bigint, '2031-04-10 12:15:00+00'::timestamptz, inventory.transaction_time(), 'cart-1', 'WEB-1')$$,
	'for an owner, for 15 minutes unless said otherwise');
SELECT is(pg_temp.events(:id), 'reserve 0/4/0', 'and writes a reserve event');
SELECT is(inventory.confirm(:id), 1::bigint, 'confirm returns the number of lines');
SELECT is(pg_temp.level('A'), '10/0/4/6', 'what was held is committed, and never available in between');
SELECT is((SELECT expires_at FROM inventory.reservation WHERE reservation_id = :id), NULL, 'and has no deadline any more');
SELECT is(pg_temp.lines(:id), 'committed 4-0-0', 'the line is committed');
SELECT is(inventory.ship(:id), 1::bigint, 'ship returns the number of events');
SELECT is(pg_temp.level('A'), '6/0/0/6', 'what was committed has left');
SELECT is(pg_temp.lines(:id), 'closed 4-4-0', 'the line is closed');
SELECT is(pg_temp.events(:id), 'reserve 0/4/0, confirm 0/-4/4, ship -4/0/-4', 'each step is an event');
SELECT throws_ok(format('SELECT inventory.%s(%s)', f, :id), 'IV009', NULL, format('%s of a closed reservation is refused', f)) FROM unnest(ARRAY['confirm', 'ship', 'release']) f;
SELECT throws_ok(format($$SELECT inventory.extend(%s, '1 hour')$$, :id), 'IV009', NULL, 'extend of a closed reservation is refused');

-- Wrong states

SELECT inventory.reserve('A', 'L', 2) AS id \gset
SELECT throws_ok(format('SELECT inventory.ship(%s)', :id), 'IV009', NULL, 'what is not confirmed is not shipped');
SELECT lives_ok(format('SELECT inventory.confirm(%s)', :id), 'it can be confirmed');
SELECT throws_ok(format('SELECT inventory.confirm(%s)', :id), 'IV009', NULL, 'what is committed is not confirmed again');
SELECT throws_ok(format($$SELECT inventory.extend(%s, '1 hour')$$, :id), 'IV009', NULL, 'what is committed has no deadline to extend');
SELECT is(inventory.release(:id), 1::bigint, 'what is committed can be released');
SELECT is(pg_temp.lines(:id) || ' ' || pg_temp.level('A'), 'released 2-0-2 6/0/0/6', 'and is available again');
SELECT throws_ok(format('SELECT inventory.%s(%s)', f, :id), 'IV009', NULL, format('%s of a released reservation is refused', f)) FROM unnest(ARRAY['confirm', 'ship', 'release']) f;
SELECT throws_ok(format('SELECT inventory.%s(-1)', f), 'IV007', NULL, format('%s of a reservation that does not exist is refused', f)) FROM unnest(ARRAY['confirm', 'ship', 'release']) f;
SELECT throws_ok($$SELECT inventory.extend(-1, '1 hour')$$, 'IV007', NULL, 'extend of a reservation that does not exist is refused');

-- Several lines, shipped and released in parts

SELECT inventory.reserve('[{"sku": "B", "location": "L", "quantity": 6}, {"sku": "C", "location": "L", "quantity": 3}]', owner => 'order-1') AS id \gset
SELECT is(pg_temp.lines(:id), 'held 6-0-0, held 3-0-0', 'a reservation has one line for each of the call''s');
SELECT is(inventory.confirm(:id), 2::bigint, 'confirm is of all lines');
SELECT is(inventory.ship(:id, '[{"line_no": 1, "quantity": 2}]'), 1::bigint, 'a part of a line is shipped by line number');
SELECT is(pg_temp.lines(:id) || ' ' || pg_temp.level('B'), 'committed 6-2-0, committed 3-0-0 8/0/4/4', 'the rest stays committed');
SELECT is(inventory.ship(:id, '[{"sku": "B", "quantity": 1}, {"sku": "C", "quantity": 3}]'), 2::bigint, 'parts of lines are shipped by SKU');
SELECT is(pg_temp.lines(:id), 'committed 6-3-0, closed 3-3-0', 'a line that is shipped whole is closed');
SELECT throws_ok(format($$SELECT inventory.ship(%s, '[{"line_no": 1, "quantity": 4}]')$$, :id), 'IV009', NULL, 'more than remains is not shipped');
SELECT throws_ok(format($$SELECT inventory.ship(%s, '[{"line_no": 1, "quantity": 2}, {"line_no": 1, "quantity": 2}]')$$, :id), 'IV009', NULL, 'also when it is asked for in two parts');
SELECT throws_ok(format($$SELECT inventory.ship(%s, '[{"line_no": 1, "quantity": 1}, {"line_no": 2, "quantity": 1}]')$$, :id), 'IV009', NULL, 'with one impossible line nothing is shipped');
SELECT is(pg_temp.lines(:id), 'committed 6-3-0, closed 3-3-0', 'nothing at all');
SELECT is(inventory.release(:id, '[{"line_no": 1, "quantity": 1}]'), 1::bigint, 'a part of a line is released');
SELECT is(pg_temp.lines(:id) || ' ' || pg_temp.level('B'), 'committed 6-3-1, closed 3-3-0 7/0/2/5', 'and is available again');
SELECT is(inventory.ship(:id), 1::bigint, 'the rest is shipped without naming it');
SELECT is(pg_temp.lines(:id), 'closed 6-5-1, closed 3-3-0', 'and the line is closed');
SELECT is((SELECT sum(on_hand_delta) || '/' || sum(reserved_delta) || '/' || sum(committed_delta) FROM inventory.event WHERE reservation_id = :id), '-8/0/0', 'its events sum up to what was shipped');

SELECT inventory.reserve('C', 'L', 5) AS id \gset
SELECT is(inventory.release(:id, '[{"sku": "C", "quantity": 2}]'), 1::bigint, 'a part of a hold is released');
SELECT is(pg_temp.lines(:id) || ' ' || pg_temp.level('C'), 'held 5-0-2 7/3/0/4', 'the rest stays held');
SELECT lives_ok(format('SELECT inventory.confirm(%s)', :id), 'and is confirmed');
SELECT is(pg_temp.level('C'), '7/0/3/4', 'as it stands');
SELECT inventory.ship(:id, '[{"line_no": 1, "quantity": 1}]') AS events \gset
SELECT is(inventory.release(:id), 1::bigint, 'what remains after a shipment is released');
SELECT is(pg_temp.lines(:id), 'closed 5-1-4', 'and the line, of which a part was shipped, is closed');

SELECT inventory.reserve('[{"sku": "C", "location": "L", "quantity": 1}, {"sku": "C", "location": "L", "quantity": 2}]') AS id \gset
SELECT is(pg_temp.lines(:id) || ' ' || pg_temp.level('C'), 'held 1-0-0, held 2-0-0 6/3/0/3', 'two lines of one stock item stay two lines');
SELECT throws_ok($$SELECT inventory.reserve('[{"sku": "C", "location": "L", "quantity": 2}, {"sku": "C", "location": "L", "quantity": 2}]')$$,
	'IV001', NULL, 'and are added up before anything is taken');
SELECT is(inventory.release(:id), 2::bigint, 'release of both writes two events');

-- Deadlines

SELECT inventory.reserve('D', 'L', 10, ttl => '1 hour') AS id \gset
SELECT inventory.set_test_clock('2031-04-10 12:59:59.999999+00') IS NULL AS done \gset
SELECT is(inventory.available('D'), 0::bigint, 'a microsecond before its deadline a hold counts, in memory');
SELECT is(pg_temp.level('D'), '10/10/0/0', 'and in the view');
SELECT throws_ok($$SELECT inventory.reserve('D', 'L', 1)$$, 'IV001', NULL, 'and for others who want the goods');
SELECT is((SELECT count(*) FROM inventory.open_reservation WHERE reservation_id = :id), 1::bigint, 'it is an open reservation');
SELECT inventory.set_test_clock('2031-04-10 13:00:00+00') IS NULL AS done \gset
SELECT is(inventory.available('D'), 10::bigint, 'at its deadline it does not count, in memory');
SELECT is(pg_temp.level('D'), '10/0/0/10', 'nor in the view');
SELECT is((SELECT count(*) FROM inventory.open_reservation WHERE reservation_id = :id), 0::bigint, 'it is not an open reservation');
SELECT throws_ok(format('SELECT inventory.confirm(%s)', :id), 'IV008', NULL, 'it is not confirmed');
SELECT throws_ok(format('SELECT inventory.release(%s)', :id), 'IV008', NULL, 'nor released');
SELECT throws_ok(format($$SELECT inventory.extend(%s, '1 hour')$$, :id), 'IV008', NULL, 'nor extended');
SELECT is(pg_temp.events(:id), 'reserve 0/10/0', 'all this without an event having been written');
SELECT inventory.reserve('D', 'L', 10, ttl => '1 hour') AS next_id \gset
SELECT is(pg_temp.events(:id), 'reserve 0/10/0, expire 0/-10/0', 'the next reservation of the goods writes the expire event');
SELECT results_eq(format($$SELECT effective_at, recorded_at = inventory.transaction_time() FROM inventory.event WHERE reservation_id = %s AND type = 'expire'$$, :id),
	$$VALUES ('2031-04-10 13:00:00+00'::timestamptz, true)$$, 'effective at the deadline');
SELECT is(pg_temp.lines(:id), 'expired 10-0-10', 'the line is expired');
SELECT is((SELECT expires_at FROM inventory.reservation WHERE reservation_id = :id), NULL, 'and has no deadline any more');
SELECT throws_ok(format('SELECT inventory.confirm(%s)', :id), 'IV008', NULL, 'an expired reservation is not confirmed');
SELECT inventory.set_test_clock('2031-04-10 13:59:59.999999+00') IS NULL AS done \gset
SELECT is(inventory.confirm(:next_id), 1::bigint, 'a microsecond before its deadline a hold can be confirmed');
SELECT inventory.set_test_clock('2031-04-10 15:00:00+00') IS NULL AS done \gset
SELECT is(pg_temp.level('D'), '10/0/10/0', 'and then it stays');

-- expire_due

SELECT inventory.expire_due(1000000) AS due \gset
SELECT count(inventory.reserve('E', 'L', n, ttl => n * interval '1 minute')) AS holds FROM generate_series(1, 3) n \gset
SELECT inventory.reserve('F', 'L', 2, ttl => NULL) AS forever \gset
SELECT is(inventory.expire_due(), 0::bigint, 'before their deadlines nothing is due');
SELECT inventory.set_test_clock('2031-04-10 15:02:00+00') IS NULL AS done \gset
SELECT is(pg_temp.level('E'), '10/3/0/7', 'of several holds those past their deadline do not count');
SELECT is(inventory.available('E'), 7::bigint, 'in memory as well');
SELECT is(inventory.expire_due(), 2::bigint, 'expire_due writes an event for each of them and returns how many');
SELECT is(inventory.expire_due(), 0::bigint, 'and none twice');
SELECT is(pg_temp.level('E'), '10/3/0/7', 'which changes no level');
SELECT is(inventory.available('E'), 7::bigint, 'in memory neither');
SELECT is((SELECT string_agg(format('%s@%s', -v.reserved_delta, v.effective_at AT TIME ZONE 'UTC'), ' ' ORDER BY v.effective_at)
	FROM inventory.event v JOIN inventory.stock_level k USING (stock_id) WHERE k.sku = 'E' AND v.type = 'expire'),
	'1@2031-04-10 15:01:00 2@2031-04-10 15:02:00', 'each expired at its own deadline');
SELECT inventory.set_test_clock('2031-04-10 15:03:00+00') IS NULL AS done \gset
SELECT is(inventory.expire_due(), 1::bigint, 'the last of them follows at its own time');
SELECT inventory.set_test_clock('2039-12-31 00:00:00+00') IS NULL AS done \gset
SELECT is(pg_temp.level('F'), '10/2/0/8', 'a hold without a deadline stays for years');
SELECT is(inventory.available('F'), 8::bigint, 'in memory as well');
SELECT is((SELECT expires_at FROM inventory.open_reservation WHERE reservation_id = :forever), NULL, 'and is open, with no deadline');
SELECT inventory.set_test_clock('2031-04-11 00:00:00+00') IS NULL AS done \gset
SELECT count(inventory.reserve('G', 'L', 1, ttl => '1 second')) AS holds FROM generate_series(1, 5) \gset
SELECT inventory.set_test_clock('2031-04-11 00:00:01+00') IS NULL AS done \gset
SELECT is(inventory.expire_due(2), 2::bigint, 'expire_due writes no more than it is told');
SELECT is(inventory.expire_due(2), 2::bigint, 'and goes on from there');
SELECT is(inventory.expire_due(2), 1::bigint, 'to the last');
SELECT is(pg_temp.level('G'), '10/0/0/10', 'and all are free');

-- extend

SELECT inventory.reserve('H', 'L', 4, ttl => '1 minute') AS id \gset
SELECT is(inventory.extend(:id, '1 hour'), '2031-04-11 01:00:01+00'::timestamptz, 'extend returns the new deadline, counted from now');
SELECT inventory.set_test_clock('2031-04-11 00:59:00+00') IS NULL AS done \gset
SELECT is(inventory.available('H'), 6::bigint, 'past the old deadline the hold counts');
SELECT is(pg_temp.level('H'), '10/4/0/6', 'in the view as well');
SELECT is(inventory.extend(:id, '10 seconds'), '2031-04-11 00:59:10+00'::timestamptz, 'a deadline can be moved to an earlier moment');
SELECT inventory.set_test_clock('2031-04-11 00:59:10+00') IS NULL AS done \gset
SELECT is(inventory.available('H'), 10::bigint, 'which is as exact');
SELECT is(pg_temp.level('H'), '10/0/0/10', 'in the view as well');
SELECT inventory.reserve('H', 'L', 4, ttl => '1 minute') AS id \gset
SELECT is(inventory.extend(:id, NULL), NULL, 'extend to NULL takes the deadline away');
SELECT inventory.set_test_clock('2031-05-11 00:00:00+00') IS NULL AS done \gset
SELECT is(inventory.available('H'), 6::bigint, 'and the hold stays');
SELECT is(inventory.extend(:id, '1 minute'), '2031-05-11 00:01:00+00'::timestamptz, 'a hold without a deadline can get one');
SELECT inventory.set_test_clock('2031-05-11 00:01:00+00') IS NULL AS done \gset
SELECT is(inventory.available('H'), 10::bigint, 'and ends there');
SELECT is(pg_temp.level('H'), '10/0/0/10', 'in the view as well');

-- The same owner again

SELECT inventory.reserve('I', 'L', 8, owner => 'cart-2') AS first \gset
SELECT throws_ok($$SELECT inventory.reserve('I', 'L', 3, owner => 'cart-3')$$, 'IV001', NULL, 'what one owner holds another cannot have');
SELECT inventory.reserve('I', 'L', 10, owner => 'cart-2') AS second \gset
SELECT is(pg_temp.level('I'), '10/10/0/0', 'an owner''s own hold does not count against what he reserves');
SELECT is(pg_temp.lines(:first) || ' ' || pg_temp.lines(:second), 'released 8-0-8 held 10-0-0', 'the new reservation replaces the old');
SELECT isnt(:first::bigint, :second::bigint, 'and is another one');
SELECT throws_ok($$SELECT inventory.reserve('I', 'L', 11, owner => 'cart-2')$$, 'IV001', NULL, 'more than there is is refused to him as well');
SELECT is(inventory.try_reserve('I', 'L', 11, owner => 'cart-2'), NULL, 'and try_reserve returns NULL');
SELECT is(pg_temp.lines(:second) || ' ' || pg_temp.level('I'), 'held 10-0-0 10/10/0/0', 'and his hold is as it was');
SELECT inventory.reserve('I', 'L', 4, owner => 'cart-2') AS third \gset
SELECT is(pg_temp.lines(:second) || ' ' || pg_temp.level('I'), 'released 10-0-10 10/4/0/6', 'a smaller one frees the rest');
SELECT inventory.reserve('J', 'L', 4, owner => 'cart-2') AS other \gset
SELECT is(pg_temp.lines(:third), 'held 4-0-0', 'a reservation of another stock item replaces nothing');
SELECT inventory.confirm(:third) AS lines \gset
SELECT inventory.reserve('I', 'L', 6, owner => 'cart-2') AS fourth \gset
SELECT is(pg_temp.lines(:third) || ' ' || pg_temp.level('I'), 'committed 4-0-0 10/6/4/0', 'what he has committed is not replaced, and counts');
SELECT inventory.reserve('[{"sku": "I", "location": "L", "quantity": 3}, {"sku": "J", "location": "L", "quantity": 10}]', owner => 'cart-2') AS fifth \gset
SELECT is(pg_temp.lines(:fourth) || ' ' || pg_temp.lines(:other) || ' ' || pg_temp.lines(:fifth), 'released 6-0-6 released 4-0-4 held 3-0-0, held 10-0-0', 'a reservation of several lines replaces what each of them had');
SELECT is(pg_temp.level('I') || ' ' || pg_temp.level('J'), '10/3/4/3 10/10/0/0', 'and the levels follow');
SELECT inventory.reserve('I', 'L', 1) AS nobody \gset
SELECT inventory.reserve('I', 'L', 1) AS nobody_too \gset
SELECT is(pg_temp.lines(:nobody) || ' ' || pg_temp.lines(:nobody_too), 'held 1-0-0 held 1-0-0', 'without an owner nothing is replaced');
SELECT inventory.set_test_clock('2031-05-11 12:00:00+00') IS NULL AS done \gset
SELECT inventory.reserve('J', 'L', 2, owner => 'cart-2') AS sixth \gset
SELECT is(pg_temp.lines(:fifth), 'held 3-0-0, expired 10-0-10', 'an owner''s hold past its deadline is expired, not released');

SELECT inventory.reserve('K', 'L', 2, owner => 'cart-4') AS held \gset
SELECT inventory.reserve('M', 'L', 2, owner => 'cart-4') AS committed \gset
SELECT inventory.confirm(:committed) AS lines \gset
SELECT inventory.reserve('[{"sku": "N", "location": "L", "quantity": 1}, {"sku": "O", "location": "L", "quantity": 1}]', owner => 'cart-4') AS two_lines \gset
SELECT inventory.reserve('K', 'L', 2, owner => 'cart-5') AS foreign \gset
SELECT is(inventory.release_owner('cart-4'), 3::bigint, 'release_owner gives back what an owner holds and returns the number of lines');
SELECT is(pg_temp.lines(:held) || ' ' || pg_temp.lines(:two_lines), 'released 2-0-2 released 1-0-1, released 1-0-1', 'all of it');
SELECT is(pg_temp.lines(:committed), 'committed 2-0-0', 'but nothing that is committed');
SELECT is(pg_temp.lines(:foreign), 'held 2-0-0', 'and nothing of another owner');
SELECT is(inventory.release_owner('cart-4'), 0::bigint, 'a second time there is nothing to give back');
SELECT is(inventory.release_owner('nobody at all'), 0::bigint, 'nor for an unknown owner');

-- try_reserve

SELECT isnt(inventory.try_reserve('P', 'L', 9), NULL, 'try_reserve returns a reservation');
SELECT is(inventory.try_reserve('P', 'L', 2), NULL, 'or NULL when short');
SELECT is(inventory.try_reserve('[{"sku": "Q", "location": "L", "quantity": 1}, {"sku": "P", "location": "L", "quantity": 2}]'), NULL, 'also for several lines');
SELECT is(pg_temp.level('Q') || ' ' || pg_temp.level('P'), '10/0/0/10 10/9/0/1', 'and nothing is held then');
SELECT is(inventory.try_reserve('P', 'M', 1), NULL, 'or where nothing ever was');
SELECT throws_ok($$SELECT inventory.try_reserve('none', 'L', 1)$$, 'IV002', NULL, 'but an unknown SKU is an error');

-- mode

SELECT throws_ok($$SELECT inventory.reserve('[{"sku": "Q", "location": "L", "quantity": 5}, {"sku": "P", "location": "L", "quantity": 5}]')$$,
	'IV001', NULL, 'by default all lines are reserved or none');
SELECT inventory.reserve('[{"sku": "Q", "location": "L", "quantity": 5}, {"sku": "P", "location": "L", "quantity": 5}]', mode => 'partial') AS id \gset
SELECT is((SELECT string_agg(format('%s %s', sku, quantity), ', ' ORDER BY sku) FROM inventory.open_reservation WHERE reservation_id = :id), 'P 1, Q 5', 'mode partial takes of each line as much as there is');
SELECT inventory.reserve('[{"sku": "Q", "location": "L", "quantity": 4}, {"sku": "Q", "location": "L", "quantity": 4}]', mode => 'partial') AS id \gset
SELECT is((SELECT sum(quantity) FROM inventory.open_reservation WHERE reservation_id = :id), 5::numeric, 'also when lines share a stock item');
SELECT throws_ok($$SELECT inventory.reserve('[{"sku": "Q", "location": "L", "quantity": 4}]', mode => 'partial')$$, 'IV001', NULL, 'mode partial with nothing at all is refused');
SELECT is(inventory.try_reserve('[{"sku": "Q", "location": "L", "quantity": 4}]', mode => 'partial'), NULL, 'or NULL from try_reserve');
SELECT inventory.reserve('[{"sku": "Q", "location": "L", "quantity": 4}, {"sku": "R", "location": "L", "quantity": 4}]', mode => 'partial') AS id \gset
SELECT is((SELECT string_agg(format('%s %s', sku, quantity), ', ') FROM inventory.open_reservation WHERE reservation_id = :id), 'R 4', 'a line of which there is nothing is left out');
SELECT is((SELECT count(*) FROM inventory.reservation WHERE quantity <= 0), 0::bigint, 'no line has a quantity of 0');

-- A cart becomes an order; inactive and blocked goods

SELECT inventory.receive('LOT', 'L', 10, lot => l) IS NOT NULL AS done FROM unnest(ARRAY['Y']) l \gset
SELECT inventory.reserve('LOT', 'L', 3, lot => 'Y') AS id \gset
SELECT inventory.reserve('LOT', 'L', 2, lot => 'Y') AS shipping \gset
SELECT inventory.confirm(:shipping) AS lines \gset
UPDATE inventory.lot SET status = 'blocked' WHERE lot = 'Y' AND sku_id = (SELECT sku_id FROM inventory.sku WHERE sku = 'LOT');
SELECT throws_ok(format('SELECT inventory.confirm(%s)', :id), 'IV005', NULL, 'a hold on a blocked lot is not confirmed');
SELECT throws_ok(format('SELECT inventory.ship(%s)', :shipping), 'IV005', NULL, 'an order of a blocked lot is not shipped');
SELECT lives_ok(format('SELECT inventory.release(%s)', :id), 'but the hold can be released');
SELECT lives_ok(format('SELECT inventory.release(%s)', :shipping), 'and the order too');
SELECT inventory.reserve('R', 'L', 2) AS id \gset
UPDATE inventory.sku SET active = false WHERE sku = 'R';
UPDATE inventory.location SET active = false WHERE location = 'L';
SELECT lives_ok(format('SELECT inventory.confirm(%s)', :id), 'a hold of an inactive SKU at an inactive location is confirmed');
SELECT lives_ok(format($$SELECT inventory.ship(%s, '[{"line_no": 1, "quantity": 1}]')$$, :id), 'and shipped');
SELECT lives_ok(format('SELECT inventory.release(%s)', :id), 'and released');

-- Nobody writes reservations but the engine

SELECT throws_ok($$INSERT INTO inventory.reservation (stock_id, quantity) SELECT stock_id, 1 FROM inventory.stock LIMIT 1$$, 'IV016', NULL, 'nobody inserts a reservation');
SELECT throws_ok($$UPDATE inventory.reservation SET quantity = 1$$, 'IV016', NULL, 'nobody updates a reservation');
SELECT throws_ok($$DELETE FROM inventory.reservation$$, 'IV016', NULL, 'nobody deletes a reservation');
SELECT throws_ok($$TRUNCATE inventory.reservation$$, 'IV016', NULL, 'nobody truncates the reservations');

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
