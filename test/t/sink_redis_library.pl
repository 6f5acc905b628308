# The library of the sink for Redis, without a database: what a server says, how
# it fails, stalls and comes back, and that the order of a key and every message
# survive it.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use HostileServer;
use InventoryTest;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RedisServer;
use SinkDriver;
use Test::More;
use TestCertificates;
use Time::HiRes qw(sleep time);

plan skip_all => 'there is no redis-server' unless RedisServer::available();

my $dir = PostgreSQL::Test::Utils::tempdir();
my $tls_port = PostgreSQL::Test::Cluster::get_free_port();
my $tls = make_certificates($dir);
my $redis = RedisServer->new(conf => $tls ? <<"CONF" : '');
tls-port $tls_port
tls-cert-file $dir/server.pem
tls-key-file $dir/server.key
tls-ca-cert-file $dir/ca.pem
tls-auth-clients no
CONF
my @at = (host => '127.0.0.1', port => $redis->port);

sub open_ok
{
	my ($driver, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($driver->open, qr/^opened/, $name // 'opened');
	return $driver;
}

sub ids { return join ' ', map { $_->{id} } @{ $redis->entries($_[0]) }; }
sub positions { return map { $_->{sequence} + 0 } @{ $redis->entries($_[0]) }; }

# --- Entries
my $sink = open_ok(SinkDriver->new('redis', @at, subscription => 'shop'));
my $call = $sink->message(7, 'm7', 'order.new', 'k1', 'S', '{"a": "\\u00e9"}', 'trace=abc', 'id=x')
  ->message(8, 'm8', 'order.new', '', '', '2')->send;
is($call->{verdict}, 'ok', 'two messages are taken');
my $entries = $redis->entries('inventory:order.new');
is_deeply($entries->[0], {
		entry => '7-0', specversion => '1.0', id => 'm7', source => 'urn:inventory:1:test',
		type => 'order.new', subject => 'k1', partitionkey => 'k1',
		time => '2026-01-02T03:04:05.678901Z', sequence => '00000000000000000007',
		messagenumber => '7', subscription => 'shop', datacontenttype => 'application/json',
		data => '{"a": "\\u00e9"}', 'header.trace' => 'abc', 'header.id' => 'x',
	}, 'an entry has the envelope, the payload as it is, and the headers apart');
ok(!exists $entries->[1]{subject}, 'a message without a key has no subject');

# --- Again, late, and beside others
$call = $sink->message(7, 'm7', 'order.new', 'k1', '', '1')->message(9, 'm9', 'order.new', 'k1', '', '1')->send;
is("@{ $call->{ok} }", '7 9', 'what comes again is taken');
is(ids('inventory:order.new'), 'm7 m8 m9', '... and not written again');

$sink->message(5, 'm5', 'order.new', 'k5', '', '1')->message(10, 'm10', 'order.new', 'k5', '', '1')->send;
is(ids('inventory:order.new'), 'm7 m8 m9 m5 m10', 'what comes late is written behind what is there');
is($redis->entries('inventory:order.new')->[3]{entry}, '9-1', '... with an id of its own');

$redis->ask('XADD', 'inventory:order.new', '900-5', 'id', 'foreign');
$call = $sink->fill(3, 'order.new', 1, 11)->send;
is("@{ $call->{ok} }", '11 12 13', 'beside another writer, all are taken');
is(join(' ', map { $_->{entry} } @{ $redis->entries('inventory:order.new') }[ 5 .. 8 ]),
	'900-5 900-6 900-7 900-8', '... in their order');
$sink->message(7, 'another', 'order.new', 'k1', '', '1')->send;
like(ids('inventory:order.new'), qr/another$/, 'another message with a position that was used is written');

$redis->ask('DEL', 'inventory:order.new');
$redis->ask('XADD', 'inventory:order.new', '2000-0', 'a', 'b');
$redis->ask('XDEL', 'inventory:order.new', '2000-0');
is($sink->message(1999, 'm', 'order.new', 'k', '', '1')->send->{verdict}, 'ok', 'a stream whose last entry was deleted takes more');
is($redis->entries('inventory:order.new')->[0]{entry}, '2000-1', '... behind it');

# Another one writes to the same streams all the time.
my $rival = fork() // die;
if ($rival == 0)
{
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $redis->port);
	for (1 .. 3000)
	{
		print $socket "XADD inventory:busy * id rival\r\n";
		readline $socket;
	}
	POSIX::_exit(0);
}
my $written = 0;
for my $batch (0 .. 9)
{
	$call = $sink->fill(50, 'busy', 5, 1 + 50 * $batch)->send;
	$written += @{ $call->{ok} };
}
waitpid $rival, 0;
is($written, 500, 'with a rival at the stream all are taken');
is(join(' ', grep { $_ } map { $_->{sequence} ? $_->{sequence} + 0 : 0 } @{ $redis->entries('inventory:busy') }),
	join(' ', 1 .. 500), '... once, in order');

# --- A message that is refused
$redis->ask('SET', 'inventory:taken', 'no stream');
$call = $sink->message(20, 'a', 'taken', 'K', '', '1')->message(21, 'b', 'order.new', 'K', '', '1')
  ->message(22, 'c', 'order.new', 'L', '', '1')->send;
is($call->{verdict}, 'ok', 'a name that is taken by something else is no failure of the sink');
is("$call->{verdict_of}{20} $call->{verdict_of}{21} $call->{verdict_of}{22}", 'retry_message not_sent ok',
	'... it holds back its message and the later ones of the key, not the others');
like($call->{error_of}{20}, qr/WRONGTYPE/, '... and says why');
$redis->ask('DEL', 'inventory:taken');

# --- Large messages, many streams, a limit of length
$call = $sink->size(1_000_000)->fill(20, 'large', 3, 1)->send;
is(scalar @{ $call->{ok} }, 20, 'large messages are taken');
is($redis->ask('XLEN', 'inventory:large'), 20, '... all of them');
$sink->size(0);
my $short = open_ok(SinkDriver->new('redis', @at, name => 'short:{key}', maxlen => 100));
$short->fill(5000, 'x', 300, 1)->send;
is($redis->ask('XLEN', 'short:k7'), 17, 'a stream per key');
$short->fill(5000, 'x', 1, 5001)->send for 1;
cmp_ok($redis->ask('XLEN', 'short:k0'), '<', 400, 'a stream with a limit is cut off');
is($short->message(90000, 'm', 'x', '', '', '1')->send->{verdict_of}{90000}, 'fail_message',
	'a message without a key has no place in a stream per key');

# --- auto
my $auto = open_ok(SinkDriver->new('redis', @at, name => 'auto', entry_id => 'auto'));
$auto->fill(10, 'x', 2, 1)->send;
$auto->fill(10, 'x', 2, 1)->send;
is(join(' ', positions('auto')), join(' ', 1 .. 10, 1 .. 10), 'with entry_id = auto everything is written as it comes');

# --- publish
my $heard = '';
my $listener = IPC::Run::start([ 'redis-cli', '-p', $redis->port, 'PSUBSCRIBE', 'inventory:*' ], '>', \$heard);
$listener->pump until $heard =~ /psubscribe/;
my $publisher = open_ok(SinkDriver->new('redis', @at, mode => 'publish'));
is($publisher->fill(3, 'p.x', 1, 1)->send->{verdict}, 'ok', 'publications are taken');
$listener->pump until $heard =~ /message-3-1/;
like($heard, qr/inventory:p\.x\n\Q{"specversion":"1.0","id":"message-1-1"\E.*message-2-1.*message-3-1/s,
	'who has subscribed gets whole events, in order');
$listener->kill_kill;

# --- cache
$redis->ask(qw(MSET inventory:k0 5 inventory:k1 6 inventory:other 7 shop:k0 8));
$redis->ask('LPUSH', 'inventory:list', 1);
my $cache = open_ok(SinkDriver->new('redis', @at, mode => 'cache'));
is($redis->ask('MGET', 'inventory:k0', 'inventory:other', 'shop:k0'), "\n\n8", 'a server that is not known forgets the values');
is($redis->ask('LLEN', 'inventory:list'), 1, '... and nothing else');
$redis->ask(qw(MSET inventory:k0 5 inventory:k1 6 inventory:other 7));
$call = $cache->fill(1000, 'x', 2, 1)->message(2000, 'm', 'x', 'k', '', '1')->send;
is(scalar @{ $call->{ok} }, 1001, 'messages are taken by the cache, and those that are not about a SKU');
is($redis->ask('MGET', 'inventory:k0', 'inventory:k1', 'inventory:other'), "\n\n7", '... which forgets their SKUs');
$cache->close;
$redis->ask(qw(SET inventory:k0 5));
open_ok($cache, 'opened again');
is($redis->ask(qw(GET inventory:k0)), 5, 'a server that is known keeps its values');
$redis->stop;
$redis->start;
$cache->close;
open_ok($cache, 'opened after a restart of the server');
is($redis->ask(qw(GET inventory:k0)), '', 'a server that has been restarted forgets the values');
my $set = open_ok(SinkDriver->new('redis', @at, mode => 'cache', cache => 'set', name => 'value:{key}', ttl => 100_000));
$set->message(1, 'a', 'x', 'K', '', '{"n": 1}')->message(2, 'b', 'x', 'K', '', '{"n": 2}')->send;
is($redis->ask('GET', 'value:K'), '{"n": 2}', 'cache = set keeps the last payload of a key');
cmp_ok($redis->ask('TTL', 'value:K'), '>', 50, '... for some time');
for my $days (1, 3650)
{
	my $long = open_ok(SinkDriver->new('redis', @at, mode => 'cache', cache => 'set', name => 'value:{key}', ttl => $days * 86_400_000));
	$long->message(3, 'c', 'x', 'K', '', '3')->send;
	cmp_ok($redis->ask('TTL', 'value:K'), '>', $days * 86_400 - 60, "... also $days days");
}
for my $name ('inventory', '{sku}')
{
	like(SinkDriver->new('redis', @at, mode => 'cache', name => $name)->open, qr/^failed fatal/,
		"a cache cannot have the name $name");
}

# --- Refused
like(SinkDriver->new('redis', @at, password => 'wrong')->open, qr/^failed fatal/, 'a password where there is none');
like(SinkDriver->new('redis', @at, database => 99)->open, qr/^failed fatal .*DB index/, 'a database that does not exist');
my $nobody = PostgreSQL::Test::Cluster::get_free_port();
like(SinkDriver->new('redis', port => $nobody)->open, qr/^failed retry_sink \d+ could not connect to "localhost", port $nobody: Connection refused/,
	'nobody there');
like(SinkDriver->new('redis', host => 'no-such-host.invalid')->open, qr/^failed retry_sink .*could not resolve/, 'no such name');
like(SinkDriver->new('redis', socket => '/nowhere/at/all')->open, qr/^failed retry_sink .*No such file/, 'no such socket');
is(open_ok(SinkDriver->new('redis', socket => $redis->socket))->fill(1, 'by.socket', 1, 1)->send->{verdict}, 'ok',
	'through a socket in the file system');
is(open_ok(SinkDriver->new('redis', @at, database => 3))->fill(1, 'three', 1, 1)->send->{verdict}, 'ok', 'another database');
is($redis->ask('-n', 3, 'XLEN', 'inventory:three'), 1, '... has it');

$redis->ask(qw(ACL SETUSER shop on >secret ~inventory:* +@all));
$redis->ask(qw(ACL SETUSER poor on >secret ~inventory:* +ping +multi +exec +watch +xinfo +client));
is(open_ok(SinkDriver->new('redis', @at, user => 'shop', password => 'secret'))->fill(1, 'acl', 1, 1)->send->{verdict},
	'ok', 'a user with a password');
like(SinkDriver->new('redis', @at, user => 'shop', password => 'hush')->open, qr/^failed fatal \d+ WRONGPASS/, 'a wrong password');
unlike(SinkDriver->new('redis', @at, user => 'shop', password => 'hush')->open, qr/hush/, '... is not told');
$call = open_ok(SinkDriver->new('redis', @at, user => 'poor', password => 'secret'))->fill(3, 'acl', 1, 5)->send;
is($call->{verdict}, 'fatal', 'a user without the right');
like($call->{error}, qr/NOPERM/, '... is told');

$sink->close;
open_ok($sink);
$redis->ask(qw(CONFIG SET maxmemory 1));
$call = $sink->fill(3, 'full', 1, 1)->send;
is($call->{verdict}, 'retry_sink', 'a server without memory is down');
like($call->{error}, qr/OOM/, '... and says why');
is(scalar @{ $call->{ok} }, 0, '... it has taken nothing');
$redis->ask(qw(CONFIG SET maxmemory 0));
is($sink->idle, 'idle 0 0', 'then the sink is to be opened again');
$sink->close;
open_ok($sink);
is($sink->fill(3, 'full', 1, 1)->send->{verdict}, 'ok', '... and goes on');

# --- TLS
SKIP:
{
	skip 'there is no openssl', 14 unless $tls;
	my @secure = (port => $tls_port, tls => 'on');
	is(open_ok(SinkDriver->new('redis', @secure, ca_file => "$dir/ca.pem"))->size(10_000)->fill(500, 'tls', 5, 1)->send->{verdict}, 'ok', 'by TLS');
	is(join(' ', positions('inventory:tls')), join(' ', 1 .. 500), '... in order');
	is(open_ok(SinkDriver->new('redis', @secure, host => '127.0.0.1', ca_file => "$dir/ca.pem"))->fill(1, 'address', 1, 1)->send->{verdict}, 'ok', 'by TLS to an address');
	like(SinkDriver->new('redis', @secure, ca_file => "$dir/other.pem")->open,
		qr/^failed fatal \d+ the server's certificate is not trusted/, 'an authority that is not trusted');
	like(SinkDriver->new('redis', @secure)->open, qr/^failed fatal \d+ the server's certificate is not trusted/, '... nor by the system');
	is(open_ok(SinkDriver->new('redis', @secure, verify => 'off'))->fill(1, 'unasked', 1, 1)->send->{verdict}, 'ok', 'unless nobody asks');
	like(SinkDriver->new('redis', @at, tls => 'on')->open, qr/^failed retry_sink \d+ TLS failed/, 'where there is no TLS');
	my $cut = open_ok(SinkDriver->new('redis', @secure, ca_file => "$dir/ca.pem"));
	$redis->ask(qw(CLIENT KILL TYPE normal SKIPME yes));
	like($cut->idle, qr/^idle 0/, 'a connection that is lost is noticed by TLS, too');
	is($cut->fill(1, 'tls', 1, 501)->send->{verdict}, 'retry_sink', '... and so does the next call');
}
$sink->close;
open_ok($sink);

# --- Idle
like($sink->idle, qr/^idle 1/, 'idle') for 1 .. 3;
$redis->ask(qw(CLIENT KILL TYPE normal SKIPME yes));
like($sink->idle, qr/^idle 0/, 'idle notices that the connection is lost');
like($sink->fill(1, 'x', 1, 1)->send->{verdict}, qr/retry_sink/, '... and so does the next call');
$sink->close;

# --- Stalled
open_ok($sink);
$redis->signal('STOP');
$sink->stop_after(700)->size(1_000_000);
$call = $sink->fill(40, 'stalled', 1, 1)->send;
is($call->{verdict}, 'retry_sink', 'a server that hangs');
cmp_ok($call->{ms}, '<', 1000, "... does not keep the process from stopping ($call->{ms} ms)");
like($sink->close, qr/^closed [0-9]{1,2}$/, '... nor from closing');
my $hanging = SinkDriver->new('redis', @at);
$hanging->stop_after(500);
my $opening = $hanging->open;
like($opening, qr/^failed retry_sink [5-9]\d\d /, "a server that hangs while it is opened ($opening)");
my $patient = SinkDriver->new('redis', @at, timeout => 300);
$redis->signal('CONT');
open_ok($patient);
$redis->signal('STOP');
$call = $patient->fill(1, 'stalled', 1, 1)->send;
is("$call->{verdict} $call->{error}", 'retry_sink no answer in time', 'a server that hangs for longer than the timeout');
cmp_ok($call->{ms}, '<', 600, '... is given up then');
$redis->signal('CONT');

# --- Servers that never stop talking
sub hostile_ok
{
	my ($name, $command, $answer, $pause, $wanted) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $server = HostileServer->redis($command, sub {
		my ($connection) = @_;
		print $connection $answer->[0];
		HostileServer::repeat($connection, $answer->[1], $pause);
	});
	my $driver = SinkDriver->new('redis', $server->at, timeout => 1000);
	my $done = $driver->open;
	if ($done =~ /^opened/)
	{
		my $sent = $driver->fill(1, 'x', 1, 1)->send;
		$done = "$sent->{verdict} $sent->{ms} $sent->{error}";
	}
	like($done, $wanted, "$name: $done");
	my $stopped = SinkDriver->new('redis', $server->at);
	if ($stopped->stop_after(300)->open =~ /^opened/)
	{
		my $sent = $stopped->stop_after(300)->fill(1, 'x', 1, 1)->send;
		cmp_ok($sent->{ms}, '<', 1500, "... stops ($sent->{ms} ms, $sent->{error})");
	}
	return;
}
hostile_ok('an answer that drips', qr/XINFO/, [ "+OK\r\n\$100000000\r\n", 'x' ], 0.01, qr/^retry_sink 1\d\d\d no answer in time/);
hostile_ok('an array that drips', qr/XINFO/, [ "+OK\r\n*100000000\r\n", ":1\r\n" ], 0.01, qr/^retry_sink 1\d\d\d no answer in time/);
hostile_ok('an answer without end', qr/XINFO/, [ "+OK\r\n\$500000000\r\n", 'x' x 65536 ], 0, qr/^retry_sink \d+ the server's answer is too large/);
hostile_ok('a status without end', qr/XINFO/, [ '+', 'x' x 65536 ], 0, qr/^retry_sink 1?\d{3} (no answer in time|the server's answer is too large)/);
for my $case ([ 'a PING', qr/PING/ ], [ 'a CLIENT', qr/CLIENT/ ])
{
	my $server = HostileServer->redis($case->[1], sub { HostileServer::repeat($_[0], '+', 0.01) });
	my $opened = SinkDriver->new('redis', $server->at)->stop_after(300)->open;
	like($opened, qr/^failed retry_sink [1-9]?\d\d /, "a server that answers $case->[0] without end does not keep the process from stopping: $opened");
}
for my $pause (0, 0.001)
{
	my $server = HostileServer->redis(qr/PING/, sub {
		my ($connection) = @_;
		print $connection "+PONG\r\n";
		sysread $connection, my $client, 65536;
		print $connection "+OK\r\n";
		sysread $connection, my $ping, 65536;
		print $connection "\$60000000000\r\n";
		HostileServer::repeat($connection, 'x' x 1000, $pause);
	});
	my $driver = open_ok(SinkDriver->new('redis', $server->at));
	my ($well, $ms) = (split ' ', $driver->idle)[ 1, 2 ];
	cmp_ok($ms, '<', 1000, "nor does it when it is idle ($well after $ms ms)");
}

# --- A transaction of which a command fails has done the others
my $torn = HostileServer->redis(qr/EXEC/, sub {
	my ($connection) = @_;
	print $connection "+OK\r\n", "+QUEUED\r\n" x 3, "*3\r\n-WRONGTYPE no stream\r\n\$3\r\n2-0\r\n\$3\r\n3-0\r\n";
	sleep 10;
});
$call = open_ok(SinkDriver->new('redis', $torn->at))->message(1, 'a', 'x', 'K', '', '1')->message(2, 'b', 'y', 'K', '', '2')
  ->message(3, 'c', 'y', 'L', '', '3')->send;
is(join(' ', map { $call->{verdict_of}{$_} } 1 .. 3), 'retry_message ok ok', 'what has been done is taken, also behind a message that is not');

# --- A server that repeats what it was told
my $parrot = HostileServer->redis(qr/AUTH/, sub {
	my ($connection) = @_;
	print $connection "-ERR unknown command `AUTH`, with args beginning with: `shop`, `hush-hush`, \r\n";
	sleep 10;
});
for my $user ([], [ user => 'shop' ])
{
	my $refused = SinkDriver->new('redis', $parrot->at, @$user, password => 'hush-hush')->open;
	like($refused, qr/^failed fatal \d+ ERR/, 'a server that does not know AUTH');
	unlike($refused, qr/hush|shop/, '... does not tell the password');
}

# --- Killed in the middle, again and again: all arrive once, in order.
my $survivor = SinkDriver->new('redis', @at);
my $next = 1;
my $kills = 0;
my $opened = 0;
while ($next <= 6000)
{
	$opened ||= $survivor->open =~ /^opened/;
	$survivor->fill(600, 'killed', 7, $next)->begin('send');
	if ($kills < 8)
	{
		sleep rand(0.02);
		$redis->stop('KILL');
		$kills++;
	}
	$call = $survivor->sent;
	# The cursor stands behind what was taken before the first that was not.
	$next++ while ($call->{verdict_of}{$next} // '') eq 'ok';
	next if $call->{verdict} eq 'ok' && $redis->pid;
	$survivor->close;
	$opened = 0;
	$redis->start unless $redis->pid;
}
is($kills, 8, 'the server was killed several times');
is(join(' ', positions('inventory:killed')), join(' ', 1 .. $next - 1),
	'every message is there once, in order');

done_testing();
