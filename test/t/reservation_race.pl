# Confirm, ship, release, extend and expiry race on one reservation, while
# somebody else waits for the same goods.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use Test::More;

my $ROUNDS = 120;
my $UNITS = 5;
my $node = new_node('reservation_race');
add_skus($node, $UNITS, map { "race-$_" } 1 .. $ROUNDS);
$node->safe_psql('postgres', 'CREATE TABLE race (round integer PRIMARY KEY, id bigint)');

# What the sessions do in a round; %n is the round, id is the reservation.  The
# competitor wants all the goods that the reservation has.
my @players = (
	('confirm') x 3, ('ship') x 2, ('release') x 2, 'confirm and ship', 'extend', 'expire', 'clock', 'competitor', 'competitor', 'reader');
my %call = (
	confirm => 'SELECT inventory.confirm(id) FROM race WHERE round = %n',
	ship => 'SELECT inventory.ship(id) FROM race WHERE round = %n',
	release => 'SELECT inventory.release(id) FROM race WHERE round = %n',
	'confirm and ship' => 'BEGIN; SELECT inventory.confirm(id) FROM race WHERE round = %n; SELECT inventory.ship(id) FROM race WHERE round = %n; COMMIT',
	extend => "SELECT inventory.extend(id, '40 minutes') FROM race WHERE round = %n",
	expire => 'SELECT inventory.expire_due()',
	# To the deadline exactly: the first moment at which the hold does not count.
	clock => "SELECT inventory.set_test_clock(timestamptz '2030-01-01 00:00Z' + interval '1 hour' * %n + interval '10 minutes')",
	competitor => "SELECT inventory.try_reserve('race-%n', 'L', $UNITS, ttl => NULL, owner => 'competitor')",
	reader => "SELECT inventory.available('race-%n', 'L') IN (0, $UNITS) AND inventory.on_hand('race-%n', 'L') IN (0, $UNITS)",
);

# A gate per round: the driver holds them all and opens one after the other.
# The order in which the sessions line up is the order in which they are let go,
# so each has its own order of arrival.
my $GATES = 100000;
my $driver = session($node);
ask($driver, "SELECT pg_advisory_lock($GATES + n) FROM generate_series(1, $ROUNDS) n");
my @scripts;
my %line;
for my $player (0 .. $#players)
{
	# start_clients() puts one line in front.
	my ($sql, $line) = ('', 2);
	for my $n (1 .. $ROUNDS)
	{
		my $call = $call{ $players[$player] } =~ s/%n/$n/gr;
		$sql .= "SELECT FROM pg_advisory_lock_shared($GATES + $n); SELECT FROM pg_advisory_unlock_shared($GATES + $n);\n";
		$sql .= "\\echo round $n\n";
		# With the clock among the racers, not always in its place.
		$sql .= "SELECT FROM generate_series(1, ${\ (number_below(4) * 500) });\n$call;\n";
		$line{"$player:" . ($line + 3)} = $n;
		$line += 4;
	}
	push @scripts, $sql;
}
my $run = start_clients($node, \@scripts);
for my $n (1 .. $ROUNDS)
{
	ask($driver, "SELECT inventory.set_test_clock(timestamptz '2030-01-01 00:00Z' + interval '1 hour' * $n)");
	ask($driver, "INSERT INTO race SELECT $n, inventory.reserve('race-$n', 'L', $UNITS, ttl => '10 minutes')");
	$node->poll_query_until('postgres',
		"SELECT count(*) = ${\ scalar @players } FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND objid = $GATES + $n AND NOT granted")
	  or die "round $n does not begin";
	ask($driver, "SELECT pg_advisory_unlock($GATES + $n)");
}
finish_clients($run);
$driver->quit;
only_codes($run, 'whoever loses meets a wrong state, a passed deadline, or nothing', qw(IV008 IV009 25P02));
agrees($node, 'after all the races');

# What each session was told, by round.
my %told;
for my $player (0 .. $#players)
{
	my $n = 0;
	for my $out (split /\n/, $run->{out}[$player])
	{
		if ($out =~ /^round (\d+)/) { $n = $1; next; }
		$told{$n}{ $players[$player] }++ if $out =~ /\S/ && $out ne 'f';
		$told{$n}{wrong}++ if $players[$player] eq 'reader' && $out ne 't';
	}
	while ($run->{err}[$player] =~ /:(\d+): ERROR:\s+(\w+)/g)
	{
		# Confirm and ship are one transaction: what was told is taken back.
		delete $told{ $line{"$player:$1"} // 0 }{'confirm and ship'} if $players[$player] eq 'confirm and ship';
	}
}
my (@illegal, %outcome);
for my $row (split /\n/, $node->safe_psql('postgres', qq{
SELECT round, r.state, r.shipped, r.released, r.expires_at IS NOT NULL,
	(SELECT count(*) FROM inventory.reservation c WHERE c.stock_id = r.stock_id AND c.owner = 'competitor' AND c.state = 'held'),
	v.on_hand, v.available, r.expires_at > timestamptz '2030-01-01 00:00Z' + interval '1 hour' * round + interval '10 minutes'
FROM race JOIN inventory.reservation r ON reservation_id = id JOIN inventory.stock_level v ON v.stock_id = r.stock_id ORDER BY round}))
{
	my ($n, $state, $shipped, $released, $deadline, $competitors, $on_hand, $available, $later) = split /\|/, $row;
	my $told = $told{$n};
	my ($confirmed, $sent, $given_back, $both) = map { $told->{$_} // 0 } 'confirm', 'ship', 'release', 'confirm and ship';
	my $in_order = $confirmed + ($both > 0 ? 1 : 0);
	my $legal = 0;

	# Exactly one of confirm, release and expiry wins the hold; after a
	# confirmation exactly one of ship and release wins the order.
	$legal = $in_order == 1 && $sent + ($both > 1 ? 1 : 0) == 1 && !$given_back && $shipped == $UNITS && !$competitors && $on_hand == 0
	  if $state eq 'closed';
	$legal = $in_order == 1 && !$sent && !$given_back && !$competitors if $state eq 'committed';
	$legal = $given_back == 1 && !$sent && $in_order <= 1 && $released == $UNITS && $competitors <= 1 if $state eq 'released';
	$legal = !$in_order && !$sent && !$given_back && $competitors <= 1 if $state eq 'expired';
	# Not expired by anybody yet, or extended.
	$legal = !$in_order && !$sent && !$given_back && ($later eq 't' ? !$competitors : 1) && $competitors <= 1 && $deadline eq 't' if $state eq 'held';
	$legal = 0 if $told->{wrong} || $available < 0 || $competitors > 1;
	push @illegal, "$row confirmed $confirmed shipped $sent released $given_back both $both" unless $legal;
	$outcome{$state}++;
}
note join ' ', map { "$_: $outcome{$_}" } sort keys %outcome;
is(join("\n", @illegal), '', 'in every round exactly one wins');
my $decided = 0;
$decided += $_ for values %outcome;
is($decided, $ROUNDS, 'every round has an outcome');
cmp_ok(scalar(grep { ($_ // 0) > 0 } @outcome{qw(closed committed released expired held)}), '>=', 3,
	'different sessions win in different rounds');

# Many sessions act for one owner: the last one replaces what the others hold.
add_skus($node, 1000, 'cart-a', 'cart-b');
for my $level ('read committed', 'repeatable read', 'serializable')
{
	$run = run_clients($node, [ map {
		my $q = $_;
		"SET default_transaction_isolation = '$level';\n" . join('', map {
			one_of("SELECT inventory.reserve('cart-a', 'L', $q, owner => 'cart $level')",
				"SELECT inventory.reserve('[{\"sku\":\"cart-b\",\"location\":\"L\",\"quantity\":$q},{\"sku\":\"cart-a\",\"location\":\"L\",\"quantity\":$q}]'::jsonb, owner => 'cart $level')",
				"SELECT inventory.release_owner('cart $level')") . ";\n"
		} 1 .. 20) . "SELECT inventory.reserve('[{\"sku\":\"cart-a\",\"location\":\"L\",\"quantity\":$q},{\"sku\":\"cart-b\",\"location\":\"L\",\"quantity\":$q}]'::jsonb, owner => 'cart $level');\n"
	} 1 .. 16 ]);
	only_codes($run, "$level: sessions that act for one owner meet at most a conflict", $level eq 'read committed' ? () : '40001');
	my $held = $node->safe_psql('postgres', "SELECT sku, count(*), sum(remaining) BETWEEN 1 AND 16 FROM inventory.open_reservation WHERE owner = 'cart $level' GROUP BY sku ORDER BY sku");
	if ($level eq 'read committed')
	{
		is($held, "cart-a|1|t\ncart-b|1|t", "$level: in the end one hold of each SKU stands");
	}
	else
	{
		# Who ends last may meet a conflict instead of reserving.
		unlike($held, qr/\|(?:[02-9]|\d\d)\|/, "$level: no SKU is held twice");
	}
	agrees($node, "many sessions for one owner, $level");
}

# The deadline passes while a confirmation, a release or an extension is not
# committed yet: nobody gets the goods until it is clear whose they are.
my $t = 0;
for my $case (
	[ confirm => 'COMMIT', '0' ], [ confirm => 'ROLLBACK', '1' ],
	[ extend => 'COMMIT', '0' ], [ extend => 'ROLLBACK', '1' ],
	[ release => 'COMMIT', '1' ], [ release => 'ROLLBACK', '1' ])
{
	my ($call, $end, $won) = @$case;
	my $sku = "late-" . ++$t;
	my $name = "the deadline passes before the $end of $call";
	add_skus($node, $UNITS, $sku);
	$node->safe_psql('postgres', "SELECT inventory.set_test_clock(timestamptz '2031-01-01 00:00Z' + interval '1 hour' * $t)");
	my $id = $node->safe_psql('postgres', "SELECT inventory.reserve('$sku', 'L', $UNITS, ttl => '10 minutes')");
	my $first = session($node);
	unlike(ask($first, "BEGIN; SELECT inventory.$call($id" . ($call eq 'extend' ? ", '30 minutes'" : '') . ')'), qr/^IV/, "$name: it is done in time");
	$node->safe_psql('postgres', "SELECT inventory.set_test_clock(timestamptz '2031-01-01 00:10Z' + interval '1 hour' * $t)");
	my $taker = start_clients($node, ["SELECT inventory.try_reserve('$sku', 'L', $UNITS, ttl => NULL, owner => 'taker');\n"]);
	# The taker waits for the first one, or has its answer already.
	$node->poll_query_until('postgres', q{
SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'client_0' AND wait_event_type IS DISTINCT FROM 'Lock')})
	  or die;
	ask($first, $end);
	$first->quit;
	finish_clients($taker);
	my $held = $node->safe_psql('postgres',
		"SELECT count(*) FROM inventory.open_reservation WHERE sku = '$sku' AND owner = 'taker'");
	cmp_ok($held, '<=', $won, "$name: the taker gets no more than is his");
	$node->safe_psql('postgres', "SELECT inventory.try_reserve('$sku', 'L', $UNITS, ttl => NULL, owner => 'taker')") if !$held;
	is( $node->safe_psql('postgres', "SELECT count(*) FROM inventory.open_reservation WHERE sku = '$sku' AND owner = 'taker'"),
		$won, "$name: and afterwards the goods are " . ($won ? 'free' : 'not free'));
	agrees($node, $name);
}

$node->safe_psql('postgres', 'SELECT inventory.set_test_clock(NULL)');
$node->stop;
done_testing();
