# A streaming standby reads what the primary reads, writes nothing, and after a
# promotion under load knows every acknowledged call and goes on selling.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $CLIENTS = 16;
my $primary = new_node('primary', streaming => 1, conf => "max_wal_size = '1GB'");
my @skus = map { "sku-$_" } 1 .. 10;
add_skus($primary, 100_000, @skus);
$primary->safe_psql('postgres', q{
INSERT INTO inventory.location (location, parent_id) SELECT 'L/' || n, location_id FROM inventory.location, generate_series(1, 2) n WHERE location = 'L';
INSERT INTO inventory.sku (sku, tracking, safety_stock) VALUES ('lots', 'lot', 3);
INSERT INTO inventory.lot (sku_id, lot, status) SELECT sku_id, x, CASE x WHEN 'bad' THEN 'blocked' ELSE 'active' END FROM inventory.sku, unnest(ARRAY['one', 'two', 'bad']) x WHERE sku = 'lots';
SELECT inventory.receive('lots', 'L/1', 10, lot => x) FROM unnest(ARRAY['one', 'two', 'bad']) x;
SELECT inventory.receive('sku-1', 'L/2', 7, condition => 'damaged');
SELECT inventory.reserve('lots', 'L/1', 4, lot => 'one', ttl => '1 hour');
});

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->append_conf('postgresql.conf',
	"synchronous_standby_names = 'standby'\nsynchronous_commit = on");
$primary->reload;
$primary->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'") or die;

# A call with a request id; psql prints the id once the call has committed.
sub script
{
	my ($client, $calls) = @_;
	my $sql = '';
	for my $n (1 .. $calls)
	{
		my ($a, $b) = (one_of(@skus), one_of(@skus));
		my $id = "$client/$n";
		my $call = one_of(
			"inventory.reserve('$a', 'L', 2, request_id => '$id')",
			"inventory.reserve('[{\"sku\":\"$a\",\"location\":\"L\",\"quantity\":1},{\"sku\":\"$b\",\"location\":\"L\",\"quantity\":2}]'::jsonb, ttl => NULL, request_id => '$id')",
			"inventory.confirm(inventory.reserve('$a', 'L', 1), request_id => '$id')",
			"inventory.transfer('$a', 'L', 'L/1', 1, request_id => '$id')",
			"inventory.issue('$a', 'L', 1, request_id => '$id')");
		$sql .= "SELECT 'acknowledged', '$id', $call;\n";
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

$primary->safe_psql('postgres', q{SELECT inventory.subscribe('watch', '{inventory.event.*}', 'notify', '{"channel": "watch"}')});
run_clients($primary, [ map { script("a$_", 60) } 1 .. $CLIENTS ]);
agrees($primary, 'the primary after some load');
$primary->wait_for_catchup($standby);

# Reading.
for my $query (
	q{SELECT * FROM inventory.stock_level ORDER BY stock_id},
	q{SELECT * FROM inventory.sku_level ORDER BY sku},
	q{SELECT * FROM inventory.open_reservation ORDER BY reservation_id, line_no},
	q{SELECT sku, inventory.available(sku), inventory.on_hand(sku) FROM inventory.sku ORDER BY 1},
	q{SELECT sku, location, inventory.available(sku, location), inventory.on_hand(sku, location) FROM inventory.sku, inventory.location ORDER BY 1, 2},
	q{SELECT lot, inventory.available('lots', 'L', lot), inventory.on_hand('lots', NULL, lot) FROM inventory.lot ORDER BY 1},
	q{SELECT sku, h.* FROM inventory.sku, inventory.history(sku, 'L') h ORDER BY sku, event_id},
	q{SELECT h.* FROM inventory.history('lots', 'L/1', 'one') h ORDER BY event_id})
{
	my $answer = $primary->safe_psql('postgres', $query);
	cmp_ok(length $answer, '>', 10, "the primary answers: $query");
	is($standby->safe_psql('postgres', $query), $answer, "the standby answers the same: $query");
}
refused($standby, "SELECT inventory.available('nothing')", 'IV002', 'an unknown code is unknown on the standby too');
$primary->safe_psql('postgres', "INSERT INTO inventory.sku (sku) VALUES ('nothing')");
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', "SELECT inventory.available('nothing')"), '0', 'until it arrives');
is($standby->safe_psql('postgres', "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT inventory.available('lots', 'L'); COMMIT"),
	$primary->safe_psql('postgres', "SELECT inventory.available('lots', 'L')"), 'reading works in a repeatable read transaction of the standby');

is($standby->safe_psql('postgres', 'SELECT subscription, topics, sink, state FROM inventory.stat_subscription'), 'watch|{inventory.event.*}|notify|stopped', 'the standby shows subscriptions, and delivers nothing');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM inventory.cursors()'), '1', 'and where they are');

# Writing.
my %write = (
	subscribe => q{SELECT inventory.subscribe('more', '{#}', 'notify', '{"channel": "more"}')},
	unsubscribe => "SELECT inventory.unsubscribe('watch')",
	pause => "SELECT inventory.pause('watch')",
	resume => "SELECT inventory.resume('watch')",
	seek => "SELECT inventory.seek('watch', 'earliest')",
	skip => "SELECT inventory.skip('watch', 1)",
	redrive => "SELECT inventory.redrive('watch')",
	discard => "SELECT inventory.discard('watch')",
	replay => q{SELECT inventory.replay('watch', 'notify', '2001-01-01', options => '{"channel": "more"}')},
	deliver => "SELECT inventory.deliver('watch')",
	receive => "SELECT inventory.receive('sku-1', 'L', 1)",
	issue => "SELECT inventory.issue('sku-1', 'L', 1)",
	adjust => "SELECT inventory.adjust('sku-1', 'L', 1, 'found')",
	set_on_hand => "SELECT inventory.set_on_hand('sku-1', 'L', 1, 1)",
	transfer => "SELECT inventory.transfer('sku-1', 'L', 'L/1', 1)",
	reverse => 'SELECT inventory.reverse(1, \'mistake\')',
	'post (json)' => q{SELECT inventory.post('[{"type":"issue","sku":"sku-1","location":"L","quantity":1}]')},
	'post (array)' => q{SELECT inventory.post('issue', ARRAY['sku-1'], ARRAY['L'], ARRAY[1])},
	reserve => "SELECT inventory.reserve('sku-1', 'L', 1)",
	'reserve (lines)' => q{SELECT inventory.reserve('[{"sku":"sku-1","location":"L","quantity":1}]'::jsonb)},
	try_reserve => "SELECT inventory.try_reserve('sku-1', 'L', 1)",
	'try_reserve (short)' => "SELECT inventory.try_reserve('sku-1', 'L', 1000000000)",
	confirm => 'SELECT inventory.confirm(1)',
	ship => 'SELECT inventory.ship(1)',
	release => 'SELECT inventory.release(1)',
	extend => "SELECT inventory.extend(1, '1 hour')",
	release_owner => "SELECT inventory.release_owner('cart')",
	expire_due => 'SELECT inventory.expire_due()',
	insert => "INSERT INTO inventory.event (stock_id, type, on_hand_delta) VALUES (1, 'issue', -1)");
refused($standby, $write{$_}, '25006', "the standby refuses $_ with 25006") for sort keys %write;
refused($primary, "BEGIN READ ONLY; $write{$_}", '25006', "a read-only transaction refuses $_ with 25006") for sort keys %write;

# Expiry needs no writing.
my $clock = "SELECT inventory.set_test_clock(now() + interval '2 hours')";
$standby->safe_psql('postgres', $clock);
is($standby->safe_psql('postgres', "SELECT inventory.available('lots', 'L', 'one'), (SELECT available FROM inventory.stock_level WHERE lot = 'one')"),
	'7|7', 'a hold past its deadline does not count on the standby either');
$standby->safe_psql('postgres', 'SELECT inventory.set_test_clock(NULL)');
is($standby->safe_psql('postgres', "SELECT inventory.available('lots', 'L', 'one')"), '3', 'and counts again when the clock is back');

# Promotion under load.  From then on the primary waits for a standby that does
# not come back, and so acknowledges nothing more.
my $epoch = $primary->safe_psql('postgres', 'SELECT position >> 40 FROM inventory.cursors()');
my $run = start_clients($primary, [ map { script("b$_", 4000) } 1 .. $CLIENTS ]);
usleep(10_000) while acknowledged($run) < 1500;
$standby->promote;
$primary->stop('immediate');
finish_clients($run, server_gone => 1);
is(scalar(grep { $_ } @{ $run->{exits} }), $CLIENTS, 'all sessions were lost in the middle of their work');
my @acknowledged = acknowledged($run);
my %known = map { $_ => 1 } split /\n/, $standby->safe_psql('postgres',
	"SELECT request_id FROM inventory.request WHERE request_id LIKE 'b%'");
my @lost = grep { !$known{$_} } @acknowledged;
is("@lost", '', 'each of the ' . @acknowledged . ' acknowledged calls is there after the promotion');
my %last;
for (@acknowledged) { my ($client, $n) = split '/'; $last{$client} = $n; }
delete $known{$_} for @acknowledged;
delete $known{ "b$_/" . (($last{"b$_"} // 0) + 1) } for 1 .. $CLIENTS;
is(join(' ', sort keys %known), '', 'and beyond these at most what each session had under way');
agrees($standby, 'after the promotion');

ok($standby->poll_query_until('postgres', "SELECT position >> 40 > $epoch FROM inventory.cursors()"), 'positions of a subscription begin anew: the old ones may have been given to messages that are lost');

# Selling goes on, to the last unit.
my $left = $standby->safe_psql('postgres', "SELECT inventory.available('sku-1', 'L/1')");
cmp_ok($left, '>', 0, 'there is something to sell');
$run = run_clients($standby, [ map { "SELECT inventory.issue('sku-1', 'L/1', 1);\n" x (int($left / $CLIENTS) + 1) } 1 .. $CLIENTS ]);
only_codes($run, 'the new primary sells', 'IV001');
is($standby->safe_psql('postgres', "SELECT inventory.available('sku-1', 'L/1'), inventory.on_hand('sku-1', 'L/1')"), '0|0', 'to the last unit');
run_clients($standby, [ map { script("c$_", 20) } 1 .. $CLIENTS ]);
agrees($standby, 'after selling on the new primary');

$standby->stop;
done_testing();
