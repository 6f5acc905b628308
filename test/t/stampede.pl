# Levels are loaded once however many sessions want them, and dropped and loaded
# again when there is no room, without a unit lost.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use Test::More;
use PostgreSQL::Test::Utils;

my $CLIENTS = 64;
my $EVENTS = 20_000;
my $node = new_node('stampede', conf => 'inventory.max_levels = 64');
add_skus($node, 100, 'hot');
my $hot = $node->safe_psql('postgres', "SELECT stock_id FROM inventory.stock_level WHERE sku = 'hot'");
$node->safe_psql('postgres', "INSERT INTO inventory.event (stock_id, type, on_hand_delta) SELECT $hot, 'receive', 1 FROM generate_series(1, $EVENTS)");
my $expected = 100 + $EVENTS;

sub loads
{
	return $node->safe_psql('postgres', 'SELECT loads FROM inventory.stat_level');
}

# All clients want the level while its loader is held up by a lock on
# the ticks.  Calls $during with the pid of the loader, then lets it go.
sub stampede
{
	my ($name, $call, $during) = @_;
	my $lock = session($node);
	my $loads = loads();
	ask($lock, 'BEGIN; LOCK TABLE inventory.tick IN ACCESS EXCLUSIVE MODE');
	my $run = start_clients($node, [ map { "$call;\n" } 1 .. $CLIENTS ]);
	ok( $node->poll_query_until('postgres', qq{
SELECT count(*) = $CLIENTS AND count(*) FILTER (WHERE wait_event_type = 'Lock') >= 1
FROM pg_stat_activity WHERE application_name LIKE 'client_%' AND wait_event_type IN ('Lock', 'IPC', 'Extension')
	AND query NOT LIKE '%advisory%'}),
		"$name: all sessions want the level, somebody has begun to load it");
	$during->() if $during;
	ask($lock, 'COMMIT');
	$lock->quit;
	finish_clients($run);
	$run->{loads} = loads() - $loads;
	return $run;
}

sub answers
{
	my ($run) = @_;
	return join ' ', sort map { /(\S+)\s*$/ ? $1 : () } @{ $run->{out} };
}

$node->restart;
is(loads(), '0', 'after a restart nothing is loaded');
my $run = stampede('after a restart', "SELECT inventory.available('hot', 'L')");
is($run->{loads}, 1, "after a restart $CLIENTS readers cost one load");
is(answers($run), join(' ', ($expected) x $CLIENTS), 'and all get the right answer');
agrees($node, 'after a restart');

$node->restart;
$node->safe_psql('postgres', 'SELECT inventory.stat_reset()');
$run = stampede('after a restart, taking', "SELECT inventory.try_reserve('hot', 'L', 1, ttl => NULL) IS NOT NULL");
is($run->{loads}, 1, "after a restart $CLIENTS takers cost one load");
is(answers($run), join(' ', ('t') x $CLIENTS), 'and all get their unit');
$expected -= $CLIENTS;
cmp_ok($node->safe_psql('postgres', 'SELECT waits FROM inventory.stat_level'), '>=', $CLIENTS / 2,
	'most of them have waited for the load');
agrees($node, 'after a restart, taking');

for my $end ('cancel', 'terminate')
{
	$node->restart;
	$run = stampede("loader ${end}d", "SELECT inventory.available('hot', 'L')",
		sub {
			is( $node->safe_psql('postgres', qq{
SELECT count(pg_${end}_backend(pid)) FROM (SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE l.relation = 'inventory.tick'::regclass AND NOT l.granted AND application_name LIKE 'client_%' LIMIT 1) x}),
				'1', "the loader is ${end}d");
		});
	is(count_of($run, $end eq 'cancel' ? '57014' : '57P01'), 1, "the loader's end (${end}d) is its own only");
	is(answers($run), join(' ', ($expected) x ($CLIENTS - 1)), 'another session has loaded the level, the rest get the right answer');
	cmp_ok($run->{loads}, '<=', 2, 'and that took one more load at most');
	agrees($node, "loader ${end}d");
}

# Far more stock items than there is room for.
my @many = map { "many-$_" } 1 .. 1000;
add_skus($node, 0, @many);
$node->safe_psql('postgres', "DO \$\$ BEGIN FOR n IN 1..1000 LOOP PERFORM inventory.receive('many-' || n, 'L', 3); COMMIT; END LOOP; END \$\$");
my $before = $node->safe_psql('postgres', 'SELECT loads, evictions FROM inventory.stat_level');
my @scripts;
for my $client (1 .. 16)
{
	my $sql = '';
	for (1 .. 200)
	{
		my @line = map { { sku => one_of(@many, 'hot'), n => 1 + number_below(2) } } 1 .. 3;
		my $n = number_below(10);
		if ($n < 5)
		{
			$sql .= "SELECT inventory.try_reserve('[" . join(',', map { qq({"sku":"$_->{sku}","location":"L","quantity":$_->{n}}) } @line)
			  . "]', ttl => " . one_of('NULL', "'1 hour'") . ");\n";
		}
		elsif ($n < 7)
		{
			$sql .= "BEGIN; SELECT inventory.issue('$line[0]{sku}', 'L', 1); SELECT inventory.receive('$line[1]{sku}', 'L', 1); "
			  . one_of('COMMIT', 'ROLLBACK') . ";\n";
		}
		elsif ($n < 9)
		{
			$sql .= "SELECT inventory.available('$line[0]{sku}', 'L');\n";
		}
		else
		{
			$sql .= "SELECT inventory.receive('$line[0]{sku}', 'L', 1);\n";
		}
	}
	push @scripts, $sql;
}
$run = run_clients($node, \@scripts);
only_codes($run, 'with room for 64 of 1001 stock items only lack of stock is an error', 'IV001', '25P02');
my ($loads, $evictions) = split /\|/, $node->safe_psql('postgres', 'SELECT loads, evictions FROM inventory.stat_level');
my ($loads_before, $evictions_before) = split /\|/, $before;
cmp_ok($loads - $loads_before, '>', 1000, 'levels are loaded again and again');
cmp_ok($evictions - $evictions_before, '>', 1000, 'because they are evicted');
is($node->safe_psql('postgres', 'SELECT entries <= capacity AND capacity = 64 FROM inventory.stat_level'),
	't', 'the table of levels has not grown');
agrees($node, 'with room for 64 of 1001 stock items');

# The hot one has been evicted by now: one load again.
$node->safe_psql('postgres', "SELECT count(inventory.available('many-' || n, 'L')) FROM generate_series(1, 500) n");
is($node->safe_psql('postgres', "SELECT count(*) FROM inventory.levels() WHERE stock_id = $hot"), '0', 'the hot level is evicted');
$expected = $node->safe_psql('postgres', "SELECT available FROM inventory.stock_level WHERE sku = 'hot'");
$run = stampede('after an eviction', "SELECT inventory.available('hot', 'L')");
is($run->{loads}, 1, "after an eviction $CLIENTS sessions cost one load");
is(answers($run), join(' ', ($expected) x $CLIENTS), 'and all get the right answer');

# Everything pinned.
my $pinning = session($node);
ask($pinning, "BEGIN; SELECT inventory.receive('many-' || n, 'L', 1) FROM generate_series(1, 64) n");
my ($status, $out, $err) = $node->psql('postgres', "SELECT inventory.receive('many-65', 'L', 1)",
	extra_params => [ '-v', 'VERBOSITY=verbose' ]);
like($err, qr/ERROR:\s+IV018/, 'when all levels are pinned a movement is refused with IV018');
like($err, qr/HINT:.*inventory\.max_levels/, 'with a hint that names the setting');
is(ask($pinning, "SELECT inventory.receive('many-1', 'L', 1) > 0"), 't', 'who has a level pinned goes on');
is(ask($pinning, "SELECT inventory.receive('many-66', 'L', 1)"), 'IV018', 'but gets no further one either');
ask($pinning, 'ROLLBACK');
is(ask($pinning, "SELECT inventory.receive('many-65', 'L', 1) > 0"), 't', 'when they are free again the movement is done');
$pinning->quit;
agrees($node, 'after a table full of pins');

$node->stop;
done_testing();
