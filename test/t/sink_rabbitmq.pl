# Delivery to RabbitMQ, from commit to queue: both servers are killed at any
# moment, the sink is down, wrong or hangs, and messages go nowhere.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use DeliveryTest;
use InventoryTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQServer;
use RedisServer;
use SinkDriver;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'there is no rabbitmq-server' unless RabbitMQServer::available();
plan skip_all => 'the sink was not built' unless -e SinkDriver::library('rabbitmq');

my $KEYS = 12;
my $rabbit = RabbitMQServer->new;
my $node = new_node('rabbitmq', conf => <<'CONF');
autovacuum = off
fsync = on
max_worker_processes = 32
restart_after_crash = on
inventory.tick_interval = 200ms
CONF
new_publishers($node, $KEYS);
$rabbit->tool('amqp-declare-queue', '-d', '-q', $_) for qw(chaos down secured two);
$node->safe_psql('postgres', <<"SQL");
CREATE SERVER rabbitmq FOREIGN DATA WRAPPER inventory_rabbitmq OPTIONS (host '127.0.0.1', port '${\ $rabbit->port}');
SELECT inventory.subscribe('chaos', '{chaos}', 'rabbitmq', '{"batch": 20, "backoff": "100 ms", "backoff_cap": "500 ms"}');
SQL

sub messages
{
	return [ map {
		my $data = RedisServer::decode($_->{body});
		{ id => $_->{id}, sequence => $_->{headers}{cloudEvents_sequence}, key => $data->{key}, n => $data->{n} }
	} $rabbit->drain($_[0]) ];
}

# --- Everything is killed, again and again.
my $rounds = 0;
my $publishers = start_publishers($node, 'chaos', $KEYS, 4);
finish_publishers($publishers, sub {
		return 0 if $rounds >= 6;
		sleep 0.5 + rand(1);
		if ($rounds++ % 2 == 0)
		{
			$rabbit->stop('KILL');
			$rabbit->start;
		}
		else
		{
			$node->stop('immediate');
			$node->start;
		}
		return 1;
	});
$node->poll_query_until('postgres', 'SELECT true');
my $count = $node->safe_psql('postgres', 'SELECT count(*) FROM sent');
is($rounds, 6, "RabbitMQ and PostgreSQL were killed ($rounds times)");
cmp_ok($count, '>', 200, "while $count messages were published");
arrives(sub { $rabbit->depth('chaos') }, $count, 'all arrive');
caught_up($node, 'chaos');
delivered_ok($node, messages('chaos'), 'killed');

# --- The consumer of the documentation: what comes twice counts once.
$node->safe_psql('postgres', "TRUNCATE sent; SELECT count(send('k1', 'chaos')) FROM generate_series(1, 50)");
arrives(sub { $rabbit->depth('chaos') }, 50, '50 more');
caught_up($node, 'chaos');
consumes_once($node, 'rabbitmq.md', 'chaos', $rabbit->port, sub {
		$node->safe_psql('postgres', "SELECT inventory.seek('chaos', 'earliest')");
		caught_up($node, 'chaos', 'all is sent again');
	});

# --- Down for some time
$node->safe_psql('postgres', <<'SQL');
SELECT inventory.subscribe('down', '{down}', 'rabbitmq', '{"backoff": "100 ms", "backoff_cap": "500 ms"}');
TRUNCATE sent;
SQL
$rabbit->stop;
$node->safe_psql('postgres', "SELECT count(send('k' || i % $KEYS + 1, 'down')) FROM generate_series(1, 300) i");
ok($node->poll_query_until('postgres', "SELECT state = 'backoff' AND last_error LIKE '%Connection refused' FROM inventory.stat_delivery WHERE subscription = 'down'"),
	'the subscription says that its sink is down, and why');
$rabbit->start;
caught_up($node, 'down');
is(delivered_ok($node, messages('down'), 'down'), 0, '... none of them twice');

# --- Messages that go nowhere
$node->safe_psql('postgres', <<'SQL');
SELECT inventory.subscribe('some', '{one,two}', 'rabbitmq');
SELECT inventory.publish('one', 'x', '1');
SELECT inventory.publish('two', 'x', '2');
SELECT inventory.publish('two', 'y', '3');
SQL
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 AND min(last_error) LIKE '%routing key \"one\": NO_ROUTE' FROM inventory.dead_letter WHERE subscription = 'some'"),
	'a message that goes to no queue is a dead letter');
caught_up($node, 'some');
is(join(' ', sort map { $_->{body} } $rabbit->drain('two')), '2 3', '... the others are delivered');
$rabbit->tool('amqp-declare-queue', '-d', '-q', 'one');
is($node->safe_psql('postgres', "SELECT inventory.redrive('some')"), 1, 'when there is a queue, it is tried again');
arrives(sub { $rabbit->depth('one') }, 1, '... and arrives');
caught_up($node, 'some');

# --- Credentials, and an exchange that is missing
$node->safe_psql('postgres', <<"SQL");
CREATE SERVER secured FOREIGN DATA WRAPPER inventory_rabbitmq OPTIONS (host '127.0.0.1', port '${\ $rabbit->port}', exchange 'none');
CREATE USER MAPPING FOR CURRENT_USER SERVER secured OPTIONS (user 'guest', password 'swordfish');
SELECT inventory.subscribe('secured', '{secured}', 'secured', '{"backoff": "100 ms"}');
SELECT inventory.publish('secured', 'x', '1');
SQL
sub breaks
{
	my ($error, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "SELECT state = 'broken' AND last_error LIKE '$error%' FROM inventory.stat_delivery WHERE subscription = 'secured'"), $name);
}
breaks('ACCESS_REFUSED', 'a wrong password breaks the subscription');
unlike($node->safe_psql('postgres', 'SELECT s::text FROM inventory.stat_delivery s'), qr/swordfish/, '... and is not shown');
unlike(slurp_file($node->logfile), qr/swordfish(?!')/, '... nor logged');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER secured OPTIONS (SET password 'guest')");
breaks('NOT_FOUND - no exchange', 'an exchange that is missing breaks it too');
$node->safe_psql('postgres', "ALTER SERVER secured OPTIONS (SET exchange '')");
caught_up($node, 'secured', 'what is put right is used');
is($rabbit->depth('secured'), 1, '... the message is there');

# --- A server that hangs keeps nobody waiting.
$node->safe_psql('postgres', 'CREATE DATABASE other');
$rabbit->tool('amqp-declare-queue', '-d', '-q', 'hanging');
$node->safe_psql('other', <<"SQL");
CREATE EXTENSION inventory;
CREATE SERVER rabbitmq FOREIGN DATA WRAPPER inventory_rabbitmq OPTIONS (host '127.0.0.1', port '${\ $rabbit->port}', routing_key 'hanging');
SELECT inventory.subscribe('hanging', '{#}', 'rabbitmq');
SELECT inventory.publish('one', 'x', '1');
SQL
$node->poll_query_until('other', "SELECT delivered = 1 FROM inventory.stat_delivery") or die;
$rabbit->signal('STOP');
$node->safe_psql('other', "SELECT inventory.publish('two', 'x', '1')");
$node->poll_query_until('other', "SELECT state = 'running' FROM inventory.stat_delivery") or die;
sleep 0.3;
quick(2, 'pause() while the sink hangs', sub { $node->safe_psql('other', "SELECT inventory.pause('hanging')") });
$node->safe_psql('other', "SELECT inventory.resume('hanging')");
sleep 0.5;
quick(2, 'DROP EXTENSION while the sink hangs', sub {
		$node->safe_psql('other', 'SET inventory.allow_drop = on; DROP EXTENSION inventory CASCADE') });
quick(2, 'DROP DATABASE', sub { $node->safe_psql('postgres', 'DROP DATABASE other') });
$node->safe_psql('postgres', "SELECT inventory.publish('chaos', 'k1', '{}')");
sleep 0.5;
quick(2, 'shutdown while the sink hangs', sub { $node->stop('fast') });
$rabbit->signal('CONT');

done_testing();
