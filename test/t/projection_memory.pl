# A process that projects for ever stays as large as it is: 100,000 ticks, with
# movements and holds in between, and its memory before and after.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use Test::More;

my $TICKS = 100_000;
my $WARM = 5_000;

my $node = new_node('projection_memory', conf => "inventory.workers = off\nsynchronous_commit = off\ninventory.snapshot_events = 100");
add_skus($node, 1_000_000, 'a', 'b');
my $session = session($node);

# Kilobytes of the session's process that are its own.
sub memory
{
	my $pid = ask($session, 'SELECT pg_backend_pid()');
	open(my $status, '<', "/proc/$pid/status") or die $!;
	my ($kilobytes) = map { /^RssAnon:\s+(\d+) kB/ ? $1 : () } <$status>;
	return $kilobytes;
}

sub ticks
{
	my ($count) = @_;
	return ask($session, qq{DO \$\$ BEGIN
	FOR i IN 1 .. $count LOOP
		PERFORM inventory.issue(CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END, 'L', 1, reference => repeat('x', i % 100), metadata => '{"n": 1}');
		COMMIT;
		PERFORM inventory.project();
		COMMIT;
	END LOOP;
END \$\$});
}

is(ticks($WARM), '', "$WARM ticks to begin with");
my $before = memory();
is(ticks($TICKS - $WARM), '', 'and the rest');
my $after = memory();
is($node->safe_psql('postgres', 'SELECT max(tick_id) >= ' . $TICKS . ' FROM inventory.tick'), 't', "these were $TICKS ticks");
cmp_ok($after - $before, '<', 1024, "the process has not grown by a megabyte: $before kB before, $after kB after");
is($node->safe_psql('postgres', "SELECT sum(on_hand) = 2 * 1000000 - $TICKS FROM inventory.stock"), 't', 'the stock rows have every event');
agrees($node, 'after all ticks');

$session->quit;
$node->stop;
done_testing();
