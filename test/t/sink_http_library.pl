# The webhook sink against a real HTTP server that fails, stalls and redirects:
# what each answer says of the message and of the sink.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use File::Temp;
use IO::Socket::INET;
use JSON::PP;
use WebhookDriver;
use Test::More;
use Time::HiRes qw(sleep time);
use WebhookServer;

plan skip_all => 'the webhook sink was not built' unless WebhookDriver::library('http');

my $folder = File::Temp->newdir('webhook-XXXXXX', TMPDIR => 1);
my $secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
my $old_secret = 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD';
my $server = WebhookServer->new("$folder/requests", '--secret', $secret);
my $driver = WebhookDriver->new('http');
my $count = 0;

sub reopen
{
	my (%options) = @_;
	$driver->close if $count++;
	return $driver->open(url => $server->url, allow => '127.0.0.1', secret => $secret, %options);
}

# Sends messages with these payloads, each with a key of its own.
sub post
{
	my (@payloads) = @_;
	my $n = 0;
	$server->forget;
	return $driver->send(map { $n++; [ "message-$count-$n", "key-$n", 'test.topic', encode_json($_) ] } @payloads);
}

sub verdicts
{
	my ($result) = @_;
	return join ' ', map { $result->{messages}{$_}{verdict} } sort keys %{ $result->{messages} };
}

sub comes_to
{
	my ($payloads, $sink, $messages, $name) = @_;
	my $result = post(@$payloads);
	is("$result->{verdict}: " . verdicts($result), "$sink: $messages", $name) or diag explain $result;
	return $result;
}

# What is sent

is(reopen(subscription => 'shop'), 'OK', 'the sink opens');
$driver->tell('message', 'message-7-2b', 'MUG@BERLIN', 'inventory.event.receive', '{"sku": "MUG"}',
	'x-trace=a b', 'content-type=text/evil', 'webhook-id=evil', 'ce-id=evil', 'Host=evil', 'empty=', "broken=a\rx: y", 'no name=x');
my $result = $driver->send;
is($result->{verdict}, 'OK', 'an answer of 200 takes the message');
my ($request) = $server->requests;
is($request->{method} . ' ' . $request->{path}, 'POST /hook', 'it is posted to the URL');
is($request->{body}, '{"sku": "MUG"}', 'the payload is the body, byte by byte');
my %headers = %{ $request->{headers} };
is($headers{'content-type'}, 'application/json', 'its type is JSON');
is_deeply({ map { $_ => $headers{$_} } grep { /^ce-/ } keys %headers },
	{
		'ce-specversion' => '1.0',
		'ce-id' => 'message-7-2b',
		'ce-source' => 'urn:inventory:1:test',
		'ce-type' => 'inventory.event.receive',
		'ce-subject' => 'MUG@BERLIN',
		'ce-partitionkey' => 'MUG@BERLIN',
		'ce-time' => '2026-11-20T12:00:00Z',
		'ce-sequence' => '00000000000000000001',
		'ce-subscription' => 'shop',
		'ce-messagenumber' => '1',
	},
	'the attributes are the CloudEvent\'s, and the publisher cannot replace them');
is($headers{'webhook-id'}, 'message-7-2b', 'the id is the webhook\'s id');
is($headers{'x-trace'}, 'a b', 'the publisher\'s headers are sent');
is($headers{'empty'}, '', 'also an empty one');
is($headers{'broken'}, 'a%0Dx: y', 'and none can add another');
is($headers{'host'}, '127.0.0.1:' . $server->port, 'none can replace what the sink sets');
ok(!exists $headers{'no name'} && !exists $headers{'expect'}, 'what is no name of a header is not sent');
is($request->{verified}, 1, 'the signature is right, as another program computes it');

$driver->tell('message', 'm2', "K\xc3\xa4se \"%", 'replayed', '{}');
$driver->send;
is(($server->requests)[-1]{headers}{'ce-subject'}, 'K%C3%A4se%20%22%25', 'attributes are percent-encoded');
is(($server->requests)[-1]{headers}{'ce-replayed'}, 'true', 'a replayed message says so');

reopen(mode => 'structured');
$driver->tell('message', 'm3', '', 't', '{"a": 1}');
$driver->send;
$request = ($server->requests)[-1];
is_deeply(decode_json($request->{body}),
	{ specversion => '1.0', id => 'm3', type => 't', source => 'urn:inventory:1:test', data => { a => 1 } },
	'in structured mode the body is the CloudEvent');
is($request->{headers}{'content-type'}, 'application/cloudevents+json; charset=UTF-8', 'with its type');
is($request->{verified}, 1, 'and the signature covers it');
is(scalar(grep { /^ce-/ } keys %{ $request->{headers} }), 0, 'there are no attributes in headers then');

reopen(secret => "$old_secret $secret");
comes_to([ {} ], 'OK', 'OK', 'with two secrets');
is(($server->requests)[0]{verified}, 2, 'there are two signatures');
reopen(secret => $old_secret);
post({});
is(($server->requests)[0]{verified}, 0, 'and with another secret a wrong one');
$driver->close;
is($driver->open(url => $server->url, allow => '127.0.0.1'), 'OK', 'without a secret');
post({});
ok(!exists +($server->requests)[0]{headers}{'webhook-signature'}, 'there is no signature');

reopen('header.X-Api-Key' => 'key-of-the-shop', bearer_token => 'a-bearer-token');
post({});
is(($server->requests)[0]{headers}{'x-api-key'}, 'key-of-the-shop', 'a header that was set is sent');
is(($server->requests)[0]{headers}{authorization}, 'Bearer a-bearer-token', 'and a token');
reopen(user => 'me', password => 'pass');
post({});
is(($server->requests)[0]{headers}{authorization}, 'Basic bWU6cGFzcw==', 'or a user and a password');

# What answers mean

reopen(timeout => 1000, max_in_flight => 1);
comes_to([ { answer => 201 } ], 'OK', 'OK', '2xx takes the message');
comes_to([ { answer => 400 }, {} ], 'OK', 'FAIL_MESSAGE OK', '400 refuses the message, and the next is sent');
comes_to([ { answer => $_ }, {} ], 'OK', 'FAIL_MESSAGE OK', "$_ as well") for 413, 415, 422;
comes_to([ { answer => $_ }, {} ], 'OK', 'RETRY_MESSAGE OK', "$_ puts the message off") for 404, 408, 409, 425;
comes_to([ { answer => $_ }, {} ], 'FATAL', 'FATAL NOT_SENT', "$_ stops the sink as misconfigured") for 401, 403, 410;
comes_to([ { answer => $_ }, {} ], 'RETRY_SINK', 'RETRY_SINK NOT_SENT', "$_ stops the sink for a while") for 429, 503;
$result = post({ answer => 429, after => 7 });
is($result->{messages}{"message-$count-1"}{retry_after}, 7000, 'Retry-After is honoured');
$result = post({ answer => 503, after => 1_000_000 });
is($result->{messages}{"message-$count-1"}{retry_after}, 3_600_000, 'up to an hour');
foreach my $after ('Fri, 20 Nov 2020 12:00:00 GMT', '-7', '9999999999999999999999', 'soon')
{
	my $wait = post({ answer => 503, after => $after })->{messages}{"message-$count-1"}{retry_after};
	ok($wait >= 0 && $wait <= 3_600_000, "nonsense is not: $after means $wait ms");
}
$result = post({ answer => 503 });
like($result->{error}, qr/^the answer was 503$/, 'the error says what the answer was');

# 500, a hang, a broken connection: of the message or of the sink?

foreach my $answer (500, 502, 504, 599, qw(close stall drip))
{
	comes_to([ { answer => $answer } ], 'RETRY_SINK', 'DOUBT', "$answer for the only message leaves it open");
	comes_to([ { answer => $answer }, {} ], 'OK', 'RETRY_MESSAGE OK', "$answer is the message's when another gets through");
	comes_to([ {}, { answer => $answer } ], 'OK', 'OK RETRY_MESSAGE', 'before or after it');
}
comes_to([ { answer => 500 }, { answer => 500 }, {} ], 'RETRY_SINK', 'DOUBT DOUBT NOT_SENT', 'so do two in a row');
comes_to([ {}, { answer => 500 }, { answer => 500 }, {} ], 'OK', 'OK RETRY_MESSAGE RETRY_MESSAGE NOT_SENT', 'two are the messages\' when another got through');
comes_to([ { answer => 400 }, { answer => 500 } ], 'OK', 'FAIL_MESSAGE RETRY_MESSAGE', 'whatever it was told');
comes_to([ {}, { answer => 500 }, { answer => 503 } ], 'RETRY_SINK', 'OK DOUBT RETRY_SINK', 'not when the sink says that it is down');
comes_to([ { answer => 500 }, { answer => 401 } ], 'FATAL', 'DOUBT FATAL', 'nor when it lets nobody in');
reopen(timeout => 1000, max_in_flight => 4);
$result = comes_to([ ({ answer => 'stall' }) x 2, ({}) x 6 ], 'OK', 'RETRY_MESSAGE RETRY_MESSAGE' . ' OK' x 6, 'slow ones that end last are the messages\', too');
reopen(timeout => 1000, max_in_flight => 1);
like(post({ answer => 502 })->{messages}{"message-$count-1"}{error}, qr/^the answer was 502$/, 'a message in doubt says why');
comes_to([ { answer => [ 500, 200 ] } ], 'RETRY_SINK', 'DOUBT', 'a message that got a 500');
is(verdicts($driver->send([ "message-$count-1", 'key-1', 't', '{"answer": [500, 200]}' ])), 'OK', 'is taken the next time');
$result = comes_to([ { answer => 'huge' } ], 'OK', 'OK', 'an endless answer of 200 has taken the message');
cmp_ok($result->{ms}, '<', 900, 'and is not read to its end');
comes_to([ { answer => 'drip after 200' } ], 'OK', 'OK', 'nor are its headers, when they drip');
comes_to([ { answer => 'half' } ], 'OK', 'OK', 'nor does half an answer matter');
$result = post({ answer => 'stall' });
cmp_ok($result->{ms}, '>', 900, 'the timeout is waited for');
cmp_ok($result->{ms}, '<', 1900, 'and no longer');

# Headers that are too large

foreach my $size (200_000, 700_000, 1_500_000)
{
	$driver->tell('message', 'large', 'k', 't', '{}', 'x-large=' . 'x' x $size);
	$driver->tell('message', 'small', 'l', 't', '{}');
	$result = $driver->send;
	is("$result->{verdict} $result->{messages}{large}{verdict} $result->{messages}{small}{verdict}",
		'OK FAIL_MESSAGE OK', "a message with $size bytes of headers is dead");
	like($result->{messages}{large}{error}, $size < 512 * 1024 ? qr/^the answer was 4\d\d$/ : qr/headers are larger than 512 KB/, 'and the error says why');
}

# Where it may go

my $other = WebhookServer->new("$folder/other");
comes_to([ { answer => 'redirect', to => $other->url } ], 'FATAL', 'FATAL', 'a redirect is a failure');
is(scalar(() = $other->requests), 0, 'and is not followed');

my $port = $server->port;
sub refuses
{
	my ($url, $name, %options) = @_;
	$server->forget;
	$driver->close if $count++;
	my $opened = $driver->open(url => $url, allow => '', %options);
	my $refused = $opened ne 'OK' ? { verdict => $opened, error => $opened } : $driver->send([ 'm', 'k', 't', '{}' ]);
	like("$refused->{verdict} $refused->{error}", qr/^FATAL.*(private|not https)/, $name);
	is(scalar(() = $server->requests), 0, 'nothing has come in');
	$driver->open(url => $url) if $opened ne 'OK';
	return;
}
refuses("http://127.0.0.1:$port/", 'the loopback address is refused');
refuses("http://$_:$port/", "also as $_") for qw(localhost 2130706433 0x7f.1 0177.0.0.1 127.1 0.0.0.0 [::1] [::ffff:127.0.0.1] [64:ff9b::7f00:1] [2002:7f00:1::]);
refuses("https://$_/", "$_ is refused") for qw(10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 224.0.0.1 240.0.0.1 255.255.255.255
  192.0.2.1 198.18.0.1 [fd00::1] [fe80::1] [ff02::1] [::] [fec0::1]);
$driver->tell('resolve', 'inside.test', '10.1.2.3');
refuses('https://inside.test/', 'a name with a private address is refused');
refuses('http://93.184.216.34/', 'and a public address without TLS');
refuses("http://127.0.0.1:$port/", 'another allowed network does not help', allow => '10.0.0.0/8, 127.0.0.2, *.test');
refuses("http://inside.test:$port/", 'nor does a name that is only the end of it', allow => '*.inside.test, nside.test');
$driver->tell('resolve', 'loop.test', '127.0.0.1');
foreach my $allow ('loop.test', 'LOOP.TEST.', '*.test', '127.0.0.0/8', '10.0.0.0/8, 127.0.0.1/32', 'x y,loop.test')
{
	$driver->close;
	$driver->open(url => "http://loop.test:$port/", allow => $allow =~ s/\.$//r);
	is($driver->send([ 'm', 'k', 't', '{}' ])->{verdict}, 'OK', "allowed by $allow");
}
$driver->close;
like($driver->open(url => 'ftp://example.com/', allow => ''), qr/^FATAL/, 'no other protocol');
like($driver->open(url => 'https://me:pass@example.com/', allow => ''), qr/^FATAL(?!.*pass\@)/, 'no password in the URL');
like($driver->open(url => 'https://example.com/', secret => 'whsec_short!'), qr/^FATAL(?!.*short)/, 'no secret that is none');

# No server

is($driver->open(url => 'http://nowhere.invalid/', allow => '*.invalid'), 'OK', 'a name that does not exist');
$result = $driver->send([ 'm', 'k', 't', '{}' ], [ 'n', 'l', 't', '{}' ]);
is($result->{verdict}, 'RETRY_SINK', 'is a sink that is down');
reopen();
my $url = $server->url;
comes_to([ {}, {} ], 'OK', 'OK OK', 'a server');
$server->stop;
$result = $driver->send([ 'a', 'k', 't', '{}' ]);
is($result->{verdict}, 'RETRY_SINK', 'that is stopped is a sink that is down');
like($result->{error}, qr/connect/, 'and the error says so');
$server->start;
is($driver->send([ 'a', 'k', 't', '{}' ])->{verdict}, 'OK', 'and when it comes back, messages are taken');

my $tidy = WebhookServer->new("$folder/tidy", '--idle', '0.2');
reopen(url => $tidy->url);
foreach my $n (1 .. 3)
{
	is($driver->send([ "a-$n", 'k', 't', '{}' ])->{verdict}, 'OK', "a receiver that closes idle connections takes message $n");
	sleep 0.5;
}
is(scalar(() = $tidy->requests), 3, 'each once');
$tidy->stop;

# Several at a time

reopen(max_in_flight => 3);
$result = comes_to([ map { { delay => 0.3 } } 1 .. 6 ], 'OK', 'OK OK OK OK OK OK', 'six messages, three in flight');
my @requests = $server->requests;
is((sort { $b <=> $a } map { $_->{under_way} } @requests)[0], 3, 'three are under way at a time');
cmp_ok($result->{ms}, '<', 1500, 'so they take the time of two');
my %connections = map { $_->{connection} => 1 } @requests;
is(scalar(keys %connections), 3, 'over three connections, which are kept');
post({}, {}, {}, {});
is(scalar(grep { !$connections{ $_->{connection} } } $server->requests), 0, 'also from one call to the next');
$server->forget;
foreach my $n (1 .. 20)
{
	$driver->send(map { [ "$_-$n", $_, 't', encode_json({ n => $n }) ] } 'a' .. 'f');
}
my %sent;
push @{ $sent{ $_->{headers}{'ce-subject'} } }, decode_json($_->{body})->{n} foreach $server->requests;
is_deeply(\%sent, { map { $_ => [ 1 .. 20 ] } 'a' .. 'f' }, 'and each key is in order');

# Secrets stay secret

my $silent = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die $!;
$driver->close;
$driver->open(url => 'http://127.0.0.1:' . $silent->sockport . '/very/secret/path', allow => '127.0.0.1', timeout => 300,
	secret => $secret, user => 'shop-user', password => 'shop-password', 'header.X-Key' => 'shop-header');
$result = $driver->send([ 'm', 'k', 't', '{}' ]);
is($result->{verdict}, 'RETRY_SINK', 'a sink that says nothing');
unlike($result->{error}, qr/secret|shop|whsec/, 'no secret is in the error');
$driver->close;
$driver->open(url => 'http://localhost:1/', allow => 'localhost 127.0.0.1 ::1', 'header.X-Key' => 'localhost');
unlike($driver->send([ 'm', 'k', 't', '{}' ])->{error}, qr/localhost/, 'even one that libcurl would write');

# Stopping

sub stops
{
	my ($name, %options) = @_;
	$driver->close;
	is($driver->open(allow => '127.0.0.1 *.test 240.0.0.0/4 192.0.2.0/24', timeout => 60000, connect_timeout => 60000, %options), 'OK', $name);
	$driver->tell('stop', 200);
	my $stopped = $driver->send([ 'm', 'k', 't', '{"answer": "stall"}' ], [ 'n', 'l', 't', '{"answer": "stall"}' ]);
	cmp_ok($stopped->{ms}, '<', 700, 'stops when it is told to');
	is("$stopped->{verdict} " . verdicts($stopped), 'RETRY_SINK NOT_SENT NOT_SENT', 'nothing was sent, as far as one knows');
	my $took = $driver->close;
	cmp_ok($took, '<', 300, 'and closes');
	$driver->open(url => $url);
	return;
}
stops('a server that does not answer', url => $url);
stops('one that does not speak TLS', url => 'https://127.0.0.1:' . $silent->sockport . '/');
$driver->tell('resolve', 'slow.test', 'slow');
stops('a name that does not resolve', url => 'https://slow.test/');
$driver->close;
$driver->open(url => 'https://slow.test/', allow => '', connect_timeout => 300, timeout => 1000);
$result = $driver->send([ 'm', 'k', 't', '{}' ]);
is($result->{verdict}, 'RETRY_SINK', 'a name that does not resolve is a sink that is down');
cmp_ok($result->{ms}, '<', 900, 'after the time for connecting');

# TLS

my $made = system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=hook.test -addext subjectAltName=DNS:hook.test"
	  . " -keyout $folder/key.pem -out $folder/certificate.pem >$folder/openssl.log 2>&1");
is($made, 0, 'a certificate');
my $tls = WebhookServer->new("$folder/tls", '--tls', "$folder/certificate.pem", "$folder/key.pem");
$driver->tell('resolve', 'hook.test', '127.0.0.1');
$driver->tell('resolve', 'wrong.test', '127.0.0.1');
my %tls = (url => 'https://hook.test:' . $tls->port . '/', allow => '127.0.0.0/8', ca_file => "$folder/certificate.pem");
sub tls
{
	my (%options) = @_;
	$driver->close;
	is($driver->open(%tls, %options), 'OK', 'https');
	my $sent = $driver->send([ 'm', 'k', 't', '{}' ]);
	return $sent->{verdict};
}
is(tls(), 'OK', 'with a certificate that is trusted');
is(tls(ca_file => '/etc/ssl/certs/ca-certificates.crt'), -e '/etc/ssl/certs/ca-certificates.crt' ? 'RETRY_SINK' : 'FATAL', 'not with one that is not');
is(tls(url => 'https://wrong.test:' . $tls->port . '/'), 'RETRY_SINK', 'nor with another name');
is(tls(ca_file => '/nonexistent'), 'FATAL', 'nor without authorities');
is(tls(url => 'https://127.0.0.1:' . $server->port . '/'), 'RETRY_SINK', 'nor with a server without TLS');
is(scalar(() = $tls->requests), 1, 'one message got there');

$driver->close;
ok($driver->finish, 'the driver ends well');
done_testing();
