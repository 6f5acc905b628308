# The library of the sink for RabbitMQ, without a database: what a server says,
# how it refuses, fails, stalls and comes back.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use HostileServer;
use InventoryTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RabbitMQServer;
use SinkDriver;
use Test::More;
use TestCertificates;
use Time::HiRes qw(sleep time);

plan skip_all => 'there is no rabbitmq-server' unless RabbitMQServer::available();

my $dir = PostgreSQL::Test::Utils::tempdir();
my $tls_port = PostgreSQL::Test::Cluster::get_free_port();
my $tls = make_certificates($dir);
my $rabbit = RabbitMQServer->new(conf => <<"CONF");
max_message_size = 200000
heartbeat = 10
listeners.ssl.1 = 127.0.0.1:$tls_port
ssl_options.cacertfile = $dir/ca.pem
ssl_options.certfile = $dir/server.pem
ssl_options.keyfile = $dir/server.key
ssl_options.verify = verify_none
CONF
my @at = (host => '127.0.0.1', port => $rabbit->port);

sub open_ok
{
	my ($driver, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($driver->open, qr/^opened/, $name // 'opened');
	return $driver;
}

# The payloads in a queue, which is empty then.
sub payloads { return map { $_->{body} } $rabbit->drain($_[0]); }

$rabbit->tool('amqp-declare-queue', '-d', '-q', $_) for qw(orders large killed);
$rabbit->control('eval',
	'X = rabbit_misc:r(<<"/">>, exchange, <<"shop">>), rabbit_exchange:declare(X, topic, true, false, false, [], <<"test">>),'
	  . ' Q = rabbit_misc:r(<<"/">>, queue, <<"orders">>),'
	  . ' rabbit_binding:add({binding, X, <<"order.#">>, Q, []}, <<"test">>).');

# --- A message
my $sink = open_ok(SinkDriver->new('rabbitmq', @at, exchange => 'shop', subscription => 'web'));
my $call = $sink->message(7, 'm7', 'order.new', 'k1', 'S', '{"a": 1}', 'trace=abc', 'cloudEvents_id=forged')
  ->message(8, 'm8', 'order.old', '', '', '2')->message(9, 'm9', 'nothing', 'k2', '', '3')->send;
is($call->{verdict}, 'ok', 'the call is done');
is("$call->{verdict_of}{7} $call->{verdict_of}{8} $call->{verdict_of}{9}", 'ok ok fail_message',
	'a message that goes to no queue is dead, the others are taken');
like($call->{error_of}{9}, qr/exchange "shop", routing key "nothing": NO_ROUTE/, '... and says where it went');
my @messages = $rabbit->drain('orders');
is_deeply($messages[0]{headers}, {
		'cloudEvents_specversion' => '1.0', 'cloudEvents_id' => 'm7', 'cloudEvents_source' => 'urn:inventory:1:test',
		'cloudEvents_type' => 'order.new', 'cloudEvents_subject' => 'k1', 'cloudEvents_partitionkey' => 'k1',
		'cloudEvents_time' => '2026-01-02T03:04:05.678901Z', 'cloudEvents_sequence' => '00000000000000000007',
		'cloudEvents_messagenumber' => '7', 'cloudEvents_subscription' => 'web',
		'x-deduplication-header' => 'm7', 'trace' => 'abc',
	}, 'the envelope is in the headers, and what the publisher gave is beside it');
is("@{ $messages[0] }{qw(id mode type)}", 'm7 2 application/json', 'it has its id, is persistent, and JSON');
is(join(' ', map { $_->{body} } @messages), '{"a": 1} 2', 'the payloads are as they were');

my $optional = open_ok(SinkDriver->new('rabbitmq', @at, exchange => 'shop', mandatory => 'off'));
is($optional->message(1, 'a', 'nothing', '', '', '1')->send->{verdict_of}{1}, 'ok',
	'without "mandatory", what goes nowhere counts as delivered');

# --- Messages that can never be sent
my $direct = open_ok(SinkDriver->new('rabbitmq', @at, routing_key => 'orders'));
$call = $direct->fill(20, 'x', 20, 1)->size(300_000)->message(21, 'big', 'x', 'k', '', '')->size(0)
  ->fill(20, 'x', 20, 22)->message(42, 'cc', 'x', 'l', '', '1', 'CC=nobody')->fill(20, 'x', 20, 43)->send;
is($call->{verdict}, 'ok', 'messages for which the server closes the channel');
is(join(' ', grep { $call->{verdict_of}{$_} ne 'ok' } sort { $a <=> $b } keys %{ $call->{verdict_of} }), '21 42',
	'... are found, and the others delivered');
is("$call->{verdict_of}{21} $call->{verdict_of}{42}", 'fail_message fail_message', '... and are dead');
like($call->{error_of}{21}, qr/message size 300000 .* larger/, '... for what the server says');
my %seen;
$seen{$_}++ for payloads('orders');
is(scalar keys %seen, 60, 'none is missing');
my $keyed = open_ok(SinkDriver->new('rabbitmq', @at, routing_key => '{key}'));
$call = $keyed->message(1, 'a', 'x', '', '', '1')->message(2, 'b', 'x', 'k' x 300, '', '1')
  ->message(3, 'c', 'x', 'orders', '', '1')->send;
is("$call->{verdict_of}{1} $call->{verdict_of}{2} $call->{verdict_of}{3}", 'fail_message fail_message ok',
	'a routing key that cannot be made or is too long');
$call = $keyed->message(4, 'd', 'x', 'orders', '', '1', 'long=' . 'y' x 200_000)->message(5, 'e', 'x', 'orders', '', '1')->send;
is("$call->{verdict_of}{4} $call->{verdict_of}{5}", 'fail_message not_sent', 'headers larger than a frame');
payloads('orders');
$call = $keyed->message(6, 'f', 'x', 'k' x 50_000_000, '', '1')->memory(10_000_000)->send;
is("$call->{verdict} $call->{verdict_of}{6} $call->{error}", 'retry_sink not_sent out of memory', 'without memory, no message is dead');
$keyed->memory(-1)->close;
open_ok($keyed);

# --- One key, many messages
$call = $direct->fill(300, 'x', 1, 1)->fill(300, 'x', 3, 301)->send;
is(scalar @{ $call->{ok} }, 600, 'messages of few keys are taken');
my %of_key;
push @{ $of_key{ $_->{headers}{cloudEvents_subject} } }, $_->{headers}{cloudEvents_sequence} for $rabbit->drain('orders');
is_deeply(\%of_key, { map { $_ => [ sort @{ $of_key{$_} } ] } keys %of_key }, '... each key in order');
is_deeply([ map { scalar @{ $of_key{$_} } } sort keys %of_key ], [ 400, 100, 100 ], '... all of them, once');
$call = $keyed->message(1, 'a', 'x', 'orders', '', '1')->message(2, 'b', 'x', 'nowhere', '', '2')
  ->message(3, 'c', 'x', 'nowhere', '', '3')->message(4, 'd', 'x', 'orders', '', '4')->send;
is(join(' ', map { $call->{verdict_of}{$_} } 1 .. 4), 'ok fail_message not_sent ok',
	'behind a message that is not taken, none of its key is sent');
payloads('orders');

# --- A queue that refuses
$rabbit->control('set_policy', 'small', '^full$', '{"max-length": 5, "overflow": "reject-publish"}');
$rabbit->tool('amqp-declare-queue', '-d', '-q', 'full');
sleep 1;
$call = open_ok(SinkDriver->new('rabbitmq', @at, routing_key => 'full'))->fill(50, 'x', 50, 1)->send;
my $refused = grep { $_ eq 'retry_message' } values %{ $call->{verdict_of} };
cmp_ok($refused, '>', 30, "what a full queue refuses is tried again ($refused of 50)");
is($refused + @{ $call->{ok} }, 50, '... and nothing else');
is($rabbit->depth('full'), scalar @{ $call->{ok} }, '... what was taken is there');

# --- Refused
like(SinkDriver->new('rabbitmq', @at, user => 'guest', password => 'hush')->open, qr/^failed fatal \d+ ACCESS_REFUSED/, 'a wrong password');
unlike(SinkDriver->new('rabbitmq', @at, user => 'guest', password => 'hush')->open, qr/hush/, '... is not told');
like(SinkDriver->new('rabbitmq', @at, vhost => 'none')->open, qr/^failed fatal \d+ NOT_ALLOWED/, 'a virtual host that does not exist');
like(SinkDriver->new('rabbitmq', @at, exchange => 'none')->open, qr/^failed fatal \d+ NOT_FOUND - no exchange 'none'/, 'an exchange that does not exist');
my $nobody = PostgreSQL::Test::Cluster::get_free_port();
like(SinkDriver->new('rabbitmq', port => $nobody)->open, qr/^failed retry_sink \d+ could not connect .*Connection refused/, 'nobody there');
$rabbit->control('add_user', 'poor', 'secret');
$rabbit->control('set_permissions', 'poor', '^$', '^$', '^$');
my $poor = open_ok(SinkDriver->new('rabbitmq', @at, user => 'poor', password => 'secret', exchange => 'shop'));
$call = $poor->message(1, 'a', 'order.new', 'k', '', '1')->send;
is($call->{verdict}, 'fatal', 'a user who may not publish');
like($call->{error}, qr/ACCESS_REFUSED/, '... is told');

# --- TLS
SKIP:
{
	skip 'there is no openssl', 4 unless $tls;
	my @secure = (port => $tls_port, tls => 'on', routing_key => 'orders');
	is(open_ok(SinkDriver->new('rabbitmq', @secure, ca_file => "$dir/ca.pem"))->fill(500, 'x', 500, 1)->send->{verdict},
		'ok', 'by TLS');
	is(open_ok(SinkDriver->new('rabbitmq', @secure, host => '127.0.0.1', ca_file => "$dir/ca.pem"))->fill(1, 'x', 1, 1)->send->{verdict},
		'ok', 'by TLS to an address');
	like(SinkDriver->new('rabbitmq', @secure, ca_file => "$dir/other.pem")->open,
		qr/^failed fatal \d+ the server's certificate is not trusted/, 'an authority that is not trusted');
	like(SinkDriver->new('rabbitmq', @secure)->open, qr/^failed fatal \d+ the server's certificate is not trusted/, '... nor by the system');
	is(open_ok(SinkDriver->new('rabbitmq', @secure, verify => 'off'))->fill(1, 'x', 1, 1)->send->{verdict}, 'ok', 'unless nobody asks');
	like(SinkDriver->new('rabbitmq', @at, tls => 'on')->open, qr/^failed retry_sink \d+ TLS failed/, 'where there is no TLS');
	payloads('orders');
}

# --- Idle, and heartbeats
my $resting = open_ok(SinkDriver->new('rabbitmq', @at, routing_key => 'orders', heartbeat => 1000));
for (1 .. 10)
{
	sleep 0.5;
	like($resting->idle, qr/^idle 1 \d$/, 'idle') if $_ > 8;
	$resting->idle;
}
is($resting->fill(1, 'x', 1, 1)->send->{verdict}, 'ok', 'heartbeats keep the connection');
$rabbit->control('close_all_connections', 'test');
like($resting->idle, qr/^idle 0/, 'idle notices that the connection is closed');
like($resting->fill(1, 'x', 1, 1)->send->{verdict}, qr/retry_sink/, '... and so does the next call');
payloads('orders');

# --- A server that is short of memory blocks who publishes.
my $blocked = open_ok(SinkDriver->new('rabbitmq', @at, routing_key => 'orders', timeout => 1500));
$rabbit->control('set_vm_memory_high_watermark', '0.00001');
$call = $blocked->fill(1, 'x', 1, 1)->send;
is($call->{verdict}, 'retry_sink', 'a server that is short of memory is down');
like($call->{error}, qr/takes no messages: low on memory/, '... and says why');
my $waiting = open_ok(SinkDriver->new('rabbitmq', @at, routing_key => 'orders'));
$waiting->fill(100, 'x', 100, 1)->begin('send');
sleep 1;
$rabbit->control('set_vm_memory_high_watermark', '0.4');
is($waiting->sent->{verdict}, 'ok', 'one that gets memory in time goes on');
payloads('orders');

# --- Stalled
my $stalled = open_ok(SinkDriver->new('rabbitmq', @at, routing_key => 'large'));
$rabbit->signal('STOP');
$stalled->stop_after(700)->size(100_000);
$call = $stalled->fill(200, 'x', 200, 1)->send;
is($call->{verdict}, 'retry_sink', 'a server that hangs');
cmp_ok($call->{ms}, '<', 1000, "... does not keep the process from stopping ($call->{ms} ms)");
like($stalled->close, qr/^closed [0-9]{1,2}$/, '... nor from closing');
my $opening = SinkDriver->new('rabbitmq', @at)->stop_after(500)->open;
like($opening, qr/^failed retry_sink [5-9]\d\d /, "a server that hangs while it is opened ($opening)");
$rabbit->signal('CONT');
my $patient = open_ok(SinkDriver->new('rabbitmq', @at, routing_key => 'large', timeout => 300));
$rabbit->signal('STOP');
$call = $patient->fill(1, 'x', 1, 1)->send;
is("$call->{verdict} $call->{error}", 'retry_sink no confirmation for 300 ms', 'a server that hangs for longer than the timeout');
cmp_ok($call->{ms}, '<', 600, '... is given up then');
$rabbit->signal('CONT');

# --- Servers that never stop talking
sub hostile_ok
{
	my ($name, $first, $again, $pause, $wanted) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $server = HostileServer->amqp(sub {
		print { $_[0] } $first;
		HostileServer::repeat($_[0], $again, $pause);
	});
	my $told = open_ok(SinkDriver->new('rabbitmq', $server->at, timeout => 1000))->fill(1, 'x', 1, 1)->send;
	like("$told->{verdict} $told->{ms} $told->{error}", $wanted, "$name: $told->{ms} ms, $told->{error}");
	my $stopped = open_ok(SinkDriver->new('rabbitmq', $server->at))->stop_after(300)->fill(1, 'x', 1, 1)->send;
	cmp_ok($stopped->{ms}, '<', 700, "... stops ($stopped->{ms} ms, $stopped->{error})");
	return;
}
my $late = qr/^retry_sink 1\d\d\d no confirmation for 1000 ms/;
hostile_ok('heartbeats', '', HostileServer::heartbeat(), 0.005, $late);
hostile_ok('heartbeats without a pause', '', HostileServer::heartbeat() x 1000, 0, $late);
hostile_ok('a frame that drips', substr(HostileServer::frame(3, 1, 'x' x 100_000), 0, 100), 'x', 0.01, $late);
hostile_ok('confirmations of what was not sent', '', HostileServer::ack(77) x 1000, 0, $late);
hostile_ok('frames that nobody needs', '', HostileServer::frame(3, 1, 'x' x 100) x 100, 0, $late);
for my $at ('10.11', '10.40', '85.10')
{
	my $server = HostileServer->amqp(sub { HostileServer::repeat($_[0], HostileServer::heartbeat(), 0.005) }, $at);
	my $opened = SinkDriver->new('rabbitmq', $server->at)->stop_after(300)->open;
	like($opened, qr/^failed retry_sink [1-9]?\d\d /, "nor does one that does while it is opened keep the process from stopping: $opened");
}
for my $frame (HostileServer::heartbeat() x 1000, HostileServer::frame(3, 1, 'x' x 1000) x 100)
{
	my $server = HostileServer->amqp(sub {
		my ($connection) = @_;
		print $connection HostileServer::ack(1);
		HostileServer::repeat($connection, $frame, 0);
	});
	my $driver = open_ok(SinkDriver->new('rabbitmq', $server->at));
	is($driver->fill(1, 'x', 1, 1)->send->{verdict}, 'ok', 'one that confirms');
	like($driver->idle, qr/^idle [01] \d{1,3}$/, '... does not when it is idle');
}

# --- Messages that come back as none should
sub returns_ok
{
	my ($name, $wanted, @frames) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $server = HostileServer->amqp(sub {
		print { $_[0] } @frames;
		sleep 10;
	});
	my $told = open_ok(SinkDriver->new('rabbitmq', $server->at, timeout => 3000))->message(1, 'm1', 'x', 'k', '', '1')
	  ->message(2, 'm2', 'x', 'l', '', '1')->send;
	is("$told->{verdict}: $told->{verdict_of}{1} $told->{verdict_of}{2}", $wanted, $name) or diag explain $told;
	return;
}
my @acks = map { HostileServer::ack($_) } 1, 2;
my $m1 = HostileServer::header(60, 1 << 7, pack('C/a', 'm1'));
returns_ok('a message that comes back', 'ok: fail_message ok', HostileServer::returned(), $m1, @acks);
returns_ok('a header of another class', 'retry_sink: not_sent not_sent', HostileServer::returned(), HostileServer::header(10, 0, ''), @acks);
returns_ok('a header without a message id', 'retry_sink: not_sent not_sent', HostileServer::returned(), HostileServer::header(60, 0, ''), @acks);
returns_ok('one with another\'s id', 'retry_sink: not_sent not_sent', HostileServer::returned(), HostileServer::header(60, 1 << 7, pack('C/a', 'm9')), @acks);
returns_ok('a header of what has not come back', 'ok: ok ok', $m1, @acks);
returns_ok('nor come back just before', 'ok: fail_message ok', HostileServer::returned(), $m1, HostileServer::header(60, 1 << 7, pack('C/a', 'm2')), @acks);
returns_ok('what comes back for good', 'ok: ok ok', HostileServer::returned(), @acks, $m1);

# --- Killed in the middle: all arrive, in order but for what comes twice.
my $survivor = SinkDriver->new('rabbitmq', @at, routing_key => 'killed');
my $next = 1;
my $kills = 0;
my $opened = 0;
while ($next <= 6000)
{
	$opened ||= $survivor->open =~ /^opened/;
	$survivor->fill(600, 'x', 600, $next)->begin('send');
	if ($kills < 3)
	{
		sleep rand(0.1);
		$rabbit->stop('KILL');
		$kills++;
	}
	$call = $survivor->sent;
	$next++ while ($call->{verdict_of}{$next} // '') eq 'ok';
	next if $call->{verdict} eq 'ok' && $rabbit->{pid};
	$survivor->close;
	$opened = 0;
	$rabbit->start unless $rabbit->{pid};
}
is($kills, 3, 'the server was killed several times');
my %first;
my @order = grep { !$first{$_}++ } map { /(\d+)/ } payloads('killed');
is(join(' ', sort { $a <=> $b } @order), join(' ', 1 .. $next - 1), 'every message is there');
note 'duplicates: ' . (grep { $_ > 1 } values %first);

done_testing();
