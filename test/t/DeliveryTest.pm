# What tests of delivery share: applications that publish while servers are
# killed, and the comparison of what they have committed with what has arrived.
package DeliveryTest;

use strict;
use warnings FATAL => 'all';
use Exporter 'import';
use InventoryDocs;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(new_publishers start_publishers finish_publishers published
  caught_up delivered_ok arrives quick consumes_once);

# Each message has the next number of its key, given in the order of commits,
# and is noted in a table by the transaction that publishes it.
sub new_publishers
{
	my ($node, $keys) = @_;
	$node->safe_psql('postgres', <<"SQL");
CREATE TABLE counter (key text PRIMARY KEY, n bigint NOT NULL);
INSERT INTO counter SELECT 'k' || i, 0 FROM generate_series(1, $keys) i;
CREATE TABLE sent (message_id bigint, key text, n bigint);
CREATE FUNCTION send(k text, topic text) RETURNS bigint LANGUAGE sql AS \$\$
	WITH next AS (UPDATE counter SET n = n + 1 WHERE key = k RETURNING n),
		message AS (SELECT n, inventory.publish(topic, k, jsonb_build_object('key', k, 'n', n), '{"trace": "abc"}') AS id FROM next)
	INSERT INTO sent SELECT id, k, n FROM message RETURNING message_id
\$\$;
SQL
	return;
}

# One transaction: some messages, of which some are taken back; some
# transactions are rolled back, and some take their time.
sub transaction
{
	my ($topic, $keys) = @_;
	my $send = sub { return sprintf "SELECT send('k%d', '%s');\n", 1 + int(rand($keys)), $topic; };
	my $sql = "BEGIN;\n" . $send->();
	$sql .= "SAVEPOINT s;\n" . $send->() . "ROLLBACK TO s;\n" if rand() < 0.2;
	$sql .= $send->() if rand() < 0.3;
	$sql .= sprintf "SELECT pg_sleep(%.3f);\n", rand(0.05) if rand() < 0.05;
	return $sql . (rand() < 0.1 ? "ROLLBACK;\n" : "COMMIT;\n");
}

# So many clients, each with one session of 25 transactions after the other; a
# session that is lost is followed by the next one as soon as the server is there.
sub start_publishers
{
	my ($node, $topic, $keys, $clients) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $psql = $node->installed_command('psql');
	my $connection = $node->connstr('postgres');
	my @pids;

	for my $client (1 .. $clients)
	{
		my $pid = fork() // die "fork: $!";
		push @pids, $pid;
		next if $pid;
		srand($InventoryTest::seed + $client);
		for (my $session = 1; !-e "$dir/stop"; $session++)
		{
			my $file = "$dir/$client.$session.sql";
			append_to_file($file, join '', map { transaction($topic, $keys) } 1 .. 25);
			system "$psql -XAtq -d '$connection' -f $file >/dev/null 2>>$dir/err";
			sleep 0.2;
		}
		POSIX::_exit(0);
	}
	return { pids => \@pids, dir => $dir };
}

# Calls $meanwhile again and again, until it is false; then the clients end.
sub finish_publishers
{
	my ($publishers, $meanwhile) = @_;

	1 while $meanwhile->();
	append_to_file("$publishers->{dir}/stop", '');
	waitpid $_, 0 for @{ $publishers->{pids} };
	return;
}

# What has been committed: "key n" for each message, by key and number.
sub published
{
	my ($node) = @_;
	return $node->safe_psql('postgres', "SELECT key || ' ' || n FROM sent ORDER BY substr(key, 2)::int, n");
}

# Waits until a subscription has nothing left.
sub caught_up
{
	my ($node, $subscription, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', <<"SQL"), $name // "$subscription has caught up");
SELECT bool_and(state = 'idle' AND lag_messages = 0 AND lag IS NULL)
	AND NOT EXISTS (SELECT FROM inventory.parked WHERE subscription = '$subscription')
FROM inventory.stat_delivery WHERE subscription = '$subscription'
SQL
}

# Waits until as many messages have arrived as were committed.
sub arrives
{
	my ($count, $want, $name) = @_;
	my $until = time() + $PostgreSQL::Test::Utils::timeout_default;
	my $found;

	sleep 0.1 while ($found = $count->()) < $want && time() < $until;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return cmp_ok($found, '>=', $want, $name);
}

# $messages: hashes of id, sequence, key and n, in the order of their arrival.
# Every committed message is there and none else; of each key the first arrivals
# are in order; what arrives again has the id and sequence that it had, so that a
# consumer that passes over what is not behind the last sequence of the key is
# right.  Returns the number of duplicates.
sub delivered_ok
{
	my ($node, $messages, $name) = @_;
	my (%seen, %last, %kept, @wrong);
	my $duplicates = 0;

	for my $message (@$messages)
	{
		my $key = $message->{key};
		if (my $first = $seen{ $message->{id} })
		{
			$duplicates++;
			push @wrong, "$message->{id} has another sequence"
			  if $first->{sequence} ne $message->{sequence};
		}
		else
		{
			$seen{ $message->{id} } = $message;
			push @wrong, "$key $message->{n} comes late"
			  if $message->{n} <= ($last{$key}{n} // 0);
			push @wrong, "$key $message->{n} has an old sequence"
			  if $message->{sequence} le ($last{$key}{sequence} // '');
			$last{$key} = $message;
		}
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is("@wrong[0 .. ($#wrong < 5 ? $#wrong : 5)]", '', "$name: each key is in order, duplicates are known by id and sequence");
	my %by_key;
	push @{ $by_key{ $_->{key} } }, $_->{n} for values %seen;
	my $found = join "\n", map {
		my $key = $_;
		map { "$key $_" } sort { $a <=> $b } @{ $by_key{$key} }
	} sort { substr($a, 1) <=> substr($b, 1) } keys %by_key;
	ok($found eq published($node), "$name: every committed message, and no other, has arrived ("
		  . scalar(keys %seen) . ", $duplicates again)");
	return $duplicates;
}

# Runs the consumer that a page of the documentation has, makes everything come
# again, and runs it again: each message has been counted once.
sub consumes_once
{
	my ($node, $page, $from, $port, $again) = @_;
	my $program = PostgreSQL::Test::Utils::tempdir() . '/consume.py';

	$node->safe_psql('postgres', example('consumer.md', '-- by id'));
	append_to_file($program, example($page, '# consume'));
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $run (1 .. 2)
	{
		my $err = '';
		ok(IPC::Run::run([ '/usr/bin/python3', $program, $from, $port, $node->connstr('postgres') ], '2>', \$err),
			"$page: the consumer runs") or diag $err;
		is($node->safe_psql('postgres', 'SELECT count(*) - (SELECT count(*) FROM sent) FROM received'), 0,
			"$page: each message has been counted once") if $run == 1;
		$again->() if $run == 1;
	}
	is($node->safe_psql('postgres', "SELECT count(*) >= (SELECT count(*) FROM sent) AND count(*) = count(DISTINCT id) FROM received"), 't',
		"$page: ... also when all came again");
	$node->safe_psql('postgres', 'DROP FUNCTION count_once; DROP TABLE received, counted');
	return;
}

# That something takes less than so many seconds.
sub quick
{
	my ($seconds, $name, $what) = @_;
	my $started = time();
	$what->();
	my $took = time() - $started;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return cmp_ok($took, '<', $seconds, sprintf('%s (%.2f s)', $name, $took));
}

1;
