# Delivery to Redis, from commit to entry: both servers are killed at any moment,
# the sink is down, wrong or hangs; and a cache that readers fill while writers
# write.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use DeliveryTest;
use InventoryDocs;
use InventoryTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RedisServer;
use SinkDriver;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'there is no redis-server' unless RedisServer::available();
plan skip_all => 'the sink was not built' unless -e SinkDriver::library('redis');

my $KEYS = 12;
my $redis = RedisServer->new;
my $node = new_node('redis', conf => <<'CONF');
autovacuum = off
fsync = on
max_worker_processes = 32
restart_after_crash = on
inventory.tick_interval = 200ms
CONF
new_publishers($node, $KEYS);
$node->safe_psql('postgres', <<"SQL");
CREATE SERVER redis FOREIGN DATA WRAPPER inventory_redis OPTIONS (host '127.0.0.1', port '${\ $redis->port}');
SELECT inventory.subscribe('stream', '{chaos}', 'redis', '{"batch": 20, "backoff": "100 ms", "backoff_cap": "500 ms"}');
SQL

sub messages
{
	return [ map {
		my $data = RedisServer::decode($_->{data});
		{ id => $_->{id}, sequence => $_->{sequence}, key => $data->{key}, n => $data->{n} }
	} @{ $redis->entries($_[0]) } ];
}

# --- Everything is killed, again and again.
my $rounds = 0;
my $publishers = start_publishers($node, 'chaos', $KEYS, 4);
finish_publishers($publishers, sub {
		return 0 if $rounds >= 10;
		sleep 0.2 + rand(0.6);
		my $what = $rounds++ % 5;
		if ($what < 3)
		{
			$redis->stop('KILL');
			sleep rand(0.3);
			$redis->start;
		}
		elsif ($what == 3)
		{
			my ($status, $pid) = $node->psql('postgres', 'SELECT pid FROM inventory.stat_delivery WHERE pid IS NOT NULL LIMIT 1');
			kill 'KILL', $pid if $status == 0 && $pid;
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
is($rounds, 10, "Redis, the delivery process and PostgreSQL were killed ($rounds times)");
cmp_ok($count, '>', 200, "while $count messages were published");
arrives(sub { $redis->ask('XLEN', 'inventory:chaos') }, $count, 'all arrive');
caught_up($node, 'stream');
is(delivered_ok($node, messages('inventory:chaos'), 'killed'), 0, '... none of them twice');

# --- The consumer of the documentation, against what has arrived, and again.
consumes_once($node, 'redis.md', 'inventory:chaos', $redis->port,
	sub { $redis->ask(qw(XGROUP DESTROY inventory:chaos shop)) });

# --- Down for some time: nothing is written meanwhile, and others go on.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE handled (n bigint);
CREATE FUNCTION handle(message inventory.message) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO public.handled VALUES ((message.payload->>'n')::bigint) $$;
SELECT inventory.subscribe('handler', '{down}', 'function', '{"handler": "public.handle"}');
SELECT inventory.subscribe('down', '{down}', 'redis', '{"backoff": "100 ms", "backoff_cap": "500 ms"}');
TRUNCATE sent;
SQL
$redis->stop;
$node->safe_psql('postgres', "SELECT count(send('k' || i % $KEYS + 1, 'down')) FROM generate_series(1, 300) i");
ok($node->poll_query_until('postgres', 'SELECT count(*) = 300 FROM handled'), 'while Redis is down, handlers go on');
ok($node->poll_query_until('postgres', "SELECT state = 'backoff' AND last_error LIKE '%Connection refused' FROM inventory.stat_delivery WHERE subscription = 'down'"),
	'the subscription says that its sink is down, and why');
my $cursors = $node->safe_psql('postgres', "SELECT count(*) FROM inventory.delivery_cursor c JOIN inventory.subscription s USING (subscription_id) WHERE name = 'down'");
sleep 2;
is($node->safe_psql('postgres', "SELECT count(*) FROM inventory.delivery_cursor c JOIN inventory.subscription s USING (subscription_id) WHERE name = 'down'"),
	$cursors, '... and writes nothing');
is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.parked'), 0, '... nor parks anything');
$redis->start;
caught_up($node, 'down');
is(delivered_ok($node, messages('inventory:down'), 'down'), 0, '... once');

# --- A stream that cannot be written holds back its own messages only.
$redis->ask(qw(SET inventory:bad.one blocked));
$node->safe_psql('postgres', <<'SQL');
SELECT inventory.subscribe('some', '{bad.*}', 'redis', '{"backoff": "100 ms", "backoff_cap": "300 ms", "max_attempts": 1000}');
SELECT inventory.publish('bad.one', 'x', '1');
SELECT inventory.publish('bad.two', 'x', '2');
SELECT inventory.publish('bad.two', 'y', '3');
SQL
ok($node->poll_query_until('postgres', "SELECT count(*) = 2 AND bool_or(last_error LIKE 'WRONGTYPE%') FROM inventory.parked"), 'a message that is refused is parked, with the one behind it');
is(join(' ', map { $_->{data} } @{ $redis->entries('inventory:bad.two') }), '3', '... the others are delivered');
$redis->ask(qw(DEL inventory:bad.one));
caught_up($node, 'some');
is(join(' ', map { $_->{data} } @{ $redis->entries('inventory:bad.one') }, @{ $redis->entries('inventory:bad.two') }), '1 3 2',
	'... and these when it is put right');

# --- Credentials
$redis->ask(qw(CONFIG SET requirepass), 'open sesame');
$node->safe_psql('postgres', <<"SQL");
CREATE SERVER secured FOREIGN DATA WRAPPER inventory_redis OPTIONS (host '127.0.0.1', port '${\ $redis->port}', name 'secured');
CREATE USER MAPPING FOR CURRENT_USER SERVER secured OPTIONS (password 'swordfish');
SELECT inventory.subscribe('secured', '{secured}', 'secured', '{"backoff": "100 ms"}');
SELECT inventory.publish('secured', 'x', '1');
SQL
ok($node->poll_query_until('postgres', "SELECT state = 'broken' AND last_error LIKE 'WRONGPASS%' FROM inventory.stat_delivery WHERE subscription = 'secured'"),
	'a wrong password breaks the subscription');
unlike($node->safe_psql('postgres', 'SELECT s::text FROM inventory.stat_delivery s'), qr/swordfish/, '... and is not shown');
unlike(slurp_file($node->logfile), qr/swordfish(?!')/, '... nor logged');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER secured OPTIONS (SET password 'open sesame')");
caught_up($node, 'secured', 'a password that is put right is used');
$redis->{cli} = [ '--no-auth-warning', '-a', 'open sesame' ];
is($redis->ask(qw(XLEN secured)), 1, '... the message is there');
$redis->ask(qw(CONFIG SET requirepass), '');
$redis->{cli} = [];

# --- A server that hangs keeps nobody waiting.
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', <<"SQL");
CREATE EXTENSION inventory;
CREATE SERVER redis FOREIGN DATA WRAPPER inventory_redis OPTIONS (host '127.0.0.1', port '${\ $redis->port}', name 'other');
SELECT inventory.subscribe('hanging', '{#}', 'redis');
SELECT inventory.publish('one', 'x', '1');
SQL
$node->poll_query_until('other', "SELECT delivered = 1 FROM inventory.stat_delivery") or die;
$redis->signal('STOP');
$node->safe_psql('other', "SELECT inventory.publish('two', 'x', '1')");
$node->poll_query_until('other', "SELECT state = 'running' FROM inventory.stat_delivery") or die;
sleep 0.3;
quick(2, 'pause() while the sink hangs', sub { $node->safe_psql('other', "SELECT inventory.pause('hanging')") });
$node->safe_psql('other', "SELECT inventory.resume('hanging')");
sleep 0.5;
quick(2, 'DROP DATABASE while the sink hangs', sub { $node->safe_psql('postgres', 'DROP DATABASE other') });
$node->safe_psql('postgres', "SELECT inventory.publish('chaos', 'k1', '{}')");
sleep 0.5;
quick(2, 'shutdown while the sink hangs', sub { $node->stop('fast') });
$redis->signal('CONT');
$node->start;

# --- The cache.  Redis keeps a copy on disk that is older than what it knows,
# and comes back with that.
my @skus = map { "c$_" } 1 .. 5;
my $cache = RedisServer->new(conf => "appendonly no\n");
add_skus($node, 1000, @skus);
$node->safe_psql('postgres', <<"SQL");
CREATE SERVER cache FOREIGN DATA WRAPPER inventory_redis OPTIONS (host '127.0.0.1', port '${\ $cache->port}', mode 'cache');
SELECT inventory.subscribe('cache', '{inventory.event.#}', 'cache', '{"linger": "0 ms", "backoff": "50 ms", "backoff_cap": "200 ms"}');
SQL

# What a reader does, as docs/redis.md says.
my $FILL = example('redis.md', '-- fill');

sub read_cached
{
	my ($ask_redis, $session, $sku, $count) = @_;
	my $key = "inventory:$sku";
	my $value = $ask_redis->('GET', $key);
	if (defined $value && $value !~ /^lease/)
	{
		$count->{hits}++;
		return $value;
	}
	my $lease = 'lease ' . rand();
	my $leased = !defined $value && defined $ask_redis->('SET', $key, $lease, 'NX', 'PX', 5000);
	my ($available) = $session->query("SELECT available FROM inventory.sku_level WHERE sku = '$sku'");
	return $available unless $leased;
	sleep rand(0.01);			# time for others to come between
	$count->{defined $ask_redis->('EVAL', $FILL, 1, $key, $lease, $available) ? 'filled' : 'too_late'}++;
	return $available;
}

my $end = time() + 12;
my @readers;
for my $reader (1 .. 3)
{
	my $pid = fork() // die;
	push @readers, $pid;
	next if $pid;
	my $session = session($node);
	my %count = map { $_ => 0 } qw(hits filled too_late lost);
	my $ask_redis;
	srand($InventoryTest::seed + $reader);
	while (time() < $end)
	{
		eval {
			$ask_redis //= $cache->connection;
			read_cached($ask_redis, $session, $skus[ rand @skus ], \%count);
			1;
		} or do { $count{lost}++; undef $ask_redis; sleep 0.05; };
	}
	append_to_file("$cache->{dir}/reader", join(' ', map { "$_=$count{$_}" } sort keys %count) . "\n");
	POSIX::_exit(0);
}
my @writers;
for my $writer (1 .. 2)
{
	my $pid = fork() // die;
	push @writers, $pid;
	next if $pid;
	my $session = session($node);
	srand($InventoryTest::seed + 100 + $writer);
	while (time() < $end - 1)
	{
		my $sku = $skus[ rand @skus ];
		my $change = rand() < 0.5 ? "inventory.receive('$sku', 'L', 1)" : "inventory.issue('$sku', 'L', 1)";
		ask($session, "BEGIN; SELECT $change; SELECT pg_sleep(" . rand(0.01) . '); ' . (rand() < 0.3 ? 'ROLLBACK' : 'COMMIT'));
		sleep rand(0.02);
	}
	POSIX::_exit(0);
}
my $restarts = 0;
while (time() < $end - 2)
{
	sleep 0.5 + rand(0.5);
	$cache->ask('SAVE');		# what it will come back with
	sleep rand(1);
	$cache->stop('KILL');
	sleep rand(0.2);
	$cache->start;
	$restarts++;
}
waitpid $_, 0 for @writers, @readers;
note slurp_file("$cache->{dir}/reader");
cmp_ok($restarts, '>', 2, "Redis was killed and started while readers and writers raced ($restarts times)");
caught_up($node, 'cache');
sub cached
{
	my ($sku) = @_;
	my $value = $cache->ask('GET', "inventory:$sku");
	return $value =~ /^\d+$/ ? $value : '';
}
my ($wrong, $there) = (1, 0);
# A Redis that came back with old values after the last message is noticed in a second.
for (my $until = time() + 10; $wrong && time() < $until; sleep 0.2)
{
	($wrong, $there) = (0, 0);
	for my $sku (@skus)
	{
		my $cached = cached($sku) // '';
		next if $cached eq '';
		$there++;
		$wrong++ if $cached != $node->safe_psql('postgres', "SELECT available FROM inventory.sku_level WHERE sku = '$sku'");
	}
}
is($wrong, 0, "what is in the cache is right ($there of " . @skus . ' SKUs are in it)');
like(slurp_file("$cache->{dir}/reader"), qr/filled=[1-9].*hits=[1-9]/, 'readers filled it and hit it');
my $session = session($node);
my $ask_redis = $cache->connection;
read_cached($ask_redis, $session, $_, {}) for @skus, @skus;
cmp_ok(scalar(grep { cached($_) ne '' } @skus), '==', @skus, 'readers fill it again');
$node->safe_psql('postgres', "SELECT inventory.receive('$skus[0]', 'L', 7)");
caught_up($node, 'cache');
is(cached($skus[0]), '', 'a change empties its SKU');
isnt(cached($skus[1]), '', '... and no other');
$session->quit;
$node->stop;

done_testing();
