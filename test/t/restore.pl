# pg_dump and restore: in every format, into the same server and into one with
# smaller transaction ids, with and without preloading.  Afterwards everything is
# as it was, and stock moves on.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryCatalog;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf = "inventory.workers = off\ninventory.snapshot_events = 10\n";
my $source = new_node('source', bare => 1, conf => $conf);
# Five epochs of transactions: larger ids than any new server has.
$source->stop;
$source->command_ok([ 'pg_resetwal', '-e', '5', $source->data_dir ], 'the source has many transactions behind it');
$source->start;
$source->safe_psql('postgres', 'CREATE DATABASE shop');

sub call
{
	my ($node, $sql, $database) = @_;
	return $node->safe_psql($database // 'shop', $sql);
}

# Sets the test clock of the server, NULL without a moment.
sub clock
{
	my ($node, $at, $database) = @_;
	return call($node, 'SELECT inventory.set_test_clock(' . ($at ? "'$at'" : 'NULL') . ')', $database);
}

# ---- What is dumped ----

call($source, 'CREATE EXTENSION inventory; CREATE ROLE clerk; CREATE ROLE boss');
call($source, q{
SELECT inventory.grant_access('clerk', 'operator'), inventory.grant_access('boss', 'manager');
INSERT INTO inventory.location (location_id, location) VALUES (1, 'SITE'), (2, 'BIN');
UPDATE inventory.location SET parent_id = 1 WHERE location_id = 2;
-- The parent stands behind its child in the table.
INSERT INTO inventory.location (location_id, location) VALUES (4, 'SHELF');
INSERT INTO inventory.location (location_id, location, parent_id) VALUES (3, 'ZONE', 1);
UPDATE inventory.location SET parent_id = 3 WHERE location_id = 4;
SELECT setval('inventory.location_location_id_seq', 4);
INSERT INTO inventory.sku (sku) VALUES ('hot'), ('calm'), ('old');
INSERT INTO inventory.sku (sku, tracking) VALUES ('milk', 'lot');
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'L1' FROM inventory.sku WHERE sku = 'milk';
});
for my $month ('2026-03', '2026-04', '2026-05')
{
	clock($source, "$month-10 12:00Z");
	call($source, "SELECT inventory.receive(sku, 'SHELF', 100, reference => '$month') FROM unnest(ARRAY['hot', 'calm', 'old']) sku");
	call($source, "SELECT inventory.receive('milk', 'BIN', 10, lot => 'L1', metadata => '{\"a\": [1, \"\\u00e4\"]}')");
	call($source, join ";\n", map { "SELECT inventory.issue('hot', 'SHELF', 1, request_id => '$month-$_')" } 1 .. 25);
	call($source, 'SELECT inventory.project()');
}
# Before there are subscriptions that hold it.
call($source, "CALL inventory.archive('2026-04-01')");
call($source, q{SELECT inventory.subscribe('far', '{inventory.event.#}', 'notify', '{"channel": "far"}'),
	inventory.subscribe('all', '{inventory.event.#}', 'notify', '{"channel": "all", "start": "earliest"}'),
	inventory.subscribe('still', '{#}', 'notify', '{"channel": "still"}'), inventory.pause('still')});
clock($source, '2026-06-01 12:00Z');
call($source, q{
SELECT inventory.reserve('calm', 'SHELF', 7, ttl => '2 days', owner => 'cart', request_id => 'hold');
SELECT inventory.confirm(inventory.reserve('calm', 'SHELF', 5));
SELECT inventory.reverse(inventory.receive('calm', 'SHELF', 1), 'mistake');
});
call($source, 'SELECT inventory.project()');
# Messages in two tables of the ring.
call($source, q{
SET inventory.outbox_segment_size = '64kB';
SELECT count(inventory.publish('order.placed', 'order-' || n, jsonb_build_object('n', n, 'text', repeat('x', 1000)), '{"trace": "abc"}')) FROM generate_series(1, 100) n;
SELECT * FROM inventory.maintain();
SELECT inventory.publish('order.paid', NULL, NULL)});
# A transaction that is open across the last tick, and one that is never dumped.
my @open = map { session($source, 'shop') } 1, 2;
ask($_, "BEGIN; SELECT inventory.issue('hot', 'SHELF', 1)") for @open;
call($source, "SELECT inventory.receive('hot', 'SHELF', 1)");
call($source, 'SELECT inventory.project()');
is(call($source, q{SELECT inventory.deliver('far', 3)}), '3', 'a subscription is in the middle of its messages');
ask($open[0], 'COMMIT');
# The tail: events that no tick includes.
call($source, "SELECT inventory.receive('calm', 'SHELF', 2), inventory.transfer('hot', 'SHELF', 'BIN', 3)");

my $sums = q{
SELECT k.stock_id, k.condition, sum(e.on_hand), sum(e.reserved), sum(e.committed), sum(e.n) FROM inventory.stock k
JOIN (SELECT stock_id, on_hand_delta AS on_hand, reserved_delta AS reserved, committed_delta AS committed, 1 AS n FROM inventory.event
	UNION ALL SELECT stock_id, on_hand, reserved, committed, event_count FROM inventory.baseline) e USING (stock_id)
GROUP BY 1, 2 ORDER BY 1};
my $levels = 'SELECT sku, location, lot, on_hand, reserved, committed, available, event_count FROM inventory.stock_level ORDER BY 1, 2, 3';
my $past = q{SELECT at, p.* FROM unnest(ARRAY['2026-04-30', '2026-05-10 12:00Z', '2026-05-20', '2026-06-02']::timestamptz[]) at,
	inventory.stock_at(at) p ORDER BY 1, 2, 3, 4};
my $rows = join ' UNION ALL ', map { "SELECT '$_', count(*)::text, md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM inventory.$_ t" }
  qw(sku location lot reservation request baseline archived event_archive_2026_03);
$rows .= q{ UNION ALL SELECT 'event', count(*)::text, md5(string_agg(md5((to_jsonb(v) - 'xid')::text), '' ORDER BY v.event_id)) FROM inventory.event v
	UNION ALL SELECT 'outbox', count(*)::text || ' in ' || count(DISTINCT segment), md5(string_agg(md5((to_jsonb(o) - 'xid')::text), '' ORDER BY o.message_id)) FROM inventory.outbox o};
my $next = 'SELECT last_value, is_called FROM inventory.event_event_id_seq UNION ALL SELECT last_value, is_called FROM inventory.reservation_reservation_id_seq UNION ALL SELECT last_value, is_called FROM inventory.stock_stock_id_seq';
my %before = map { $_ => call($source, $_) } $sums, $levels, $past, $rows, $next;
my $original = catalog_of($source, 'shop');
my $hashes = call($source, 'SELECT tick_id, hash FROM inventory.tick ORDER BY 1');
cmp_ok(call($source, 'SELECT max(xid::text::numeric) FROM inventory.event'), '>', 5 * 2**32, 'the transaction ids of the source are large');
cmp_ok(call($source, 'SELECT count(*) FROM inventory.snapshot'), '>', 5, 'there are snapshots');
my $last_tick = call($source, 'SELECT max(tick_id) FROM inventory.tick');

my $folder = PostgreSQL::Test::Utils::tempdir();
my ($out, $err) = run_command([ 'pg_dump', '-d', $source->connstr('shop'), '-f', "$folder/plain.sql" ]);
is($err, '', 'pg_dump has nothing to warn of');
$source->command_ok([ 'pg_dump', '-Fc', '-d', $source->connstr('shop'), '-f', "$folder/custom" ], 'pg_dump -Fc');
$source->command_ok([ 'pg_dump', '--data-only', '-d', $source->connstr('shop'), '-f', "$folder/data.sql" ], 'pg_dump --data-only');
$source->command_ok([ 'pg_dump', '--inserts', '-d', $source->connstr('shop'), '-f', "$folder/inserts.sql" ], 'pg_dump --inserts');
ask($open[1], 'ROLLBACK');
$_->quit for @open;
my $positions = call($source, 'SELECT max(position) FROM inventory.cursors()');
my $left = messages_left($source, 'shop');
cmp_ok($left->{far}, '>', 3, 'there are messages left');
is($left->{all}, call($source, 'SELECT count(*) FROM inventory.event'), 'for a subscription at the beginning all');

# ---- What must be so after a restore ----

sub restored
{
	my ($node, $database, $name, %options) = @_;
	refused($node, "SELECT inventory.receive('hot', 'SHELF', 1)", '55000', "$name: nothing moves before post_restore()", database => $database);
	my ($status, $printed, $said) = $node->psql($database, 'SELECT inventory.post_restore()');
	is($status, 0, "$name: post_restore() succeeds") or diag $said;
	like($said, qr/NOTICE:.*agrees.*\n.*HINT:.*ANALYZE/, "$name: and says so");
	refused($node, 'SELECT inventory.post_restore()', '55000', "$name: there is only one end of a restore", database => $database);
	is(call($node, 'SHOW inventory.restoring', $database), 'off', "$name: new sessions are not restoring");
	clock($node, '2026-06-01 12:00Z', $database);
	is(call($node, $_, $database), $before{$_}, "$name: " . ($_ eq $sums ? 'an independent sum over the events is what it was' : $_ eq $levels ? 'stock_level is what it was'
		: $_ eq $past ? 'stock_at() is what it was' : $_ eq $rows ? 'every row is there' : 'the sequences go on')) for $sums, $levels, $past, $rows, $next;
	is(call($node, 'SELECT count(*) FROM inventory.verify()', $database), '0', "$name: verify() finds nothing");
	is(call($node, 'SELECT count(*) FROM inventory.verify_chain()', $database), '0', "$name: the chain of hashes holds");
	is(call($node, "SELECT tick_id, hash FROM inventory.tick WHERE tick_id <= $last_tick ORDER BY 1", $database), $hashes, "$name: with the hashes that it had");
	is(call($node, "SELECT count(*) FROM inventory.event WHERE xid >= pg_snapshot_xmin(pg_current_snapshot()) AND xid < '9223372036854775808'", $database), '0',
		"$name: no event is of a transaction that is yet to come");
	is(call($node, "SELECT count(*) FROM inventory.outbox WHERE xid >= pg_snapshot_xmin(pg_current_snapshot()) AND xid < '9223372036854775808'", $database), '0',
		"$name: nor is a message");
	is(call($node, "SELECT string_agg(state, ' ' ORDER BY segment) FROM inventory.outbox_segment", $database), 'current closed free free free free free free',
		"$name: the ring of messages goes on");
	agrees($node, $name, database => $database);
	like($said, qr/NOTICE: +subscriptions are paused: "all", "far"\n/, "$name: the subscriptions that were active are paused");
	is(call($node, q{SELECT string_agg(name || ' ' || state, ', ' ORDER BY name) FROM inventory.subscription}, $database),
		'all paused, far paused, still paused', "$name: every subscription is");
	is(call($node, "SELECT min(position) > $positions AND count(DISTINCT epoch) = 3 AND bool_and(position = epoch::bigint << 40) FROM inventory.cursors()", $database), 't',
		"$name: their positions begin anew after those that there were");
	same_catalog($original, catalog_of($node, $database), "$name: the catalogs are those of the original") unless $options{catalog};
	return;
}

# What is left for the subscriptions in a database.
sub messages_left
{
	my ($node, $database) = @_;
	my @left = split /\n/, call($node, q{BEGIN; SELECT inventory.deliver('far'); SELECT inventory.deliver('all'); SELECT inventory.resume('still') IS NULL; SELECT inventory.deliver('still'); ROLLBACK}, $database);
	return { far => $left[0], all => $left[1], still => $left[3] };
}

sub delivers
{
	my ($node, $database, $name, $left) = @_;
	call($node, q{SELECT inventory.resume('far'), inventory.resume('all')}, $database);
	is(call($node, q{SELECT inventory.deliver('far')}, $database), $left->{far}, "$name: a subscription gets the messages that it had not had yet");
	is(call($node, q{SELECT inventory.deliver('all')}, $database), $left->{all}, "$name: so does another");
	call($node, q{SELECT inventory.receive('calm', 'SHELF', 1)}, $database);
	is(call($node, q{SELECT inventory.deliver('far')}, $database), '1', "$name: and those that come");
	is(call($node, q{BEGIN; SELECT inventory.resume('still') IS NULL; SELECT inventory.deliver('still'); ROLLBACK}, $database) =~ s/^.\n//r, $left->{still} + 1, "$name: so does one that wants messages, too");
	is(call($node, q{SET inventory.outbox_retention = 0; SELECT inventory.publish('order.paid', 'k', NULL) > 0; SELECT max(done) FROM inventory.maintain(); SELECT count(*) FROM inventory.outbox WHERE topic = 'order.placed'}, $database) =~ s/^t\n\d+\n//r,
		'100', "$name: what a subscription has not had stays in the ring");
	call($node, q{SELECT inventory.issue('calm', 'SHELF', 1)}, $database);
	return;
}

# Selling, holding, expiring, repeating, reversing, looking back, archiving.
sub goes_on
{
	my ($node, $database, $name) = @_;
	my $ask = sub { return call($node, $_[0], $database); };
	my $left = $ask->("SELECT inventory.available('hot', 'SHELF')");
	is($ask->("SELECT inventory.available('calm')"), '290', "$name: a hold holds until its deadline");
	is($ask->("SELECT inventory.reserve('calm', 'SHELF', 7, ttl => '2 days', owner => 'cart', request_id => 'hold')"),
		$ask->("SELECT reservation_id FROM inventory.reservation WHERE owner = 'cart'"), "$name: a request that was made before has its result");
	is($ask->("SELECT inventory.issue('hot', 'SHELF', $left, request_id => 'all') > (SELECT max(event_id) FROM inventory.event WHERE reference IS NOT NULL)"), 't', "$name: a hot item sells to the last");
	refused($node, "SELECT inventory.reserve('hot', 'SHELF', 1)", 'IV001', "$name: and not beyond", database => $database);
	clock($node, '2026-06-03 12:00Z', $database);
	is($ask->("SELECT inventory.available('calm')"), '297', "$name: the hold has expired at its deadline");
	is($ask->('SELECT inventory.expire_due()'), '1', "$name: and has its event");
	is($ask->("SELECT inventory.reverse((SELECT event_id FROM inventory.event WHERE type = 'transfer_out'), 'wrong bin') > 0"), 't', "$name: a restored transfer is reversed");
	is($ask->("SELECT inventory.ship(reservation_id) FROM inventory.reservation WHERE state = 'committed'"), '1', "$name: a restored order is shipped");
	$ask->("SELECT inventory.receive('hot', 'SHELF', 1) FROM generate_series(1, 30)");
	agrees($node, "$name, after moving on", database => $database);
	cmp_ok($ask->('SELECT inventory.project()'), '>', 30, "$name: the projection goes on");
	is($ask->('SELECT inventory.project()'), '0', "$name: to the end");
	agrees($node, "$name, projected", database => $database);
	is($ask->('SELECT count(*) FROM inventory.verify_chain()'), '0', "$name: the chain of hashes goes on");
	is($ask->("SELECT on_hand FROM inventory.stock_at('2026-06-01 11:00Z', 'hot', 'SHELF')"), call($source, "SELECT on_hand FROM inventory.stock_at('2026-06-01 11:00Z', 'hot', 'SHELF')"), "$name: history reaches back across the restore");
	is($ask->("SELECT on_hand FROM inventory.stock_at('2026-06-04', 'hot', 'SHELF')"), $ask->("SELECT sum(on_hand) FROM inventory.stock_level WHERE sku = 'hot' AND location = 'SHELF'"), "$name: and to the present");
	$ask->("CALL inventory.archive('2026-05-01')");
	agrees($node, "$name, archived", database => $database);
	is($ask->('SELECT count(*) FROM inventory.verify()'), '0', "$name: verify() finds nothing after archiving");
	return;
}

sub prepare
{
	my ($node, $database) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql('postgres', "ALTER DATABASE $database SET inventory.restoring = on");
	return;
}

sub load_plain
{
	my ($node, $database, $file) = @_;
	return $node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($database), '-f', $file ], "$database: psql reports no error");
}

# ---- Without preparation ----

my $target = new_node('target', bare => 1, conf => $conf);
$target->safe_psql('postgres', 'CREATE ROLE clerk; CREATE ROLE boss; CREATE DATABASE unprepared');
my ($status, $printed, $said) = $target->psql('unprepared', "\\i $folder/plain.sql", on_error_stop => 0);
like($said, qr/^\S+ ERROR:  this looks like a dump being loaded, but inventory.restoring is off\nHINT:  ALTER DATABASE unprepared SET inventory.restoring = on/m,
	'a dump that is loaded without preparation fails at once, and the hint says what to do');
is($target->safe_psql('unprepared', "SELECT count(*) FROM pg_class c WHERE c.relnamespace = 'inventory'::regnamespace"), '0', 'and leaves nothing behind');
$target->safe_psql('unprepared', 'DROP SCHEMA inventory CASCADE; CREATE EXTENSION inventory');
($status, $printed, $said) = $target->psql('unprepared', "\\i $folder/data.sql", on_error_stop => 0);
like($said, qr/ERROR:  table "stock" is written by the engine only\nHINT:.*set inventory.restoring first/, 'so does one of data only');
is($target->safe_psql('unprepared', 'SELECT count(*) FROM inventory.stock'), '0', 'of which no stock is loaded');
($status, $printed, $said) = $target->psql('unprepared', 'SET inventory.restoring = on; DROP EXTENSION inventory; CREATE EXTENSION inventory');
like($said, qr/inventory.restoring is on in this session only\nHINT:  ALTER DATABASE/, 'setting it for a session is not enough');

# ---- Everywhere ----

for my $node ($source, $target)
{
	my $place = $node == $source ? 'the same server' : 'a server with smaller transaction ids';
	prepare($node, 'plain');
	load_plain($node, 'plain', "$folder/plain.sql");
	restored($node, 'plain', "plain, $place");
	delivers($node, 'plain', "plain, $place", $left);
	goes_on($node, 'plain', "plain, $place");

	prepare($node, 'custom');
	$node->command_ok([ 'pg_restore', '-j', '4', '-d', $node->connstr('custom'), "$folder/custom" ], 'pg_restore -j 4 reports no error');
	restored($node, 'custom', "-Fc -j 4, $place");
	delivers($node, 'custom', "-Fc -j 4, $place", $left);
	goes_on($node, 'custom', "-Fc -j 4, $place");

	# Makes no partitions itself, so they must be made; the archived one, too.
	prepare($node, 'data');
	$node->safe_psql('data', q{
CREATE EXTENSION inventory;
SELECT inventory.make_partitions('2026-04-01', (SELECT (extract(year FROM now()) - 2026) * 12 + extract(month FROM now()) - 4 + 3)::integer);
CREATE TABLE inventory.event_archive_2026_03 (LIKE inventory.event)});
	load_plain($node, 'data', "$folder/data.sql");
	restored($node, 'data', "--data-only, $place", catalog => 'as CREATE EXTENSION makes them');
	delivers($node, 'data', "--data-only, $place", $left);
	goes_on($node, 'data', "--data-only, $place");
	clock($node, undef, 'data');
	$node->safe_psql('postgres', "DROP DATABASE $_") for qw(plain custom data);
}
prepare($target, 'inserts');
load_plain($target, 'inserts', "$folder/inserts.sql");
restored($target, 'inserts', '--inserts');
delivers($target, 'inserts', '--inserts', $left);
goes_on($target, 'inserts', '--inserts');

# ---- Twice ----

# By now another month has been archived.
clock($target, '2026-06-01 12:00Z', 'inserts');
call($target, "SELECT inventory.receive('hot', 'SHELF', 1)", 'inserts');
$past =~ s/'2026-04-30', //;
$rows =~ s/event_archive_2026_03/event_archive_2026_04/g;
$before{$_} = call($target, $_, 'inserts') for $sums, $levels, $past, $rows, $next;
$hashes = call($target, 'SELECT tick_id, hash FROM inventory.tick ORDER BY 1', 'inserts');
$last_tick = call($target, 'SELECT max(tick_id) FROM inventory.tick', 'inserts');
$original = catalog_of($target, 'inserts');
$left = messages_left($target, 'inserts');
cmp_ok($left->{all}, '>', $left->{far}, 'there are messages left again');
$positions = call($target, 'SELECT max(position) FROM inventory.cursors()', 'inserts');
$target->command_ok([ 'pg_dump', '-Fc', '-d', $target->connstr('inserts'), '-f', "$folder/twice" ], 'what was restored is dumped');
my $second = new_node('second', bare => 1, conf => $conf);
$second->safe_psql('postgres', 'CREATE ROLE clerk; CREATE ROLE boss');
prepare($second, 'twice');
$second->command_ok([ 'pg_restore', '-j', '4', '-d', $second->connstr('twice'), "$folder/twice" ], 'and restored');
restored($second, 'twice', 'restored twice');
is(call($second, "SELECT count(*) FROM inventory.event WHERE xid < '9223372036854775808'", 'twice'), '0', 'restored twice: the events of both servers are before those of this one');
delivers($second, 'twice', 'restored twice', $left);
is(call($second, "SELECT inventory.receive('hot', 'SHELF', 1) > 0", 'twice'), 't', 'restored twice: stock moves');
agrees($second, 'restored twice, after moving on', database => 'twice');
$second->stop;

# ---- Without preloading, and then with workers ----

my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init;
$plain->start;
$plain->safe_psql('postgres', 'CREATE ROLE clerk; CREATE ROLE boss');
prepare($plain, 'later');
load_plain($plain, 'later', "$folder/plain.sql");
($status, $printed, $said) = $plain->psql('later', 'SELECT inventory.post_restore()');
like($said, qr/must be loaded via shared_preload_libraries/, 'without preloading a dump is loaded, but not finished');
$plain->append_conf('postgresql.conf', "shared_preload_libraries = 'inventory'\n");
$plain->restart;
is($plain->safe_psql('later', 'SHOW inventory.restoring'), 'on', 'with preloading it is still being loaded');
is($plain->safe_psql('later', 'SELECT inventory.post_restore() IS NULL; SELECT count(*) FROM inventory.verify()'), "f\n0", 'and is finished then');
is($plain->safe_psql('later', "SELECT inventory.receive('hot', 'SHELF', 1) > 0"), 't', 'stock moves');
ok($plain->poll_query_until('later', "SELECT sum(event_count) = (SELECT count(*) FROM inventory.event) + (SELECT sum(event_count) FROM inventory.baseline) FROM inventory.stock"), 'and the worker projects');
agrees($plain, 'loaded without preloading', database => 'later');

# ---- What is incomplete ----

prepare($target, 'part');
$target->command_ok([ 'pg_restore', '-d', $target->connstr('part'), '--section=pre-data', "$folder/custom" ], 'a dump is restored in part');
$target->command_ok([ 'pg_restore', '-d', $target->connstr('part'), '--section=data', "$folder/custom" ], 'without post-data');
$target->safe_psql('part', 'ALTER TABLE inventory.event_2026_05 DISABLE TRIGGER ALL; DELETE FROM inventory.event_2026_05 WHERE event_id % 7 = 0; ALTER TABLE inventory.event_2026_05 ENABLE TRIGGER ALL');
$target->command_ok([ 'pg_restore', '-d', $target->connstr('part'), '--section=post-data', "$folder/custom" ], 'and then with it');
($status, $printed, $said) = $target->psql('part', 'SELECT inventory.post_restore()');
like($said, qr/ERROR:  the dump is not loaded completely: \d+ discrepancies\nDETAIL:  .*stock item/s, 'what does not agree with its events does not go live');
is($target->safe_psql('part', 'SHOW inventory.restoring'), 'on', 'and remains as it was');
is($target->safe_psql('part', "SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'inventory.event_2026_05'::regclass AND tgname = 'event_append_only'"), 'O', 'triggers included');

$_->stop for $source, $target, $plain;
done_testing();
