# With and without shared_preload_libraries; several databases in one server.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('preload');
$node->init;
$node->append_conf('postgresql.conf', "shared_buffers = 64MB\n");
$node->start;

# Not preloaded.
is($node->safe_psql('postgres', "LOAD 'inventory'; SELECT 1"), '1', 'without preload LOAD works');
my ($status, $out, $err) = $node->psql('postgres', 'CREATE EXTENSION inventory', extra_params => [ '-v', 'VERBOSITY=verbose' ]);
like($err, qr/ERROR:\s+55000: .*shared_preload_libraries/, 'without preload CREATE EXTENSION fails and says why');
like($err, qr/HINT:.*shared_preload_libraries/, 'with a hint');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_namespace WHERE nspname = 'inventory'"), '0', 'and leaves nothing behind');

# Preloaded.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'inventory'\n");
$node->restart;
is($node->safe_psql('postgres', 'CREATE EXTENSION inventory; SELECT inventory.version()'), '0.2', 'with preload it works');
is($node->safe_psql('postgres', "LOAD 'inventory'; SELECT inventory.version()"), '0.2', 'and LOAD does no harm');
add_skus($node, 10, 'a');
$node->safe_psql('postgres', "SELECT inventory.reserve('a', 'L', 4, ttl => NULL)");
agrees($node, 'with preload');

# Preload is taken away from a database that has the extension.
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->restart;
for my $call (
	'inventory.version()', "inventory.available('a')", "inventory.on_hand('a')", "inventory.receive('a', 'L', 1)",
	"inventory.reserve('a', 'L', 1)", "inventory.try_reserve('a', 'L', 1)", 'inventory.confirm(1)', 'inventory.release(1)', 'inventory.expire_due()',
	'count(*) FROM inventory.stat_level', 'count(*) FROM inventory.stat_operation', 'count(*) FROM inventory.levels()', 'inventory.stat_reset()',
	"inventory.set_test_clock(NULL)", 'count(*) FROM inventory.verify()')
{
	($status, $out, $err) = $node->psql('postgres', "SELECT $call", extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($err, qr/ERROR:\s+55000: .*HINT:.*shared_preload_libraries/s, "without preload $call says what is missing");
}
refused($node, "INSERT INTO inventory.event (stock_id, type, on_hand_delta) SELECT stock_id, 'issue', -1 FROM inventory.stock", '55000',
	'without preload nothing can be inserted past the engine');
is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.event'), '2', 'the events can be read all the same');
my $dump = "$ENV{TESTDIR}/preload-dump.sql";
$node->command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'and dumped');
unlink $dump;
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'inventory'");
$node->restart;
is($node->safe_psql('postgres', "SELECT inventory.available('a'), inventory.on_hand('a')"), '6|10', 'with preload again all is as it was');

# Two databases.
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', q{
CREATE EXTENSION inventory;
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) VALUES ('a');
SELECT inventory.receive('a', 'L', 3)});
is($node->safe_psql('other', "SELECT inventory.available('a')"), '3', 'another database has its own stock');
refused($node, "SELECT inventory.reserve('a', 'L', 4)", 'IV001', 'and its own limits', database => 'other');
is($node->safe_psql('postgres', "SELECT inventory.available('a')"), '6', 'the first database is not touched');
is($node->safe_psql('other', "SELECT count(*) FROM inventory.levels()"), '1', 'levels() shows one database');
is($node->safe_psql('other', "SELECT sum(calls) FROM inventory.stat_operation WHERE operation = 'receive'"), '1', 'and so does stat_operation');
agrees($node, 'the other database', database => 'other');

# A clone has the same oids, and different stock from its first movement on.
$node->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE other');
is($node->safe_psql('clone', "SELECT inventory.available('a')"), '3', 'a clone has the stock of its template');
$node->safe_psql('clone', "SELECT inventory.issue('a', 'L', 2)");
is($node->safe_psql('other', "SELECT inventory.available('a'), inventory.on_hand('a')"), '3|3', 'a sale in the clone does not touch the template');
$node->safe_psql('other', "SELECT inventory.receive('a', 'L', 5)");
is($node->safe_psql('clone', "SELECT inventory.available('a'), inventory.on_hand('a')"), '1|1', 'nor a receipt in the template the clone');
agrees($node, 'the clone', database => 'clone');
agrees($node, 'its template', database => 'other');

# A clone with the name and possibly the place of a dropped one.
$node->safe_psql('postgres', 'DROP DATABASE clone');
$node->safe_psql('postgres', 'CREATE DATABASE clone TEMPLATE other');
is($node->safe_psql('clone', "SELECT inventory.available('a')"), '8', 'a new clone of the same name does not meet the old levels');

# Events that are beyond the last tick come along, too.
$node->safe_psql('postgres', 'ALTER SYSTEM SET inventory.workers = off');
$node->reload;
$node->safe_psql('other', 'SELECT inventory.project()');
$node->safe_psql('other', "SELECT inventory.receive('a', 'L', 4)");
$node->safe_psql('postgres', 'CREATE DATABASE clone2 TEMPLATE other');
is($node->safe_psql('clone2', "SELECT inventory.available('a')"), '12', 'a clone has what was not projected in its template');
is($node->safe_psql('clone2', "SELECT inventory.project() > 0"), 't', 'and projects it');
agrees($node, 'this clone', database => 'clone2');
$node->safe_psql('postgres', 'DROP DATABASE clone2');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET inventory.workers');
$node->reload;

# DROP and CREATE EXTENSION: the same stock_id, another table of events.
for my $round (1 .. 3)
{
	$node->safe_psql('clone', 'SET inventory.allow_drop = on; DROP EXTENSION inventory CASCADE');
	is($node->safe_psql('clone', "SELECT count(*) FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'inventory')"),
		'0', "DROP EXTENSION leaves no table behind ($round)");
	$node->safe_psql('clone', q{
CREATE EXTENSION inventory;
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) VALUES ('a')});
	is($node->safe_psql('clone', "SELECT inventory.available('a')"), '0', "a new extension starts with nothing ($round)");
	refused($node, "SELECT inventory.reserve('a', 'L', 1)", 'IV001', "and has nothing to sell ($round)", database => 'clone');
	$node->safe_psql('clone', "SELECT inventory.receive('a', 'L', $round)");
	is($node->safe_psql('clone', "SELECT inventory.available('a')"), $round, "but what it receives ($round)");
	agrees($node, "the new extension ($round)", database => 'clone');
}

# The same in one session, which has cached codes and plans of the old one.
my $session = session($node, 'clone');
is(ask($session, "SELECT inventory.available('a')"), '3', 'a session knows the old extension');
ask($session, 'SET client_min_messages = warning; SET inventory.allow_drop = on; DROP EXTENSION inventory CASCADE; CREATE EXTENSION inventory');
is(ask($session, "SELECT inventory.available('a')"), 'IV002', 'in the new one the code is unknown');
ask($session, "INSERT INTO inventory.location (location) VALUES ('L'); INSERT INTO inventory.sku (sku) VALUES ('a')");
is(ask($session, "SELECT inventory.available('a')"), '0', 'until it is made anew');
like(ask($session, "SELECT inventory.receive('a', 'L', 5)"), qr/^\d+$/, 'the same session can move stock in the new extension');
ask($session, 'BEGIN; DROP EXTENSION inventory CASCADE; ROLLBACK');
is(ask($session, "SELECT inventory.available('a')"), '5', 'a DROP EXTENSION that is rolled back changes nothing');
$session->quit;
agrees($node, 'the last extension', database => 'clone');
agrees($node, 'the first database', database => 'postgres');
is($node->safe_psql('postgres', "SELECT inventory.available('a'), inventory.on_hand('a')"), '6|10', 'which has the stock it had');

$node->stop;
done_testing();
