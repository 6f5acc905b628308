# Orders of many SKUs in random line order meet no deadlock.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use Test::More;

my $CLIENTS = 64;
my $ORDERS = 60;
my $node = new_node('deadlock', conf => "deadlock_timeout = '100ms'");
my @skus = map { "sku-$_" } 1 .. 20;
add_skus($node, 3000, @skus);

sub shuffled
{
	my @all = @_;
	for my $i (reverse 1 .. $#all)
	{
		my $j = number_below($i + 1);
		@all[ $i, $j ] = @all[ $j, $i ];
	}
	return @all;
}

sub lines
{
	my ($extra, $n) = @_;
	return '[' . join(',', map {
		my $q = 1 + number_below(2);
		qq({$extra"sku":"$_","location":"L","quantity":$q})
	} (shuffled(@skus))[ 0 .. $n - 1 ]) . ']';
}

sub no_deadlock
{
	my ($name) = @_;
	is($node->safe_psql('postgres', "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"),
		'0', "$name: no deadlock");
}

# Single calls: multi-line orders that are confirmed, shipped and released, bulk
# movements, carts that are reserved again by many sessions, counts.
my @scripts;
for my $client (1 .. $CLIENTS)
{
	my $sql = '';
	for my $order (1 .. $ORDERS)
	{
		my $n = number_below(10);
		if ($n < 5)
		{
			$sql .= "SELECT inventory.reserve('" . lines('', 5) . "', request_id => 'order $client-$order') AS r \\gset\n";
			$sql .= "SELECT inventory.confirm(:r);\nSELECT inventory." . one_of('ship', 'release') . "(:r);\n" if $n < 2;
			$sql .= "SELECT inventory.release(:r);\n" if $n == 2;
		}
		elsif ($n == 5)
		{
			$sql .= "SELECT inventory.post('" . lines('"type":"' . one_of('receive', 'issue') . '",', 8) . "');\n";
		}
		elsif ($n == 6)
		{
			my @some = (shuffled(@skus))[ 0 .. 9 ];
			$sql .= "SELECT inventory.post('issue', '{" . join(',', @some) . "}', array_fill('L'::text, '{10}'), array_fill(1::bigint, '{10}'));\n";
		}
		elsif ($n == 7)
		{
			my $cart = number_below(6);
			$sql .= "SELECT inventory.reserve('" . lines('', 4) . "', owner => 'cart $cart');\n";
		}
		elsif ($n == 8)
		{
			$sql .= "SELECT inventory.release_owner('cart " . number_below(6) . "');\n";
		}
		else
		{
			my $sku = one_of(@skus);
			$sql .= "SELECT inventory.set_on_hand('$sku', 'L', h, h, 'counted') FROM inventory.on_hand('$sku', 'L') h;\n";
		}
	}
	push @scripts, $sql;
}
my $run = run_clients($node, \@scripts);
# A count that comes too late finds another on hand.
only_codes($run, 'orders in random line order fail for lack of stock or a late count, never otherwise', 'IV001', 'IV012');
no_deadlock('orders in random line order');
agrees($node, 'orders in random line order');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM inventory.request"), '>', $CLIENTS * $ORDERS / 4,
	'most orders have been reserved');
is($node->safe_psql('postgres', "SELECT count(DISTINCT type) FROM inventory.event"),
	'7', 'with receipts, issues, reservations, confirmations, shipments, releases and counts')
  or note $node->safe_psql('postgres', 'SELECT type, count(*) FROM inventory.event GROUP BY 1');

# Two calls in one transaction, in whatever order.
$node->safe_psql('postgres', "SELECT inventory.post('receive', array_agg(sku), array_agg('L'::text), array_agg(2000::bigint)) FROM inventory.sku");
@scripts = ();
for my $client (1 .. $CLIENTS)
{
	my $sql = '';
	for (1 .. 50)
	{
		my ($a, $b, $c) = shuffled(@skus);
		$sql .= "BEGIN; SELECT inventory.reserve('$a', 'L', 1, owner => 'client $client'); SELECT inventory.reserve('$b', 'L', 1);"
		  . " SELECT inventory.issue('$c', 'L', 1); " . one_of('COMMIT', 'COMMIT', 'ROLLBACK') . ";\n";
	}
	push @scripts, $sql;
}
$run = run_clients($node, \@scripts);
only_codes($run, 'transactions of several calls on random SKUs fail for lack of stock only', 'IV001', '25P02');
no_deadlock('transactions of several calls');
agrees($node, 'transactions of several calls');
cmp_ok($node->safe_psql('postgres', "SELECT sum(-on_hand_delta) FROM inventory.event WHERE type = 'issue'"),
	'>', $CLIENTS * 20, 'most of these transactions have done their work');

$node->stop;
done_testing();
