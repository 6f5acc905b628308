# From 0.1, with data in it: the new library works with the tables of 0.1, and
# after ALTER EXTENSION UPDATE everything is as in a fresh installation.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryCatalog;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('upgrade', bare => 1);
sub call { return $node->safe_psql($_[1] // 'old', $_[0]); }

$node->safe_psql('postgres', 'CREATE ROLE clerk; CREATE ROLE boss; CREATE DATABASE old; CREATE DATABASE fresh');
call("CREATE EXTENSION inventory VERSION '0.1'");
is(call("SELECT extversion FROM pg_extension WHERE extname = 'inventory'"), '0.1', 'the former version can be created');
call(q{
SELECT inventory.grant_access('clerk', 'operator'), inventory.grant_access('boss', 'manager');
INSERT INTO inventory.location (location) VALUES ('SITE');
INSERT INTO inventory.location (location, parent_id) SELECT 'BIN', location_id FROM inventory.location;
INSERT INTO inventory.sku (sku) VALUES ('a'), ('b');
INSERT INTO inventory.sku (sku, tracking) VALUES ('milk', 'lot');
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'L1' FROM inventory.sku WHERE sku = 'milk'});

# ---- The new library, the old tables ----

for my $month ('2026-03', '2026-04', '2026-05')
{
	call("SELECT inventory.set_test_clock('$month-20 12:00Z')");
	call("SELECT inventory.receive(sku, 'BIN', 100) FROM unnest(ARRAY['a', 'b']) sku");
	call("SELECT inventory.receive('milk', 'SITE', 10, lot => 'L1', request_id => '$month')");
}
is(call("SELECT inventory.issue('a', 'BIN', 30) > 0, inventory.transfer('b', 'BIN', 'SITE', 5) > 0, inventory.set_on_hand('milk', 'SITE', 29, 30, lot => 'L1') > 0"), 't|t|t', 'with the tables of 0.1 stock moves');
is(call("SELECT inventory.confirm(inventory.reserve('a', 'BIN', 5))"), '1', 'and is promised');
is(call("SELECT inventory.reserve('a', 'BIN', 7, ttl => '1 hour', owner => 'cart', request_id => 'hold')"), '2', 'and held');
is(call("SELECT inventory.reserve('b', 'BIN', 2, ttl => '1 minute') > 0"), 't', 'for a short time, too');
call("SELECT inventory.set_test_clock('2026-05-20 12:02Z')");
is(call('SELECT inventory.expire_due()'), '1', 'holds expire');
is(call("SELECT inventory.reverse((SELECT event_id FROM inventory.event WHERE type = 'transfer_out'), 'no') > 0"), 't', 'movements are reversed');
is(call("SELECT inventory.receive('milk', 'SITE', 10, lot => 'L1', request_id => '2026-04')"), call("SELECT result FROM inventory.request WHERE request_id = '2026-04'"), 'requests are remembered');
refused($node, "SELECT inventory.reserve('a', 'BIN', 1000)", 'IV001', 'nothing is oversold', database => 'old');
is(call("SELECT inventory.available('a'), inventory.on_hand('a')"), '258|270', 'available() and on_hand()');
is(call("SELECT on_hand, reserved, committed, available FROM inventory.stock_level WHERE sku = 'a'"), '270|7|5|258', 'stock_level');
is(call("SELECT count(*) FROM inventory.history('a', 'BIN')"), '7', 'history()');
is(call('SELECT count(*) FROM inventory.verify()'), '0', 'verify()');
is(call('SELECT count(*) > 0 FROM inventory.levels()'), 't', 'levels()');
refused($node, 'DROP EXTENSION inventory CASCADE', 'IV021', 'events are not dropped by mistake', database => 'old');
my $session = session($node, 'old');
is(ask($session, "SELECT inventory.issue('b', 'BIN', 1) > 0; SELECT count(*) FROM inventory.stock_level"), "t\n4", 'a session has worked with the old version');
my $levels = call('SELECT sku, location, lot, on_hand, reserved, committed, available, event_count FROM inventory.stock_level ORDER BY 1, 2, 3');
my $events = call('SELECT md5(string_agg(v::text, E\'\n\' ORDER BY event_id)) FROM inventory.event v');

# ---- The update ----

# The old library is one whose version() says so.
my ($status, $out, $err) = $node->psql('old', q{
BEGIN;
CREATE OR REPLACE FUNCTION inventory.version() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT '0.1' $$;
ALTER EXTENSION inventory UPDATE});
like($err, qr/ERROR:  the server runs version 0.1 of the library\nHINT:  Restart the server/, 'with the old library loaded the update is refused, and says what to do');
is(call("SELECT extversion FROM pg_extension WHERE extname = 'inventory'"), '0.1', 'and nothing has changed');

call('ALTER EXTENSION inventory UPDATE');
is(call("SELECT extversion = inventory.version() FROM pg_extension WHERE extname = 'inventory'"), 't', 'the update');
is(ask($session, "SELECT inventory.issue('b', 'BIN', 1) > 0; SELECT count(*) FROM inventory.stock_level"), "t\n4", 'a session from before goes on');
is(ask($session, "SELECT inventory.receive('b', 'BIN', 1) > 0"), 't', 'both ways');
$session->quit;
is(call('SELECT md5(string_agg(v::text, E\'\n\' ORDER BY event_id)) FROM inventory.event v WHERE event_id <= (SELECT max(event_id) - 2 FROM inventory.event)'), $events, 'no event has changed');
call("SELECT inventory.issue('b', 'BIN', 1) IS NULL; SELECT inventory.receive('b', 'BIN', 1) IS NULL");
is(call('SELECT sku, location, lot, on_hand, reserved, committed, available, event_count - CASE WHEN sku = \'b\' AND location = \'BIN\' THEN 4 ELSE 0 END FROM inventory.stock_level ORDER BY 1, 2, 3'), $levels, 'nor has any level');
agrees($node, 'after the update', database => 'old');
ok($node->poll_query_until('old', 'SELECT sum(event_count) = (SELECT count(*) FROM inventory.event) FROM inventory.stock'), 'the worker projects the events of before');
is(call("SELECT on_hand FROM inventory.stock_at('2026-04-30', 'a')"), '200', 'history reaches back before the update');
is(call('SELECT count(*) FROM inventory.verify_chain()'), '0', 'the chain of hashes holds');
call("SELECT inventory.set_test_clock('2026-05-20 14:00Z')");
is(call("SELECT inventory.available('a')"), '265', 'a hold of before expires');
is(call('SELECT inventory.expire_due() >= 0'), 't', 'and is settled');
is(call("SELECT inventory.reserve('a', 'BIN', 7, ttl => '1 hour', owner => 'cart', request_id => 'hold')"), '2', 'a request of before is remembered');
is(call("SELECT inventory.ship(1) + inventory.issue('a', 'BIN', 265) > 0"), 't', 'it sells on, to the last');
refused($node, "SELECT inventory.issue('a', 'BIN', 1)", 'IV001', 'and not beyond', database => 'old');
call("CALL inventory.archive('2026-04-01')");
agrees($node, 'after archiving what the old version has written', database => 'old');

# ---- Like a fresh installation ----

call("SELECT inventory.set_test_clock('2026-06-20 12:00Z'), inventory.make_partitions('2026-06-20', 3)");
call("CREATE EXTENSION inventory; SELECT inventory.make_partitions('2026-04-20', 5)", 'fresh');
call("SELECT inventory.grant_access('clerk', 'operator'), inventory.grant_access('boss', 'manager')", $_) for 'old', 'fresh';
my $only = '^(?!event_archive_|_event_archive_|_?event_2026_1|_?event_20(?!26)|_?event_2026_03)';
same_catalog(catalog_of($node, 'fresh', $only), catalog_of($node, 'old', $only), 'an updated extension has the catalogs of a fresh one');

# ---- Dumped and restored ----

my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('old'), '-f', $dump ], 'an updated extension is dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->safe_psql('postgres', 'ALTER DATABASE restored SET inventory.restoring = on');
$node->command_ok([ 'pg_restore', '-j', '4', '-d', $node->connstr('restored'), $dump ], 'and restored');
call('SELECT inventory.post_restore()', 'restored');
same_catalog(catalog_of($node, 'old'), catalog_of($node, 'restored'), 'with the same catalogs');
agrees($node, 'restored', database => 'restored');

$node->stop;
done_testing();
