# A request id makes a call happen once, whoever sends it again and when.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use Test::More;

my $CLIENTS = 16;
my $node = new_node('request');
add_skus($node, 1000, 'a', 'b');
$node->safe_psql('postgres', "INSERT INTO inventory.location (location) VALUES ('M')");
# The gate's clock stands still: equal answers of extend must not depend on luck.
$node->safe_psql('postgres', "SELECT inventory.set_test_clock(date_trunc('hour', now()))");

# Each function that changes anything: what comes before, the call with %s for
# its request id, and how many events it writes.
my @calls = (
	[ reserve => '', "inventory.reserve('a', 'L', 2, request_id => %s)", 1 ],
	[ try_reserve => '', "inventory.try_reserve('a', 'L', 2, request_id => %s)", 1 ],
	[ 'reserve lines' => '', "inventory.reserve('[{\"sku\":\"b\",\"location\":\"L\",\"quantity\":1},{\"sku\":\"a\",\"location\":\"L\",\"quantity\":1}]'::jsonb, request_id => %s)", 2 ],
	[ 'reserve for an owner' => '', "inventory.reserve('a', 'L', 2, owner => %1\$s, request_id => %1\$s)", 1 ],
	[ receive => '', "inventory.receive('a', 'L', 3, request_id => %s)", 1 ],
	[ issue => '', "inventory.issue('a', 'L', 2, request_id => %s)", 1 ],
	[ adjust => '', "inventory.adjust('a', 'L', -1, 'broken', request_id => %s)", 1 ],
	[ set_on_hand => 'inventory.set_on_hand(\'b\', \'M\', 5, inventory.on_hand(\'b\', \'M\'))', "inventory.set_on_hand('b', 'M', 8, 5, request_id => %s)", 1 ],
	[ transfer => '', "inventory.transfer('a', 'L', 'M', 2, request_id => %s)", 2 ],
	[ reverse => "inventory.receive('a', 'L', 1)", "inventory.reverse(:before, 'mistake', request_id => %s)", 1 ],
	[ 'post json' => '', "inventory.post('[{\"type\":\"issue\",\"sku\":\"a\",\"location\":\"L\",\"quantity\":1},{\"type\":\"receive\",\"sku\":\"b\",\"location\":\"L\",\"quantity\":1}]', request_id => %s)", 2 ],
	[ 'post array' => '', "inventory.post('receive', ARRAY['a','b'], ARRAY['L','L'], ARRAY[1,1], request_id => %s)", 2 ],
	[ confirm => "inventory.reserve('a', 'L', 2)", "inventory.confirm(:before, request_id => %s)", 1 ],
	[ ship => "inventory.reserve('a', 'L', 2)", "inventory.ship(:before, '[{\"line_no\":1,\"quantity\":1}]', request_id => %s)", 1 ],
	[ release => "inventory.reserve('a', 'L', 2)", "inventory.release(:before, '[{\"line_no\":1,\"quantity\":1}]', request_id => %s)", 1 ],
	[ extend => "inventory.reserve('a', 'L', 2)", "inventory.extend(:before, '1 hour', request_id => %s)", 0 ],
	[ release_owner => "inventory.reserve('a', 'L', 2, owner => 'cart')", "inventory.release_owner('cart', request_id => %s)", 1 ],
);

my $number = 0;

sub prepare
{
	my ($call) = @_;
	my ($name, $before, $template, $events) = @$call;
	my $id = "'" . $name . ' ' . ++$number . "'";
	my $result = $before ? $node->safe_psql('postgres', "SELECT $before") : '';
	$node->safe_psql('postgres', "SELECT inventory.confirm($result)") if $name eq 'ship';
	my $sql = sprintf($template, $id) =~ s/:before/$result/gr;
	return ($id, "SELECT $sql");
}

# One effect and equal answers: $answers are what all the clients have printed.
sub once
{
	my ($name, $id, $events, @answers) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %different = map { s/\s+$//r => 1 } @answers;
	my $same = keys %different == 1;
	is( scalar(@answers) . ' ' . join(',', keys %different) . ' '
		  . $node->safe_psql('postgres', "SELECT count(*) FROM inventory.event WHERE request_id = $id")
		  . ' ' . $node->safe_psql('postgres', "SELECT count(*) FROM inventory.request WHERE request_id = $id"),
		scalar(@answers) . ' ' . ($same ? (keys %different)[0] : 'one and the same') . " $events 1", $name);
	like(join('', keys %different), qr/^\S+/, "$name: the answer is not empty");
}

for my $call (@calls)
{
	my ($name, $before, $template, $events) = @$call;

	# All at once.
	my ($id, $sql) = prepare($call);
	my $run = run_clients($node, [ map { "$sql;\n" } 1 .. $CLIENTS ]);
	only_codes($run, "$name: $CLIENTS sessions at once meet no error");
	once("$name: $CLIENTS sessions at once get one effect and equal answers", $id, $events, @{ $run->{out} });

	# Behind a first one that commits, or does not.
	for my $end ('COMMIT', 'ROLLBACK')
	{
		($id, $sql) = prepare($call);
		my $first = session($node);
		ask($first, 'BEGIN');
		my $answer = ask($first, $sql);
		$run = start_clients($node, [ map { "$sql;\n" } 2 .. $CLIENTS ]);
		ok( $node->poll_query_until('postgres', qq{
SELECT count(*) = $CLIENTS - 1 FROM pg_stat_activity WHERE application_name LIKE 'client_%' AND wait_event_type IN ('Lock', 'IPC', 'Extension')
	AND query NOT LIKE '%advisory%'}),
			"$name: the same request waits for the first one");
		ask($first, $end);
		$first->quit;
		finish_clients($run);
		only_codes($run, "$name: after the first one's $end there is no error");
		once("$name: after the first one's $end there is one effect, and equal answers", $id, $events, @{ $run->{out} },
			$end eq 'COMMIT' ? $answer : ());
	}

	# Again later, and with other arguments.
	is($node->safe_psql('postgres', $sql), (map { s/\s+$//r } $run->{out}[0])[0], "$name: the same request later gets the same answer");
	my $other = $sql =~ s/(, request_id)/, reason => 'other'$1/r;
	$other = $sql =~ s/'(?:mistake|broken)'/'other'/r if $name =~ /^(?:reverse|adjust)$/;
	refused($node, $other, 'IV010', "$name: the same request id with other arguments is refused");
	refused($node, "SELECT inventory.receive('b', 'M', 77, request_id => $id)", 'IV010', "$name: another call with the same request id is refused");
}
agrees($node, 'after all the repeated requests');

# With snapshots that cannot see the other's row: the same answer, or a
# serialization failure; never a second effect.
for my $level ('repeatable read', 'serializable')
{
	my ($id, $sql) = prepare($calls[0]);
	my $run = run_clients($node, [ map { "SET default_transaction_isolation = '$level';\n$sql;\n" } 1 .. $CLIENTS ]);
	only_codes($run, "$level: the same request at once meets no error but a conflict", '40001');
	once("$level: one effect, equal answers", $id, 1, grep { /\S/ } @{ $run->{out} });
}

# A failure is not remembered.
refused($node, "SELECT inventory.reserve('a', 'L', 100000, request_id => 'failed')", 'IV001', 'a request fails for lack of stock');
is($node->safe_psql('postgres', "SELECT inventory.try_reserve('a', 'L', 100000, request_id => 'failed')"), '', 'or gets NULL');
$node->safe_psql('postgres', "SELECT inventory.receive('a', 'L', 100000)");
like($node->safe_psql('postgres', "SELECT inventory.reserve('a', 'L', 100000, request_id => 'failed')"), qr/^\d+$/,
	'the same request succeeds when the stock is there');
agrees($node, 'at the end');

$node->stop;
done_testing();
