# The months make themselves, whoever crosses into them first.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use Test::More;

my $CLIENTS = 32;
my $node = new_node('partition');
add_skus($node, 1000, 'a', 'b');
my $ahead = $node->safe_psql('postgres', 'SHOW inventory.partitions_ahead');

sub clock
{
	my ($at) = @_;
	$node->safe_psql('postgres', "SELECT inventory.set_test_clock('$at')");
}

sub months
{
	my ($from) = @_;
	return $node->safe_psql('postgres', qq{
SELECT count(*) FROM generate_series(0, $ahead) n
WHERE to_regclass(format('inventory.event_%s', to_char(timestamp '$from' + n * interval '1 month', 'YYYY_MM'))) IS NULL});
}
is($node->safe_psql('postgres', "SELECT count(*) FROM generate_series(0, $ahead) n WHERE to_regclass(format('inventory.event_%s', to_char((now() AT TIME ZONE 'UTC') + n * interval '1 month', 'YYYY_MM'))) IS NULL"),
	'0', 'CREATE EXTENSION makes the months ahead');

# One session crosses into a month that nobody has made.
clock('2031-01-31 23:59:59.999999Z');
is($node->safe_psql('postgres', "SELECT inventory.receive('a', 'L', 1) > 0"), 't', 'a movement in a month that has no partition is done');
is(months('2031-01-01'), '0', "and the $ahead months after it are made as well");
clock('2031-02-01 00:00:00Z');
is($node->safe_psql('postgres', "SELECT inventory.receive('a', 'L', 1) > 0"), 't', 'so is one at midnight on the 1st');
is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM inventory.event_2031_01), (SELECT count(*) FROM inventory.event_2031_02)'),
	'1|1', 'each stands in its own month');

# Many cross at once, through every entry.
my $year = 2040;
for my $level ('read committed', 'repeatable read', 'serializable')
{
	$year++;
	my $a = $node->safe_psql('postgres', "SELECT stock_id FROM inventory.stock_level WHERE sku = 'a'");
	my @calls = (
		"SELECT inventory.receive('a', 'L', 1)", "SELECT inventory.reserve('b', 'L', 1, request_id => '$year-%n')",
		"SELECT inventory.try_reserve('b', 'L', 1)", "SELECT inventory.issue('a', 'L', 1)",
		"SELECT inventory.post('receive', ARRAY['a', 'b'], ARRAY['L', 'L'], ARRAY[1, 1])",
		"SELECT inventory.post('[{\"type\":\"issue\",\"sku\":\"a\",\"location\":\"L\",\"quantity\":1}]')",
		"SELECT inventory.confirm(inventory.reserve('b', 'L', 1))",
		"SELECT inventory.reserve('[{\"sku\":\"b\",\"location\":\"L\",\"quantity\":1}]'::jsonb)");
	my @scripts = map {
		my $n = $_;
		"BEGIN ISOLATION LEVEL $level; ${\ $calls[ $n % @calls ] =~ s/%n/$n/r }; COMMIT;\n"
	} 1 .. $CLIENTS;
	clock("$year-05-31 12:00Z");
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM inventory.event');
	my $run = run_clients($node, \@scripts);
	only_codes($run, "$level: $CLIENTS sessions at once in a month without partition meet no error");
	is(months("$year-05-01"), '0', "$level: the months are made");
	cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM inventory.event_${year}_05"), '>=', $CLIENTS,
		"$level: all of them have written there");
}
agrees($node, 'after the crossings');

# Transactions that are open across midnight neither stop the others nor are
# stopped by them, although the first of them is making the months ahead.
clock('2050-11-30 12:00Z');
$node->safe_psql('postgres', "SELECT inventory.receive('a', 'L', 1)");
clock('2050-12-31 23:59Z');
my @open = map { session($node) } 1 .. 3;
unlike(ask($_, "SET lock_timeout = '60s'; BEGIN; SELECT inventory.issue('a', 'L', 1)"), qr/[A-Z]/, 'a transaction begins before midnight') for @open[ 0, 1 ];
isnt($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE relation = 'inventory.event'::regclass AND mode = 'ShareUpdateExclusiveLock'"),
	'0', 'and is making a month ahead');
ask($open[2], 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM inventory.event');
clock('2051-01-01 00:01Z');
my $run = run_clients($node, [ map { "SET lock_timeout = '60s'; SELECT inventory.issue('b', 'L', 1); SELECT inventory.reserve('b', 'L', 1);\n" } 1 .. $CLIENTS ]);
only_codes($run, 'others write in the new month while it is open');
is(ask($open[0], "SELECT inventory.issue('a', 'L', 1) > 0; COMMIT"), 't', 'it goes on in its own month and commits');
is(ask($open[1], 'ROLLBACK'), '', 'another one is rolled back');
is(ask($open[2], "SELECT inventory.issue('b', 'L', 1) > 0; COMMIT"), 't', 'one with a snapshot from before midnight writes into the new month');
is($node->safe_psql('postgres', "SELECT (SELECT count(*) FROM inventory.event_2050_12 WHERE type <> 'expire'), (SELECT count(*) FROM inventory.event_2051_01 WHERE type <> 'expire') = 2 * $CLIENTS + 1"),
	'2|t', 'each event stands in the month of its transaction');
clock('2051-01-31 12:00Z');
$node->safe_psql('postgres', "SELECT inventory.receive('a', 'L', 1)");
is(months('2051-01-01'), '0', 'and the months ahead are made by who comes later');

# When even the present month is missing, the others wait for who makes it.
for my $end ('COMMIT', 'ROLLBACK')
{
	clock($end eq 'COMMIT' ? '2052-05-01 00:01Z' : '2053-05-01 00:01Z');
	ask($open[0], "BEGIN; SELECT inventory.issue('a', 'L', 1)");
	$run = start_clients($node, [ map { "SELECT inventory.issue('b', 'L', 1);\n" } 1 .. $CLIENTS ]);
	$node->poll_query_until('postgres', "SELECT count(*) = $CLIENTS FROM pg_stat_activity WHERE application_name LIKE 'client_%' AND wait_event_type = 'Lock' AND query NOT LIKE '%advisory%'")
	  or die;
	ask($open[0], $end);
	finish_clients($run);
	only_codes($run, "others go on after the maker's $end");
}
$_->quit for @open;

# Rolled back with the transaction that made it.
clock('2060-06-01 00:00Z');
$node->psql('postgres', "BEGIN; SELECT inventory.issue('a', 'L', 1); ROLLBACK");
is($node->safe_psql('postgres', "SELECT inventory.issue('a', 'L', 1) > 0"), 't', 'a month whose making was rolled back is made again');

# The rules hold in partitions that were made along the way.
refused($node, "UPDATE inventory.event_2060_06 SET on_hand_delta = 0", 'IV016', 'a new partition refuses UPDATE');
refused($node, "DELETE FROM inventory.event_2060_06", 'IV016', 'a new partition refuses DELETE');
refused($node, "TRUNCATE inventory.event_2060_06", 'IV016', 'a new partition refuses TRUNCATE');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass WHERE d.objid = 'inventory.event_2060_06'::regclass AND d.deptype = 'e'"),
	'0', 'a new partition is no member of the extension, so that it is dumped');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = 'inventory.event_2060_06'::regclass AND a.grantee = 0"),
	'0', 'and nothing of it is granted to PUBLIC');
agrees($node, 'at the end');

$node->stop;
done_testing();
