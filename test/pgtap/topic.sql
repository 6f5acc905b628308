-- Patterns of topics: which topics they match, which of them are none, and that
-- matching takes no time to speak of, whatever the pattern.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS inventory;
BEGIN;
SELECT no_plan();

CREATE TEMP TABLE pair AS
SELECT * FROM (VALUES
	('order.paid', 'order.paid', true),
	('order.paid', 'order.pai', false),
	('order.paid', 'order.paid.late', false),
	('order.paid', 'order', false),
	('order', 'order.paid', false),
	('*', 'order', true),
	('*', 'order.paid', false),
	('*.*', 'order.paid', true),
	('order.*', 'order.paid', true),
	('order.*', 'order', false),
	('order.*', 'order.paid.late', false),
	('*.paid', 'order.paid', true),
	('*.paid', 'paid', false),
	('#', 'order', true),
	('#', 'order.paid.late', true),
	('order.#', 'order', true),
	('order.#', 'order.paid.late', true),
	('order.#', 'orders', false),
	('#.late', 'late', true),
	('#.late', 'order.paid.late', true),
	('#.late', 'order.late.paid', false),
	('a.#.b', 'a.b', true),
	('a.#.b', 'a.x.b', true),
	('a.#.b', 'a.b.b.x.b', true),
	('a.#.b', 'a.x', false),
	('a.#.b.*', 'a.b.b.b', true),
	('#.a.#.b.#', 'x.a.y.b.z', true),
	('#.a.#.b.#', 'x.b.y.a.z', false),
	('#.*', 'a', true),
	('#.*.*', 'a', false),
	('*.#.*', 'a.b', true),
	('#.#', 'a', true),
	('inventory.event.*', 'inventory.event.receive', true),
	('inventory.event.*', 'inventory.event', false),
	('inventory.event.transfer_*', 'inventory.event.transfer_in', NULL),
	('inventory.*.receive', 'inventory.event.receive', true),
	('a_b-c', 'a_b-c', true),
	('A', 'a', false)) x(pattern, topic, matches);
SELECT is(inventory.topic_matches(pattern, topic), matches, format('%s %s %s', pattern, CASE WHEN matches THEN 'matches' ELSE 'does not match' END, topic))
FROM pair WHERE matches IS NOT NULL;

SELECT throws_ok(format('SELECT inventory.topic_matches(%L, %L)', pattern, 'x'), 'IV025', NULL, format('"%s" is not a pattern', left(pattern, 30)))
FROM unnest(ARRAY['', '.', 'a.', '.a', 'a..b', 'a*', 'a.b#', '**', '##', 'a b', 'a/b', E'a\nb', 'ä', '%', '_.%', repeat('a', 256), 'inventory.event.transfer_*', 'inventory.event.sold', 'inventory.event']) pattern
WHERE pattern <> 'inventory.event';
SELECT throws_ok($$SELECT inventory.topic_matches('inventory.event.sold', 'x')$$, 'IV025', 'no message has a topic that matches "inventory.event.sold"', 'a pattern that matches no message is said to');
SELECT lives_ok(format('SELECT inventory.topic_matches(%L, %L)', repeat('a', 255), 'x'), 'a pattern may have 255 characters');

SELECT is(inventory.topic_matches(rtrim(repeat('#.a.', 63), '.'), rtrim(repeat('a.', 127), '.') || '.b'), false, 'a pattern full of # does not take for ever');

SELECT * FROM finish();
ROLLBACK;
