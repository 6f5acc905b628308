# kill -9 at each phase of a tick and of an expiry batch, under load: after the
# restart what was committed is there once, what was not is not there, and the
# projection goes on. A standby reads the same stock while the primary projects,
# and projects after its promotion.
#
# The phases are held by locks that the test takes.  Workers are off, so that it is
# the test that projects and expires.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $CLIENTS = 6;
my $HELD = 4713;
my $settings = <<'CONF';
inventory.workers = off
inventory.snapshot_events = 10
inventory.tick_events = 100
restart_after_crash = on
max_wal_size = '1GB'
CONF
my $node = new_node('primary', streaming => 1, conf => $settings);
my @skus = map { "sku-$_" } 1 .. 8;
add_skus($node, 100_000, @skus);

# Where the test can stop a session of its own that has written everything.
$node->safe_psql('postgres', qq{
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF current_setting(''test.held'', true) = ''on'' THEN PERFORM pg_advisory_xact_lock_shared($HELD); END IF; RETURN NULL; END';
CREATE CONSTRAINT TRIGGER held AFTER UPDATE ON inventory.stock DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION held();
CREATE CONSTRAINT TRIGGER held AFTER UPDATE ON inventory.reservation DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.state = 'expired') EXECUTE FUNCTION held();
});

my $run_number = 0;

# Short holds, most of which expire; orders; and transactions that roll back.
sub script
{
	my $sql = '';
	for my $n (1 .. 3000)
	{
		my ($a, $b) = (one_of(@skus), one_of('sku-1', @skus));
		my $id = "$run_number/" . number_below(1 << 40);
		my $call = one_of(
			"inventory.reserve('$a', 'L', 2, ttl => '30 milliseconds', request_id => '$id')",
			"inventory.reserve('$a', 'L', 2, ttl => '30 milliseconds', request_id => '$id')",
			"inventory.confirm(inventory.reserve('$b', 'L', 1), request_id => '$id')",
			"inventory.post('receive', ARRAY['$b', '$a'], ARRAY['L', 'L'], ARRAY[1, 2]::bigint[], request_id => '$id')",
			"inventory.issue('$b', 'L', 1, request_id => '$id')");
		$sql .= "SELECT 'acknowledged', '$id', $call;\n";
		$sql .= "BEGIN; SELECT inventory.receive('$a', 'L', 1); SAVEPOINT a; SELECT inventory.issue('$a', 'L', 1); ROLLBACK;\n" if $n % 10 == 0;
	}
	return $sql;
}

sub acknowledged
{
	my ($run) = @_;
	return map {
		my $file = "$run->{dir}/$_.0.out";
		my $text = -e $file ? slurp_file($file) : '';
		$text =~ s/[^\n]*\z//;
		$text =~ /^acknowledged\|([^|]+)\|/mg
	} 0 .. $CLIENTS - 1;
}

# Ticks, stock rows and snapshots against the events.
my $adds_up = <<'SQL';
WITH tick AS (
	SELECT tick_id, snapshot, events, lag(snapshot) OVER (ORDER BY tick_id) AS before FROM inventory.tick
), batch AS MATERIALIZED (
	SELECT t.tick_id, v.* FROM tick t JOIN inventory.event v ON v.xid >= coalesce(pg_snapshot_xmin(t.before), '0') AND v.xid < pg_snapshot_xmax(t.snapshot)
	WHERE pg_visible_in_snapshot(v.xid, t.snapshot) AND NOT coalesce(pg_visible_in_snapshot(v.xid, t.before), false)
)
SELECT 'tick ' || t.tick_id, t.events, count(b.event_id) FROM tick t LEFT JOIN batch b USING (tick_id) GROUP BY t.tick_id, t.events HAVING t.events <> count(b.event_id)
UNION ALL
SELECT 'gap', count(*), max(tick_id) FROM tick HAVING count(*) <> max(tick_id)
UNION ALL
SELECT 'stock row ' || stock_id, k.on_hand, b.on_hand FROM inventory.stock k
LEFT JOIN (SELECT stock_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved, sum(committed_delta) AS committed, count(*) AS event_count FROM batch GROUP BY stock_id) b USING (stock_id)
WHERE (k.on_hand, k.reserved, k.committed, k.event_count)
	IS DISTINCT FROM (coalesce(b.on_hand, 0), coalesce(b.reserved, 0), coalesce(b.committed, 0), coalesce(b.event_count, 0))
UNION ALL
SELECT 'snapshot ' || stock_id || ' ' || tick_id, s.on_hand, x.on_hand FROM inventory.snapshot s
CROSS JOIN LATERAL (SELECT sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved, sum(committed_delta) AS committed, count(*) AS event_count
	FROM batch b WHERE b.stock_id = s.stock_id AND b.tick_id <= s.tick_id) x
WHERE tick_id > (SELECT max(tick_id) - 20 FROM tick) AND (s.on_hand, s.reserved, s.committed, s.event_count) IS DISTINCT FROM (x.on_hand, x.reserved, x.committed, x.event_count)
UNION ALL
SELECT 'stock_level ' || stock_id, v.on_hand, e.on_hand FROM inventory.stock_level v
JOIN (SELECT stock_id, sum(on_hand_delta) AS on_hand, sum(committed_delta) AS committed, count(*) AS event_count FROM inventory.event GROUP BY stock_id) e USING (stock_id)
WHERE (v.on_hand, v.committed, v.event_count) IS DISTINCT FROM (e.on_hand, e.committed, e.event_count);
SQL

sub adds_up
{
	my ($on, $name) = @_;
	is($on->safe_psql('postgres', "SET jit = off; $adds_up"), '', "$name: ticks, stock rows, snapshots and stock_level are what the events say");
	agrees($on, $name);
	return;
}

# Projects what is left, and everything adds up again.
sub goes_on
{
	my ($on, $name) = @_;
	# Everything may have been projected before the crash.
	like($on->safe_psql('postgres', 'SELECT inventory.project()'), qr/^\d+$/, "$name: the projection goes on");
	is($on->safe_psql('postgres', 'SELECT sum(events) - (SELECT count(*) FROM inventory.event) FROM inventory.tick'), '0', "$name: to the last event");
	$on->safe_psql('postgres', 'SELECT inventory.expire_due(1000)');
	adds_up($on, "$name, afterwards");
	return;
}

# The old backends hold on to their shared memory until they have noticed.
sub start_again
{
	my $tries = 0;
	until ($node->start(fail_ok => 1))
	{
		die 'the server does not start' if ++$tries > 300;
		usleep(100_000);
		# Forgets the process that the stale postmaster.pid names.
		$node->kill9;
	}
}

sub waits_for_lock
{
	my ($pid, $statement) = @_;
	return $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Lock'")
	  || die "does not wait: $statement";
}

# Holds a statement at a lock while the load goes on, kills, and compares.
sub crash
{
	my ($name, $statement, $lock, $kill) = @_;
	$run_number++;
	my $run = start_clients($node, [ map { script() } 1 .. $CLIENTS ]);
	usleep(10_000) while acknowledged($run) < 300;

	my ($holder, $victim) = (session($node), session($node));
	ask($holder, "BEGIN; $lock");
	my $pid = ask($victim, 'SET test.held = on; SELECT pg_backend_pid()');
	$victim->query_until(qr/sent/, "\\echo sent\n$statement;\n");
	waits_for_lock($pid, $statement);
	# A lock on the reservations is in everybody's way.
	my $before = acknowledged($run);
	usleep(10_000) while $lock !~ /reservation/ && acknowledged($run) < $before + 200;
	is(ask($holder, 'SELECT count(*) FROM (SELECT stock_id, sum(on_hand_delta) AS on_hand, count(*) AS event_count FROM inventory.event GROUP BY stock_id) e JOIN inventory.stock_level v USING (stock_id) WHERE (e.on_hand, e.event_count) <> (v.on_hand, v.event_count)'),
		'0', "$name: readers are right meanwhile");

	$kill->($pid);
	finish_clients($run, server_gone => 1);
	$node->poll_query_until('postgres', 'SELECT true') or die;
	is(scalar(grep { $_ } @{ $run->{exits} }), $CLIENTS, "$name: every session was lost in the middle of its work");
	eval { $_->quit } for $holder, $victim;

	my %known = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', "SELECT request_id FROM inventory.request WHERE request_id LIKE '$run_number/%'");
	my @lost = grep { !$known{$_} } acknowledged($run);
	is("@lost", '', "$name: each acknowledged call is there");
	adds_up($node, $name);
	goes_on($node, $name);
	return;
}

my %kill = (
	'kill -9 of the backend' => sub { kill 'KILL', $_[0] or die "no process $_[0]" },
	'immediate stop' => sub { $node->stop('immediate'); start_again(); },
	'kill -9 of the postmaster' => sub { $node->kill9; start_again(); });
my @phases = (
	[ 'before a snapshot of a stock item is written', 'SELECT inventory.project()', 'LOCK TABLE inventory.snapshot IN SHARE MODE' ],
	[ 'before a tick is written', 'SELECT inventory.project()', 'LOCK TABLE inventory.tick IN SHARE MODE' ],
	[ 'among the stock rows', 'SELECT inventory.project()', 'SELECT FROM inventory.stock WHERE stock_id = (SELECT max(stock_id) FROM inventory.stock) FOR NO KEY UPDATE' ],
	[ 'before the commit of a tick', 'SELECT inventory.project()', "SELECT pg_advisory_xact_lock($HELD)" ],
	[ 'among the lines of an expiry', 'SELECT pg_sleep(.1), inventory.expire_due(1000)', 'LOCK TABLE inventory.reservation IN SHARE MODE' ],
	[ 'before the commit of an expiry', 'SELECT pg_sleep(.1), inventory.expire_due(1000)', "SELECT pg_advisory_xact_lock($HELD)" ]);
my @ways = sort keys %kill;
for my $n (0 .. $#phases)
{
	my $way = $ways[ $n % @ways ];
	crash("$way, $phases[$n][0]", @{ $phases[$n] }[ 1, 2 ], $kill{$way});
}

# And wherever it happens to be.
for my $way (@ways)
{
	$run_number++;
	my $loop = "SELECT inventory.project(), inventory.expire_due(20);\n" x 2000;
	my $run = start_clients($node, [ (map { script() } 1 .. $CLIENTS), $loop ]);
	usleep(10_000) while acknowledged($run) < 1000 + number_below(1000);
	my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE application_name = 'client_$CLIENTS'");
	$kill{$way}->($pid);
	finish_clients($run, server_gone => 1);
	$node->poll_query_until('postgres', 'SELECT true') or die;
	is(scalar(grep { $_ } @{ $run->{exits} }), $CLIENTS + 1, "$way, anywhere: every session was lost in the middle of its work");
	adds_up($node, "$way, anywhere");
	goes_on($node, "$way, anywhere");
}

# A standby.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nmax_standby_streaming_delay = -1");
$standby->start;

$run_number++;
my $loop = "SELECT inventory.project(), inventory.expire_due(50);\n" x 300;
my $run = start_clients($node, [ (map { script() =~ s/(^.*\n){2500}//mr } 1 .. $CLIENTS), $loop ]);
my ($reads, $changes, $wrong, $last) = (0, 0, '', '');
my $reader = session($standby);
finish_clients($run, meanwhile => sub {
	# One stock item and all of them, with one snapshot, twice.
	ask($reader, 'BEGIN ISOLATION LEVEL REPEATABLE READ');
	my @seen = map { ask($reader, q{SELECT string_agg(format('%s:%s/%s/%s:%s', stock_id, v.on_hand, v.committed, v.event_count, v.on_hand = e.on_hand AND v.committed = e.committed AND v.event_count = e.event_count), ' ' ORDER BY stock_id)
FROM inventory.stock_level v JOIN (SELECT stock_id, sum(on_hand_delta) AS on_hand, sum(committed_delta) AS committed, count(*) AS event_count FROM inventory.event GROUP BY stock_id) e USING (stock_id)}) } 1, 2;
	ask($reader, 'COMMIT');
	$reads++;
	$changes++ if $seen[0] ne $last;
	$last = $seen[0];
	$wrong ||= "$seen[0]\n$seen[1]" if $seen[0] ne $seen[1] || $seen[0] =~ /:f/ || $seen[0] !~ /:t/;
});
is($wrong, '', "a standby reads one stock per snapshot, the sum of its events, while the primary projects ($reads reads)");
cmp_ok($changes, '>=', 10, 'and it was read at many ticks');
$reader->quit;

# The clock stands still on both, so that no hold expires between two answers.
my $noon = $node->safe_psql('postgres', 'SELECT inventory.clock_time()');
$_->safe_psql('postgres', "SELECT inventory.set_test_clock('$noon')") for $node, $standby;

sub same_on_both
{
	my ($name) = @_;
	$node->wait_for_catchup($standby);
	for my $query ('SELECT * FROM inventory.stock_level ORDER BY stock_id', 'SELECT * FROM inventory.sku_level ORDER BY sku',
		'SELECT sku, inventory.available(sku), inventory.on_hand(sku) FROM inventory.sku ORDER BY sku',
		q{SELECT * FROM inventory.stock_at('infinity') ORDER BY 1, 2}, "SELECT * FROM inventory.stock_at('$noon'::timestamptz - interval '2 seconds') ORDER BY 1, 2")
	{
		my $answer = $node->safe_psql('postgres', $query);
		cmp_ok(length $answer, '>', 10, "the primary answers: $query");
		is($standby->safe_psql('postgres', $query), $answer, "$name: $query");
	}
	return;
}
same_on_both('the standby answers the same with events beyond the tick');
$node->safe_psql('postgres', 'SELECT inventory.project()');
same_on_both('the standby answers the same when all is projected');
refused($standby, 'SELECT inventory.project()', '25006', 'a standby does not project');

# Promotion while a tick is written and not committed.
$_->safe_psql('postgres', 'SELECT inventory.set_test_clock(NULL)') for $node, $standby;
$run_number++;
$run = start_clients($node, [ map { script() } 1 .. $CLIENTS ]);
usleep(10_000) while acknowledged($run) < 300;
my ($holder, $victim) = (session($node), session($node));
ask($holder, "BEGIN; SELECT pg_advisory_xact_lock($HELD)");
my $pid = ask($victim, 'SET test.held = on; SELECT pg_backend_pid()');
$victim->query_until(qr/sent/, "\\echo sent\nSELECT inventory.project();\n");
waits_for_lock($pid, 'project()');
$node->wait_for_catchup($standby);
$standby->promote;
$node->stop('immediate');
finish_clients($run, server_gone => 1);
eval { $_->quit } for $holder, $victim;
adds_up($standby, 'promotion in the middle of a tick');
goes_on($standby, 'promotion in the middle of a tick');

$standby->stop;
done_testing();
