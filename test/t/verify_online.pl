# verify(), rebuild() and archive() while everybody sells: nothing is found
# that is not there, nobody is refused or kept waiting for long, and what is
# wrong is repaired.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $CLIENTS = 12;
my @skus = map { "sku-$_" } 1 .. 8;
my $node = new_node('verify_online', conf => "inventory.tick_interval = 20\ndeadlock_timeout = 10s");
$node->safe_psql('postgres', "SELECT inventory.set_test_clock('2027-01-31 23:00:00+00')");
add_skus($node, 1_000_000, @skus);
$node->safe_psql('postgres', q{SELECT count(inventory.issue('sku-' || 1 + n % 8, 'L', 1)) FROM generate_series(1, 5000) n; });
$node->safe_psql('postgres', 'SELECT inventory.project()');
$node->safe_psql('postgres', "SELECT inventory.set_test_clock('2027-02-10 12:00:00+00')");

sub script
{
	my $sql = '';
	for my $n (1 .. 4000)
	{
		my ($a, $b) = map { one_of(@skus) } 1 .. 2;
		$sql .= one_of(
			"SELECT inventory.issue('$a', 'L', 1);\n",
			"SELECT inventory.receive('$a', 'L', 2);\n",
			"SELECT inventory.ship(r) FROM (SELECT r, inventory.confirm(r) FROM (SELECT inventory.reserve('$a', 'L', 3) r OFFSET 0) x OFFSET 0) y;\n",
			"SELECT inventory.reserve('$a', 'L', 1, ttl => NULL);\n",
			"BEGIN; SELECT inventory.issue('$a', 'L', 5); SELECT inventory.reserve('$b', 'L', 1); ROLLBACK;\n",
			"SELECT on_hand, available FROM inventory.stock_level WHERE sku = '$b';\n");
	}
	return $sql;
}

my (%found, %count, $first_wrong);
my $run = start_clients($node, [ map { script() } 1 .. $CLIENTS ]);
my $turn = 0;
finish_clients($run, meanwhile => sub {
	my $what = (qw(verify recent rebuild corrupt archive))[ $turn++ % 5 ];
	$count{$what}++;
	if ($what eq 'verify' || $what eq 'recent')
	{
		my $wrong = $node->safe_psql('postgres', 'SELECT check_name, stock_id, expected, found, detail FROM inventory.verify(' . ($what eq 'recent' ? "'recent'" : '') . ')');
		$first_wrong //= $wrong if $wrong ne '';
	}
	elsif ($what eq 'rebuild')
	{
		$found{rebuild} += $node->safe_psql('postgres', 'SELECT inventory.rebuild()');
	}
	elsif ($what eq 'corrupt')
	{
		# A row that somebody has written past the engine, between two ticks:
		# a projection that had read it before would write over it.
		my $of = 1 + number_below(8);
		$node->safe_psql('postgres', qq{
BEGIN;
SELECT inventory.lock_projection();
SET LOCAL session_replication_role = replica;
UPDATE inventory.stock SET on_hand = on_hand + 7, event_count = event_count + 1 WHERE stock_id = $of;
COMMIT});
		$found{repaired} += $node->safe_psql('postgres', "SELECT inventory.rebuild('sku-$of')");
	}
	else
	{
		my ($status, $out, $err) = $node->psql('postgres', "CALL inventory.archive('2027-02-01')");
		$count{archived}++ if $status == 0;
		note $err if $status;
		like($err, qr/cannot archive|^$/, 'archive() succeeds, or says what holds it up') if $status;
	}
});
note join ' ', map { "$_=$count{$_}" } sort keys %count;
only_codes($run, 'nobody who sells is refused');
is($first_wrong, undef, 'verify() finds nothing that is not there');
is($found{rebuild} // 0, 0, 'rebuild() repairs nothing that is not wrong');
is($found{repaired}, $count{corrupt}, 'and everything that is');
$node->safe_psql('postgres', 'SELECT inventory.project()');
$node->safe_psql('postgres', "CALL inventory.archive('2027-02-01')");
is($node->safe_psql('postgres', q{SELECT to_regclass('inventory.event_2027_01') IS NULL AND to_regclass('inventory.event_archive_2027_01') IS NOT NULL}), 't', 'January is archived');
agrees($node, 'afterwards');

$node->stop;
done_testing();
