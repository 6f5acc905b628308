# kill -9 in the middle of load: every acknowledged call is there afterwards,
# and no other than what was under way.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $CLIENTS = 16;
my $node = new_node('crash', conf => "restart_after_crash = on\nmax_wal_size = '1GB'");
my @skus = map { "sku-$_" } 1 .. 10;
add_skus($node, 100_000, @skus);

# A call with a request id; psql prints the id once the call has committed.
my $round = 0;

sub script
{
	my ($client) = @_;
	my $sql = '';
	for my $n (1 .. 3000)
	{
		my ($a, $b) = (one_of(@skus), one_of(@skus));
		my $id = "$round/$client/$n";
		my $call = one_of(
			"inventory.reserve('$a', 'L', 2, request_id => '$id')",
			"inventory.try_reserve('$a', 'L', 1, owner => 'cart ${\ number_below(50) }', request_id => '$id')",
			"inventory.reserve('[{\"sku\":\"$a\",\"location\":\"L\",\"quantity\":1},{\"sku\":\"$b\",\"location\":\"L\",\"quantity\":2}]'::jsonb, request_id => '$id')",
			"inventory.receive('$a', 'L', 1, request_id => '$id')",
			"inventory.issue('$a', 'L', 1, request_id => '$id')",
			"inventory.post('issue', ARRAY['$a'], ARRAY['L'], ARRAY[2], request_id => '$id')",
			# Three calls, one transaction: all or none.
			"inventory.ship(r, request_id => '$id') FROM (SELECT r, inventory.confirm(r, request_id => '$id confirm') FROM (SELECT inventory.reserve('$a', 'L', 3, request_id => '$id reserve') r OFFSET 0) x OFFSET 0) y");
		$sql .= "SELECT 'acknowledged', '$id', $call;\n";
		# An abort now and then, so that recovery has some to forget.
		$sql .= "BEGIN; SELECT inventory.issue('$a', 'L', 1, request_id => 'aborted $id'); ROLLBACK;\n" if $n % 20 == 0;
	}
	return $sql;
}

sub acknowledged
{
	my ($run) = @_;
	my @ids;
	for my $i (0 .. $CLIENTS - 1)
	{
		my $file = "$run->{dir}/$i.0.out";
		next unless -e $file;
		my $text = slurp_file($file);
		# A line that has been written in part says nothing.
		$text =~ s/[^\n]*\z//;
		push @ids, $text =~ /^acknowledged\|([^|]+)\|/mg;
	}
	return @ids;
}

# Kills in the middle of load, brings the server back, compares.
sub crash
{
	my ($name, $kill) = @_;
	$round++;
	my $run = start_clients($node, [ map { script($_) } 1 .. $CLIENTS ]);
	usleep(10_000) while acknowledged($run) < 1000 + number_below(2000);
	$kill->();
	finish_clients($run, server_gone => 1);
	is(scalar(grep { $_ } @{ $run->{exits} }), $CLIENTS, "$name: every session was lost in the middle of its work");
	$node->poll_query_until('postgres', 'SELECT true') or die;

	my @acknowledged = acknowledged($run);
	my %known = map { $_ => 1 } split /\n/, $node->safe_psql('postgres',
		"SELECT request_id FROM inventory.request WHERE request_id LIKE '$round/%'");
	my @lost = grep { !$known{$_} } @acknowledged;
	is("@lost[0 .. ($#lost > 9 ? 9 : $#lost)]", '', "$name: each of the " . @acknowledged . ' acknowledged calls is there');
	my %last;
	for (@acknowledged) { my ($r, $client, $n) = split '/'; $last{$client} = $n; }
	for my $client (1 .. $CLIENTS)
	{
		my $under_way = "$round/$client/" . (($last{$client} // 0) + 1);
		delete @known{ $under_way, "$under_way reserve", "$under_way confirm" };
	}
	delete @known{ $_, "$_ reserve", "$_ confirm" } for @acknowledged;
	is(join(' ', sort keys %known), '', "$name: beyond these, at most what each session had under way");
	is( $node->safe_psql('postgres', q{
SELECT count(*) FROM inventory.request q WHERE q.request_id LIKE '% reserve' AND NOT EXISTS (
	SELECT FROM inventory.request p WHERE p.request_id = replace(q.request_id, ' reserve', ''))}),
		'0', "$name: a transaction of several calls is there as a whole or not at all");
	is( $node->safe_psql('postgres', q{
SELECT count(*) FROM inventory.request q FULL JOIN (SELECT DISTINCT request_id FROM inventory.event WHERE request_id IS NOT NULL) e USING (request_id)
WHERE q.request_id IS NULL OR e.request_id IS NULL}),
		'0', "$name: every request has its events and every event its request");
	agrees($node, $name);
	return;
}

sub backend_of_a_client
{
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'client_%' AND state = 'active' ORDER BY random() LIMIT 1");
}

for my $n (1 .. 3)
{
	crash("kill -9 of a backend ($n)", sub {
		my $pid;
		do { $pid = backend_of_a_client() } until $pid;
		kill 'KILL', $pid or die "no process $pid";
	});
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
for my $n (1 .. 3)
{
	crash("kill -9 of the postmaster ($n)", sub { $node->kill9; start_again(); });
}
crash('immediate shutdown', sub { $node->stop('immediate'); start_again(); });

$node->stop;
done_testing();
