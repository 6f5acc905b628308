# An event is taken back once, whoever tries and in whatever order the
# transactions have begun.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use Test::More;

my $CLIENTS = 32;
my $EVENTS = 25;
my $node = new_node('reverse_once');
add_skus($node, 1000, 'a', 'b');
$node->safe_psql('postgres', "INSERT INTO inventory.location (location) VALUES ('M')");

# A transaction that is older than the event reverses it.
for my $end ('COMMIT', 'ROLLBACK')
{
	my $older = session($node);
	ask($older, "BEGIN; SELECT inventory.receive('b', 'L', 1)");
	my $event = $node->safe_psql('postgres', "SELECT inventory.receive('a', 'L', 4)");
	like(ask($older, "SELECT inventory.reverse($event, 'mistake')"), qr/^\d+$/, 'a transaction reverses an event that is younger than itself');
	ask($older, $end);
	if ($end eq 'COMMIT')
	{
		refused($node, "SELECT inventory.reverse($event, 'mistake')", 'IV014', 'after its COMMIT the event cannot be reversed again');
		is(ask($older, "SELECT inventory.reverse($event, 'mistake')"), 'IV014', 'not by itself either');
	}
	else
	{
		like($node->safe_psql('postgres', "SELECT inventory.reverse($event, 'mistake')"), qr/^\d+$/, 'after its ROLLBACK the event can be reversed');
	}
	$older->quit;
	is($node->safe_psql('postgres', "SELECT count(*) FROM inventory.event WHERE reverses = $event"), '1', "there is one reversal after the $end");
}

# A transaction whose snapshot cannot see that somebody else has reversed it.
for my $level ('repeatable read', 'serializable')
{
	my $event = $node->safe_psql('postgres', "SELECT inventory.receive('a', 'L', 4)");
	my $blind = session($node);
	ask($blind, "BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM inventory.event");
	$node->safe_psql('postgres', "SELECT inventory.reverse($event, 'mistake')");
	like(ask($blind, "SELECT inventory.reverse($event, 'mistake')"), qr/^(?:IV014|40001)$/, "$level: a reversal that the snapshot cannot see counts all the same");
	ask($blind, 'COMMIT');
	$blind->quit;
	is($node->safe_psql('postgres', "SELECT count(*) FROM inventory.event WHERE reverses = $event"), '1', "$level: there is one reversal");
}

# Many sessions at once, each in its own order, some of them in transactions
# that have begun before the events were written.
for my $level ('read committed', 'repeatable read', 'serializable')
{
	my @events = split /\n/, $node->safe_psql('postgres', qq{
SELECT CASE n % 3 WHEN 0 THEN inventory.receive('a', 'L', 1) WHEN 1 THEN inventory.issue('b', 'L', 1) ELSE inventory.transfer('a', 'L', 'M', 1) END FROM generate_series(1, $EVENTS) n});
	my $run = run_clients($node, [ map {
		"SET default_transaction_isolation = '$level';\n"
		  . join('', map { number_below(4)
			? "SELECT inventory.reverse($_, 'mistake');\n"
			: "BEGIN; SELECT inventory.reverse($_, 'mistake'); ROLLBACK;\n" } sort { rand() <=> 0.5 } @events)
	} 1 .. $CLIENTS ]);
	only_codes($run, "$level: who comes too late is told that the event has been reversed", 'IV014', $level eq 'read committed' ? () : '40001');
	cmp_ok(count_of($run, 'IV014'), '>', $CLIENTS, "$level: many come too late");
	is( $node->safe_psql('postgres', "SELECT reverses, count(*) FROM inventory.event WHERE reverses IS NOT NULL GROUP BY reverses HAVING count(*) > 1"),
		'', "$level: no event is reversed twice");
	# What only met conflicts is still to be reversed.
	$node->safe_psql('postgres', "SELECT inventory.reverse(e, 'mistake') FROM unnest('{" . join(',', @events) . "}'::bigint[]) e WHERE NOT EXISTS (SELECT FROM inventory.event WHERE reverses = e)");
	is( $node->safe_psql('postgres', "SELECT count(*) FROM unnest('{" . join(',', @events) . "}'::bigint[]) e WHERE NOT EXISTS (SELECT FROM inventory.event WHERE reverses = e)"),
		'0', "$level: every event is reversed in the end");
	agrees($node, "$level, all reversed");
}
is($node->safe_psql('postgres', "SELECT inventory.on_hand('a', 'L'), inventory.on_hand('b', 'L'), inventory.on_hand('a', 'M')"), '1000|1001|0',
	'everything is where it was');
is($node->safe_psql('postgres', "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"), '0', 'there was no deadlock');

$node->stop;
done_testing();
