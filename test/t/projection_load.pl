# A level is loaded into memory from stock row, tick and later events of one
# snapshot: exact, cold or after eviction, before, during and after a projection,
# while transactions from before its tick are open, and under load with more stock
# items than there is room for.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $ITEMS = 300;
my $CLIENTS = 8;
my $node = new_node('levels', conf => <<'CONF');
inventory.workers = off
inventory.max_levels = 64
inventory.snapshot_events = 10
inventory.tick_events = 100
restart_after_crash = on
CONF
my @skus = map { "sku-$_" } 1 .. $ITEMS;
# A few at a time: a transaction needs room for all that it moves.
add_skus($node, 1000, @skus[ $_ * 10 .. $_ * 10 + 9 ]) for 0 .. $ITEMS / 10 - 1;

# Reads so many others that the level has to make room; cold again.
sub evict
{
	my ($sku) = @_;
	my $id = $node->safe_psql('postgres', "SELECT stock_id FROM inventory.stock JOIN inventory.sku USING (sku_id) WHERE sku = '$sku'");
	for (1 .. 10)
	{
		$node->safe_psql('postgres', "SELECT count(inventory.available(sku)) FROM inventory.sku WHERE sku <> '$sku'");
		return if $node->safe_psql('postgres', "SELECT count(*) FROM inventory.levels() WHERE stock_id = $id") eq '0';
	}
	die "the level of $sku stays";
}

# The level as it is loaded now, against the committed events.
sub loads
{
	my ($name, %options) = @_;
	evict('sku-1') unless $options{pinned};
	is($node->safe_psql('postgres', q{SELECT inventory.on_hand('sku-1') - sum(on_hand_delta), inventory.available('sku-1') - sum(on_hand_delta - reserved_delta - committed_delta)
FROM inventory.event JOIN inventory.stock USING (stock_id) JOIN inventory.sku USING (sku_id) WHERE sku = 'sku-1'}), '0|0', $name);
	return;
}

my ($writer, $projector, $reader) = map { session($node) } 1 .. 3;
loads('before the first tick');
$node->safe_psql('postgres', 'SELECT inventory.project()');
loads('after it');
$node->safe_psql('postgres', "SELECT inventory.receive('sku-1', 'L', 7), inventory.reserve('sku-1', 'L', 5)");
loads('with events beyond the tick');
ask($projector, 'BEGIN; SELECT inventory.project()');
loads('while a projection has written and not committed');
$node->safe_psql('postgres', "SELECT inventory.receive('sku-1', 'L', 11)");
loads('and with events after that');
ask($projector, 'ROLLBACK');
loads('when the projection has rolled back');
ask($projector, 'BEGIN; SELECT inventory.project()');
ask($projector, 'COMMIT');
loads('when it has committed');

# A transaction from before the tick, that has not touched it, and then does.
ask($writer, q{BEGIN; SELECT inventory.receive('sku-2', 'L', 1)});
$node->safe_psql('postgres', "SELECT inventory.receive('sku-1', 'L', 1)");
$node->safe_psql('postgres', 'SELECT inventory.project()');
evict('sku-1');
is(ask($writer, q{SELECT inventory.issue('sku-1', 'L', 1) > 0}), 't', 'a transaction from before the tick loads it');
is(ask($writer, q{SELECT inventory.on_hand('sku-1') - (SELECT sum(on_hand_delta) FROM inventory.event JOIN inventory.stock USING (stock_id) JOIN inventory.sku USING (sku_id) WHERE sku = 'sku-1')}),
	'0', 'and counts its own event once');
$node->safe_psql('postgres', "SELECT inventory.receive('sku-1', 'L', 1); SELECT inventory.project()");
ask($writer, 'COMMIT');
loads('when it has committed, beyond the tick that left it out');
$node->safe_psql('postgres', 'SELECT inventory.project()');
loads('and when it is projected');

# A first movement, of a transaction with an old snapshot.
ask($reader, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM inventory.stock_level');
$node->safe_psql('postgres', "SELECT inventory.receive('sku-1', 'L', 100); SELECT inventory.project(); SELECT inventory.receive('sku-1', 'L', 1000)");
evict('sku-1');
is(ask($reader, q{SELECT inventory.receive('sku-1', 'L', 1) > 0}), 't', 'a transaction with a snapshot from before two ticks loads it');
is(ask($reader, q{SELECT (SELECT on_hand FROM inventory.stock_level WHERE sku = 'sku-1') - (SELECT sum(on_hand_delta) FROM inventory.event JOIN inventory.stock USING (stock_id) JOIN inventory.sku USING (sku_id) WHERE sku = 'sku-1')}),
	'0', 'and sees what its snapshot sees, and its own');
ask($reader, 'COMMIT');
loads('exact for all others');
$_->quit for $writer, $projector, $reader;

# More stock items than room, and a projection that never rests.
sub script
{
	my $sql = '';
	for my $n (1 .. 400)
	{
		my ($a, $b) = (one_of(@skus), one_of(@skus));
		$sql .= one_of(
			"SELECT inventory.issue('$a', 'L', ${\ (1 + number_below(30)) });\n",
			"SELECT inventory.receive('$a', 'L', 3);\n",
			"SELECT inventory.confirm(inventory.reserve('$a', 'L', 2));\n",
			"SELECT inventory.post('receive', ARRAY['$a', '$b'], ARRAY['L', 'L'], ARRAY[1, 2]::bigint[]);\n",
			"BEGIN; SELECT inventory.receive('$a', 'L', 1); SELECT inventory.reserve('$b', 'L', 1); ROLLBACK;\n",
			"BEGIN; SELECT inventory.receive('$a', 'L', 1); SAVEPOINT s; SELECT inventory.receive('$b', 'L', 1); ROLLBACK TO s; SELECT pg_sleep(.005); COMMIT;\n",
			"SELECT inventory.available('$a');\n");
	}
	return $sql;
}
my $loads = $node->safe_psql('postgres', 'SELECT loads FROM inventory.stat_level');
my ($looks, $wrong) = (0, '');
my $run = run_clients($node, [ (map { script() } 1 .. $CLIENTS), "SELECT inventory.project();\n" x 300 ], meanwhile => sub {
	$looks++;
	$wrong ||= $node->safe_psql('postgres', q{SELECT v.stock_id, v.on_hand, e.on_hand FROM inventory.stock_level v
JOIN (SELECT stock_id, sum(on_hand_delta) AS on_hand, count(*) AS event_count FROM inventory.event GROUP BY stock_id) e USING (stock_id) WHERE (v.on_hand, v.event_count) <> (e.on_hand, e.event_count)});
});
only_codes($run, 'nothing goes wrong', 'IV001');
is($wrong, '', "every reader finds the sum of the events meanwhile ($looks looks)");
cmp_ok($node->safe_psql('postgres', 'SELECT loads FROM inventory.stat_level'), '>', $loads + 1000, 'levels were loaded all the time');
agrees($node, 'afterwards');
$node->safe_psql('postgres', 'SELECT inventory.project()');
is($node->safe_psql('postgres', 'SELECT sum(events) - (SELECT count(*) FROM inventory.event) FROM inventory.tick'), '0', 'each event is in one tick');
agrees($node, 'when all is projected');

$node->stop;
done_testing();
