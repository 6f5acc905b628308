# 64 sessions on the last units, through every entry, at every isolation level,
# with everything that can interrupt a transaction.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $UNITS = 60;
my $CLIENTS = 64;
my @ENTRIES = qw(reserve try_reserve lines issue transfer post_json post_array insert copy);
my %LEVELS = (rc => 'read committed', rr => 'repeatable read', ser => 'serializable');

my $node = new_node('oversell');
$node->safe_psql('postgres',
	"INSERT INTO inventory.location (location) VALUES ('L'), ('AWAY')");
my $copy_dir = PostgreSQL::Test::Utils::tempdir();

# The statement that takes $n units of $sku through an entry; no semicolon.
my %stock_id;

sub take
{
	my ($entry, $sku, $n) = @_;
	return "SELECT inventory.reserve('$sku', 'L', $n, ttl => NULL)" if $entry eq 'reserve';
	return "SELECT inventory.try_reserve('$sku', 'L', $n, ttl => NULL)" if $entry eq 'try_reserve';
	return "SELECT inventory.issue('$sku', 'L', $n)" if $entry eq 'issue';
	return "SELECT inventory.transfer('$sku', 'L', 'AWAY', $n)" if $entry eq 'transfer';
	return "SELECT inventory.post('issue', ARRAY['$sku', '$sku'], ARRAY['L', 'L'], ARRAY[$n, 1])"
	  if $entry eq 'post_array';
	return qq{SELECT inventory.reserve('[{"sku":"$sku","location":"L","quantity":$n},{"sku":"$sku","location":"L","quantity":1}]', ttl => NULL)}
	  if $entry eq 'lines';
	return qq{SELECT inventory.post('[{"type":"issue","sku":"$sku","location":"L","quantity":$n}]')}
	  if $entry eq 'post_json';
	return "INSERT INTO inventory.event (stock_id, type, on_hand_delta) VALUES ($stock_id{$sku}, 'issue', -$n)"
	  if $entry eq 'insert';
	return "COPY inventory.event (stock_id, type, on_hand_delta) FROM '$copy_dir/$stock_id{$sku}.$n'"
	  if $entry eq 'copy';
	die $entry;
}

# One transaction, or a few: a take with one of the things that happen to takes.
sub attempt
{
	my ($entry, $sku) = @_;
	my $take = sub { return take($entry, $sku, 1 + number_below(2)) };
	my $quoted = sub { my $t = $take->(); return 'EXECUTE ' . "\$q\$$t\$q\$" };
	my $end = one_of('COMMIT', 'COMMIT', 'ROLLBACK');
	my $n = number_below(100);

	return $take->() . ";\n" if $n < 34;
	return "BEGIN; ${\ $take->() }; $end;\n" if $n < 48;
	return "BEGIN; SAVEPOINT a; ${\ $take->() }; ROLLBACK TO a; ${\ $take->() }; $end;\n"
	  if $n < 58;
	return "BEGIN; ${\ $take->() }; SAVEPOINT a; ${\ $take->() }; RELEASE a; SAVEPOINT b; ${\ $take->() }; SAVEPOINT c; ${\ $take->() }; ROLLBACK TO b; $end;\n"
	  if $n < 66;
	return "DO \$\$ BEGIN ${\ $quoted->() }; BEGIN ${\ $quoted->() }; ${\ $quoted->() }; RAISE 'undo'; EXCEPTION WHEN OTHERS THEN NULL; END; END \$\$;\n"
	  if $n < 76;
	# An own credit that is never committed must not be sold to anybody else.
	return "BEGIN; SELECT inventory.receive('$sku', 'L', 3); ${\ $take->() }; ROLLBACK;\n"
	  if $n < 84;
	# Never ends by itself.
	return "SET statement_timeout = '10ms'; DO \$\$ BEGIN ${\ $quoted->() }; LOOP END LOOP; END \$\$; RESET statement_timeout;\n"
	  if $n < 92;
	return "BEGIN; SAVEPOINT a; ${\ $take->() }; SELECT pg_advisory_xact_lock_shared($InventoryTest::TRAP); ROLLBACK TO a; ${\ $take->() }; $end;\n"
	  if $n < 96;
	return "BEGIN; ${\ $take->() }; SELECT pg_advisory_xact_lock_shared($InventoryTest::TRAP); $end;\n";
}

my $trap = session($node);
ask($trap, "SELECT pg_advisory_lock($InventoryTest::TRAP)");

for my $level (sort keys %LEVELS)
{
	# One SKU per entry, and one that all entries fight for.
	my @skus = map { "$_-$level" } @ENTRIES, 'all';
	add_skus($node, $UNITS, @skus);
	for my $row (split /\n/, $node->safe_psql('postgres',
			"SELECT sku, stock_id FROM inventory.stock_level WHERE location = 'L'"))
	{
		my ($sku, $id) = split /\|/, $row;
		$stock_id{$sku} = $id;
		for my $n (1 .. 2)
		{
			open my $f, '>', "$copy_dir/$id.$n" or die $!;
			print $f "$id\tissue\t-$n\n";
			close $f;
		}
	}

	my @scripts;
	for my $client (1 .. $CLIENTS)
	{
		my @chunks;
		for my $chunk (1 .. 3)
		{
			my $sql = "SET default_transaction_isolation = '$LEVELS{$level}';\n";
			for (1 .. 18)
			{
				my $entry = one_of(@ENTRIES);
				$sql .= attempt($entry,
					number_below(3) ? "$entry-$level" : "all-$level");
			}
			push @chunks, $sql;
		}
		push @scripts, \@chunks;
	}

	# The chaos: whoever sits in the trap is cancelled or terminated, and now
	# and then somebody else at whatever it is doing.
	my ($cancelled, $terminated) = (0, 0);
	my $meanwhile = sub {
		my $done = ask($trap, qq{
WITH victim AS (
	SELECT pid, random() < 0.75 AS spare FROM pg_locks
	WHERE locktype = 'advisory' AND objsubid = 1 AND objid = $InventoryTest::TRAP AND NOT granted
	UNION ALL
	(SELECT pid, random() < 0.85 FROM pg_stat_activity
	WHERE application_name LIKE 'client_%' AND state <> 'idle' AND random() < 0.1 ORDER BY random() LIMIT 1))
SELECT count(*) FILTER (WHERE spare AND pg_cancel_backend(pid)),
	count(*) FILTER (WHERE NOT spare AND pg_terminate_backend(pid)) FROM victim});
		my ($c, $t) = split /\|/, $done;
		$cancelled += $c;
		$terminated += $t;
	};
	my $run = run_clients($node, \@scripts, meanwhile => $meanwhile);
	note "cancelled $cancelled, terminated $terminated";

	only_codes($run, "$LEVELS{$level}: nobody meets another error than a refusal, a conflict or an interruption",
		qw(IV001 25P02 3B001 57014 57P01), $level eq 'rc' ? () : ('40001'));
	cmp_ok(count_of($run, 'IV001'), '>=', 200, "$LEVELS{$level}: many are refused for lack of stock");
	cmp_ok(count_of($run, '57014'), '>=', 50, "$LEVELS{$level}: many are cancelled or run into a timeout");
	cmp_ok(count_of($run, '57P01'), '>=', 5, "$LEVELS{$level}: some are terminated");
	agrees($node, "$LEVELS{$level}, after the storm");
	my @skus_in_demand = grep { $_ !~ /^all/ } @skus;
	is( $node->safe_psql('postgres', qq{
SELECT count(*) FROM inventory.stock_level
WHERE location = 'L' AND sku LIKE '%-$level' AND (available < 0 OR available > $UNITS / 2)}),
		'0', "$LEVELS{$level}: no SKU is oversold, each has lost more than half of its units in the storm");

	# What aborts have given back can be sold: to the last unit, no further.
	# (Those that take two at a time leave the last odd unit to issue.)
	my @drain = map {
		(take($_, "$_-$level", 1) . ";\n") x $UNITS
		  . take('issue', "$_-$level", 1) . ";\n"
		  . (take(one_of(qw(reserve issue insert)), "all-$level", 1) . ";\n") x $UNITS
	} @ENTRIES, @ENTRIES;
	$run = run_clients($node, \@drain);
	only_codes($run, "$LEVELS{$level}: when all is calm the only error is IV001", 'IV001');
	agrees($node, "$LEVELS{$level}, sold out");
	is( $node->safe_psql('postgres', qq{
SELECT sku, on_hand - reserved - committed, available FROM inventory.stock_level
WHERE location = 'L' AND sku LIKE '%-$level' AND (available <> 0 OR on_hand - reserved <> 0)}),
		'', "$LEVELS{$level}: every SKU is sold out to the last unit");
	is( $node->safe_psql('postgres', qq{
SELECT s.sku, sum(v.on_hand_delta) FILTER (WHERE v.on_hand_delta > 0),
	sum(-v.on_hand_delta) FILTER (WHERE v.on_hand_delta < 0) + sum(v.reserved_delta)
FROM inventory.event v JOIN inventory.stock k USING (stock_id) JOIN inventory.sku s USING (sku_id)
JOIN inventory.location l USING (location_id)
WHERE l.location = 'L' AND s.sku LIKE '%-$level' GROUP BY s.sku
HAVING sum(v.on_hand_delta) FILTER (WHERE v.on_hand_delta > 0) <> $UNITS
	OR coalesce(sum(-v.on_hand_delta) FILTER (WHERE v.on_hand_delta < 0), 0) + sum(v.reserved_delta) <> $UNITS}),
		'', "$LEVELS{$level}: $UNITS units came in and $UNITS were sold, of every SKU");
	is( $node->safe_psql('postgres',
			"SELECT inventory.on_hand('transfer-$level', 'AWAY') > 0 AND inventory.on_hand('transfer-$level') = ${\ ($UNITS)} - (SELECT coalesce(sum(-on_hand_delta), 0) FROM inventory.event WHERE stock_id = $stock_id{\"transfer-$level\"} AND type = 'issue')"),
		't', "$LEVELS{$level}: what was transferred has arrived");
}

is($node->safe_psql('postgres', "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"),
	'0', 'there was no deadlock');
$trap->quit;
$node->stop;
done_testing();
