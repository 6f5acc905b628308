# Delivery to SQL handlers by processes: whatever order transactions commit in,
# however they end, and whoever is killed, every message that was committed is
# handled exactly once, none other, and per key in order.  A message that fails,
# runs too long, or kills the process is in the way of its key at most.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $CLIENTS = 6;
my $node = new_node('delivery', conf => <<'CONF');
max_worker_processes = 30
restart_after_crash = on
inventory.allow_drop = on
log_min_messages = warning
CONF

$node->safe_psql('postgres', <<'SQL');
CREATE TABLE counter (key text PRIMARY KEY, n bigint NOT NULL);
INSERT INTO counter SELECT 'key ' || i, 0 FROM generate_series(1, 30) i;
CREATE TABLE published (number bigint PRIMARY KEY, key text, n bigint);
CREATE TABLE got (n bigserial, subscription text, id text, number bigint, "position" bigint, key text, value bigint, attempt integer, UNIQUE (subscription, id));
CREATE FUNCTION handle(m inventory.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.got (subscription, id, number, "position", key, value, attempt)
	VALUES (m.subscription, m.id, m.number, m."position", m.key, (m.payload->>'n')::bigint, m.attempt);
END $$;
-- Fails now and then, at the first attempts.
CREATE FUNCTION fail(m inventory.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(m);
	IF m.attempt < 4 AND random() < .05 THEN RAISE EXCEPTION 'not now'; END IF;
END $$;
-- Messages of a key are published under the lock of its row: their order is known.
CREATE PROCEDURE publish_some(how_many integer, rolls_back float, sleeps float) LANGUAGE plpgsql AS $$
DECLARE
	chosen text; value bigint; message bigint;
BEGIN
	FOR i IN 1..how_many LOOP
		FOR j IN 0..floor(random() * 3)::int LOOP
			chosen := 'key ' || (1 + j * 10 + floor(random() * 9)::int);
			BEGIN
				UPDATE public.counter c SET n = c.n + 1 WHERE c.key = chosen RETURNING n INTO value;
				message := inventory.publish('load.' || i % 3, chosen, jsonb_build_object('n', value));
				INSERT INTO public.published VALUES (message, chosen, value);
				IF random() < .1 THEN RAISE division_by_zero; END IF;
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
		END LOOP;
		IF random() < sleeps THEN PERFORM pg_sleep(random() * .2); END IF;
		IF random() < rolls_back THEN ROLLBACK; ELSE COMMIT; END IF;
	END LOOP;
END $$;
-- One by one, until there have been a thousand windows.
CREATE PROCEDURE publish_slowly() LANGUAGE plpgsql AS $$
DECLARE
	value bigint;
BEGIN
	FOR i IN 1..20000 LOOP
		EXIT WHEN (SELECT windows > 1000 FROM inventory.stat_delivery WHERE subscription = 'all');
		UPDATE public.counter c SET n = c.n + 1 WHERE c.key = 'key 1' RETURNING n INTO value;
		INSERT INTO public.published VALUES (inventory.publish('load.slow', 'key 1', jsonb_build_object('n', value)), 'key 1', value);
		COMMIT;
		PERFORM pg_sleep(.002);
	END LOOP;
END $$;
SQL
$node->safe_psql('postgres', qq{SELECT inventory.subscribe('$_->[0]', '{load.*}', 'function', '$_->[1]')})
  for ['all', '{"handler": "public.handle", "linger": "0"}'],
  ['slices', '{"handler": "public.handle", "workers": 4}'],
  ['failing', '{"handler": "public.fail", "max_attempts": 20, "backoff": "20 ms", "backoff_cap": "100 ms"}'];
my @subscriptions = qw(all slices failing);

sub state_of
{
	my ($subscription) = @_;
	return $node->safe_psql('postgres', "SELECT state FROM inventory.stat_delivery WHERE subscription = '$subscription'");
}

sub delivered
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $subscription (@subscriptions)
	{
		ok($node->poll_query_until('postgres', qq{
SELECT (SELECT count(*) FROM got WHERE subscription = '$subscription') = (SELECT count(*) FROM published)}), "$name: everything is delivered to $subscription")
		  or diag $node->safe_psql('postgres', 'SELECT * FROM inventory.stat_delivery; SELECT subscription_id, state, count(*), min(due_at), max(last_error) FROM inventory.parked_message GROUP BY 1, 2');
	}
	is($node->safe_psql('postgres', q{
SELECT g.subscription, g.id FROM got g LEFT JOIN published p USING (number) WHERE p.number IS NULL OR (p.key, p.n) <> (g.key, g.value)}), '', "$name: and nothing else");
	is($node->safe_psql('postgres', q{
SELECT subscription, key, value FROM (SELECT *, lag(value) OVER w AS before, lag("position") OVER w AS before_position FROM got WINDOW w AS (PARTITION BY subscription, key ORDER BY n)) g
WHERE value <= before OR "position" <= before_position}), '', "$name: per key in order, with growing positions");
	is($node->safe_psql('postgres', q{
SELECT subscription, "position" FROM got GROUP BY 1, 2 HAVING count(*) > 1}), '', "$name: no position twice");
	return;
}

# ---- Out of order, rolled back, open for long ----

my $long = session($node);
ask($long, q{BEGIN; INSERT INTO published SELECT inventory.publish('load.long', 'key 30', '{"n": 1}'), 'key 30', 1});
my $run = start_clients($node, [ map { 'CALL publish_some(400, .2, .02);' } 1 .. $CLIENTS ]);
finish_clients($run);
$node->safe_psql('postgres', 'CALL publish_slowly()');
ok($node->poll_query_until('postgres', q{SELECT windows > 1000 FROM inventory.stat_delivery WHERE subscription = 'all'}),
	'a writer is open across a thousand windows')
  or diag $node->safe_psql('postgres', 'SELECT * FROM inventory.stat_delivery');
ask($long, 'COMMIT');
delivered('load');

# ---- Killed ----

sub kill_one
{
	my $pid = $node->safe_psql('postgres', q{SELECT pid FROM inventory.stat_delivery WHERE pid IS NOT NULL ORDER BY random() LIMIT 1});
	kill 'KILL', $pid;
	usleep(100_000);
	$node->poll_query_until('postgres', 'SELECT true');
	return;
}
my %accidents = (
	'a delivery process killed' => \&kill_one,
	'the server stopped at once' => sub { $node->stop('immediate'); $node->start; },
	'delivery processes terminated' => sub {
		$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM inventory.stat_delivery WHERE pid IS NOT NULL') for 1 .. 5;
	},
	'paused and resumed' => sub {
		for my $what (qw(pause resume pause resume))
		{
			$node->safe_psql('postgres', "SELECT inventory.$what('$_')") for @subscriptions;
			usleep(100_000);
		}
	});
for my $accident (sort keys %accidents)
{
	for my $time (1 .. 2)
	{
		my $clients = start_clients($node, [ map { 'CALL publish_some(150, .2, .05);' } 1 .. $CLIENTS ], ignore_errors => 1);
		usleep(200_000 + number_below(500_000));
		$accidents{$accident}->();
		finish_clients($clients);
	}
	delivered($accident);
}

# ---- One message in the way ----

$node->safe_psql('postgres', <<'SQL');
CREATE TABLE done (n bigserial, subscription text, key text, value text);
CREATE FUNCTION trouble(m inventory.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.done (subscription, key, value) VALUES (m.subscription, m.key, m.payload->>'value');
	IF m.payload ? 'sleep' THEN PERFORM pg_sleep(60); END IF;
	IF m.payload ? 'unlock' THEN PERFORM pg_advisory_unlock_all(); END IF;
	IF m.payload ? 'kill' THEN COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'; END IF;
END $$;
SELECT inventory.subscribe('trouble', '{trouble.#}', 'function', '{"handler": "public.trouble", "timeout": "300 ms", "backoff": "10 ms", "max_attempts": 2}');
SQL

sub in_the_way
{
	my ($payload, $error, $name) = @_;
	$node->safe_psql('postgres', qq{
TRUNCATE done;
SELECT inventory.publish('trouble.x', 'key ' || i % 5, jsonb_build_object('value', i) || CASE WHEN i = 50 THEN '$payload' ELSE '{}' END::jsonb) FROM generate_series(1, 100) i});
	for (1 .. 600)
	{
		my ($status, $count) = $node->psql('postgres', 'SELECT count(*) FROM done');
		last if ($count // '') eq '99';
		usleep(100_000);
	}
	is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT value) FROM done}), '99|99', "$name: the others are delivered, once")
	  or diag $node->safe_psql('postgres', 'SELECT * FROM inventory.stat_delivery');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT value::int, lag(value::int) OVER (PARTITION BY key ORDER BY n) AS before FROM done) d WHERE value <= before}), '0', "$name: in order");
	is($node->safe_psql('postgres', q{SELECT state, payload->>'value' FROM inventory.parked_message}), 'dead|50', "$name: it is dead");
	like($node->safe_psql('postgres', q{SELECT last_error FROM inventory.parked_message}), $error, "$name: and tells why");
	$node->safe_psql('postgres', q{SELECT inventory.discard('trouble')});
	return;
}
in_the_way('{"sleep": 1}', qr/statement timeout/, 'a handler that takes too long');
in_the_way('{"unlock": 1}', qr/released the locks/, 'a handler that lets others deliver');
in_the_way('{"kill": 1}', qr/ended the process 3 times/, 'a message that kills the process');

# ---- A handler that is not there ----

$node->safe_psql('postgres', q{TRUNCATE done; ALTER FUNCTION trouble(inventory.message) RENAME TO elsewhere; SELECT inventory.publish('trouble.y', 'k', '{"value": 1}')});
ok($node->poll_query_until('postgres', q{SELECT state = 'broken' FROM inventory.stat_delivery WHERE subscription = 'trouble'}), 'a handler that is gone is shown');
like($node->safe_psql('postgres', q{SELECT last_error FROM inventory.stat_delivery WHERE subscription = 'trouble'}), qr/there is no function public\.trouble/, 'with the error');
$node->safe_psql('postgres', q{ALTER FUNCTION elsewhere(inventory.message) RENAME TO trouble; SELECT inventory.pause('trouble'); SELECT inventory.resume('trouble')});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM done}), 'when it is back, delivery goes on');

# ---- Nobody waits for a handler ----

sub soon
{
	my ($name, $database, $action) = @_;
	$node->safe_psql($database, q{SELECT inventory.publish('trouble.z', 'k', '{"value": 1, "sleep": 1}')});
	ok($node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type = 'inventory delivery')}), "$name: a handler is busy");
	my $started = time();
	$action->();
	cmp_ok(time() - $started, '<', 2, "$name: done in under two seconds");
	return;
}
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', <<'SQL');
CREATE EXTENSION inventory;
CREATE FUNCTION trouble(m inventory.message) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); END $$;
SELECT inventory.subscribe('trouble', '{trouble.#}', 'function', '{"handler": "public.trouble"}');
SQL
soon('DROP EXTENSION', 'other', sub { $node->safe_psql('other', 'DROP EXTENSION inventory CASCADE'); });
$node->safe_psql('other', <<'SQL');
CREATE EXTENSION inventory;
CREATE FUNCTION trouble(m inventory.message) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); END $$;
SELECT inventory.subscribe('trouble', '{trouble.#}', 'function', '{"handler": "public.trouble"}');
SQL
soon('DROP DATABASE', 'other', sub { $node->safe_psql('postgres', 'DROP DATABASE other'); });
soon('a fast shutdown', 'postgres', sub { $node->stop('fast'); });
$node->start;
delivered('at the end');
is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.verify()'), '0', 'verify() finds nothing');

done_testing();
