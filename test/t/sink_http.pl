# Webhooks from end to end: events come to a receiver, signed and in order,
# whatever it answers; a receiver that hangs holds nothing up; and no secret
# shows anywhere.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use File::Temp;
use JSON::PP;
use PostgreSQL::Test::Utils;
use WebhookDriver;
use Test::More;
use Time::HiRes qw(sleep time);
use WebhookServer;

plan skip_all => 'the webhook sink was not built' unless WebhookDriver::library('http');

my $folder = PostgreSQL::Test::Utils::tempdir();
my $secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
my $old_secret = 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD';
my $receiver = WebhookServer->new("$folder/requests", '--secret', $secret);
my $other = WebhookServer->new("$folder/other");
mkdir "$folder/secrets", 0700;
append_to_file("$folder/secrets/hook", "$secret\n");
chmod 0600, "$folder/secrets/hook";

my $node = new_node('http', conf => <<"CONF");
autovacuum = off
restart_after_crash = on
max_worker_processes = 40
inventory.http_allow = '127.0.0.1'
inventory.secret_dir = '$folder/secrets'
CONF
my $url = $receiver->url;
$node->safe_psql('postgres', <<"SQL");
CREATE ROLE shop LOGIN;
CREATE ROLE stranger LOGIN;
SELECT inventory.grant_access('shop', 'manager'), inventory.grant_access('stranger', 'manager');
GRANT USAGE ON FOREIGN DATA WRAPPER inventory_http TO shop;
CREATE SERVER hook FOREIGN DATA WRAPPER inventory_http OPTIONS (url '$url', timeout '1 s', max_in_flight '4');
GRANT USAGE ON FOREIGN SERVER hook TO shop;
CREATE USER MAPPING FOR shop SERVER hook OPTIONS (url 'https://elsewhere.invalid/', secret_file 'hook', user 'hook-user', password 'hook-password', "header.X-Key" 'hook-key');
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) SELECT 'sku-' || n FROM generate_series(0, 9) n;
SQL

sub until_true
{
	my ($condition, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "SELECT $condition"), $name)
	  || diag $node->safe_psql('postgres', 'SELECT * FROM inventory.stat_delivery');
}

sub receive
{
	my ($sku, $metadata) = @_;
	return $node->safe_psql('postgres', sprintf q{SELECT inventory.receive('sku-%s', 'L', 1, metadata => '%s')},
		$sku, encode_json($metadata // {}));
}

# The requests about an event.
sub about
{
	my ($event) = @_;
	return grep { ($_->{headers}{'ce-messagenumber'} // 0) == $event } $receiver->requests;
}

# Waits until an event has come in so many times.
sub comes
{
	my ($event, $times, $name) = @_;
	my $end = time() + 60;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	sleep 0.05 until scalar(() = about($event)) >= $times || time() > $end;
	return is(scalar(() = about($event)), $times, $name)
	  || diag $node->safe_psql('postgres', 'SELECT * FROM inventory.stat_delivery');
}

sub comes_structured
{
	my ($topic, $name) = @_;
	my $end = time() + 60;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	sleep 0.05 until (grep { $_->{body} =~ /"$topic"/ } $receiver->requests) || time() > $end;
	return is(scalar(grep { $_->{body} =~ /"$topic"/ } $receiver->requests), 1, $name);
}

# Who may

sub refused_to
{
	my ($role, $sql, $sqlstate, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return refused($node, "SET ROLE $role; $sql", $sqlstate, $name);
}
my $subscribe = q{SELECT inventory.subscribe('shop', ARRAY['inventory.event.*'], 'hook')};
refused_to('stranger', $subscribe, '42501', 'who has no USAGE on the server does not subscribe');
refused_to('shop', q{SELECT inventory.subscribe('shop', ARRAY['inventory.event.*'], 'hook', '{"secret": "x"}')}, 'HV00D', 'a secret is no option of a subscription');
refused_to('shop', q{SELECT inventory.subscribe('shop', ARRAY['inventory.event.*'], 'hook', '{"max_in_flight": 5}')}, '22023', 'nor is what the server sets');
refused_to('shop', q{SELECT inventory.subscribe('shop', ARRAY['inventory.event.*'], 'hook', '{"mode": "other"}')}, '22023', 'values are checked');
$node->safe_psql('postgres', "SET ROLE shop; $subscribe");

# What comes

my $event = receive(1);
comes($event, 1, 'an event comes to the receiver, where the server says, not the mapping');
my ($request) = about($event);
is($request->{verified}, 1, 'signed with the secret in the file');
is($request->{headers}{'ce-subscription'}, 'shop', 'with the name of the subscription');
is($request->{headers}{'ce-type'}, 'inventory.event.receive', 'the topic');
is($request->{headers}{'ce-subject'}, 'sku-1@L', 'the key');
is($request->{headers}{'x-key'}, 'hook-key', 'a header of the mapping');
is($request->{headers}{authorization}, 'Basic aG9vay11c2VyOmhvb2stcGFzc3dvcmQ=', 'and the user');
is(decode_json($request->{body})->{event_id}, $event, 'and the event as the body');

my $message = $node->safe_psql('postgres', q{SET ROLE shop; SELECT inventory.subscribe('own', ARRAY['shop.#'], 'hook', '{"mode": "structured"}');
	RESET ROLE; SELECT inventory.publish('shop.order.paid', 'order-1', '{"total": 12}', '{"x-trace": "4711", "authorization": "none"}')});
$message =~ s/^.*\n//s;
comes_structured('shop.order.paid', 'a published message comes');
($request) = grep { $_->{body} =~ /shop.order.paid/ } $receiver->requests;
my $envelope = decode_json($request->{body});
is_deeply($envelope->{data}, { total => 12 }, 'in structured mode the body is the CloudEvent, with the payload as data');
is($envelope->{subscription}, 'own', 'and the subscription among its attributes');
is($envelope->{messagenumber}, $message, 'and its number');
is($request->{headers}{'webhook-id'}, $envelope->{id}, 'its id is the webhook\'s');
is($request->{headers}{'x-trace'}, '4711', 'its headers are sent');
is($request->{headers}{authorization}, 'Basic aG9vay11c2VyOmhvb2stcGFzc3dvcmQ=', 'but none of them replaces the credentials');
is($request->{verified}, 1, 'and it is signed');
$node->safe_psql('postgres', q{SET ROLE shop; SELECT inventory.unsubscribe('own')});
$receiver->forget;

my $rolled_back = $node->safe_psql('postgres', q{BEGIN; SELECT inventory.receive('sku-1', 'L', 1); ROLLBACK;});
$event = receive(1);
comes($event, 1, 'the next one comes');
is(scalar(() = about($rolled_back)), 0, 'but nothing that was rolled back');

$event = receive(2, { answer => 400 });
until_true("EXISTS (SELECT FROM inventory.dead_letter WHERE payload ->> 'event_id' = '$event' AND last_error = 'the answer was 400')", '400 makes a dead letter at once');

my $first = receive(3, { answer => [ 409, 409, 200 ] });
my $second = receive(3);
my $beside = receive(4);
comes($beside, 1, 'while one key waits after 409, others go on');
comes($first, 3, 'it is tried again until it is taken');
comes($second, 1, 'and then the one behind it');
is_deeply([ map { $_->{headers}{'ce-messagenumber'} } grep { $_->{headers}{'ce-subject'} eq 'sku-3@L' } $receiver->requests ],
	[ $first, $first, $first, $second ], 'the key is in order');
my %same = map { (join(" ", @{ $_->{headers} }{qw(webhook-id ce-sequence)}) => 1) } about($first);
is(scalar(keys %same), 1, 'it has the same id and sequence each time');

$event = receive(5, { answer => [ 503, 200 ], after => 1 });
comes($event, 2, '503 is tried again');
my @times = map { $_->{at} } about($event);
cmp_ok($times[1] - $times[0], '>=', 0.9, 'not before Retry-After');
$event = receive(5, { answer => [ 'stall', 200 ] });
comes($event, 2, 'a request that gets no answer is made again');
until_true("NOT EXISTS (SELECT FROM inventory.parked)", 'nothing is left parked');

my $poison = receive(6, { answer => 500 });
until_true("EXISTS (SELECT FROM inventory.parked WHERE payload ->> 'event_id' = '$poison' AND last_error = 'the answer was 500')", 'one that is answered 500, alone, is parked after some tries');
$event = receive(7);
comes($event, 1, 'and others go on');
until_true("EXISTS (SELECT FROM inventory.parked WHERE payload ->> 'event_id' = '$poison' AND attempts >= 3)", 'its attempts are counted');
$event = receive(7);
comes($event, 1, 'and others still go on');
$node->safe_psql('postgres', "SET ROLE shop; SELECT inventory.skip('shop', position), inventory.discard('shop') FROM inventory.parked WHERE payload ->> 'event_id' = '$poison'");
until_true("NOT EXISTS (SELECT FROM inventory.parked)", 'nothing is left parked then');

# A receiver that is stopped and comes back

$receiver->stop;
$receiver->forget;
my @missed = map { receive($_ % 10) } 1 .. 40;
until_true(q{(SELECT state = 'backoff' AND last_error LIKE '%connect%' FROM inventory.stat_delivery)}, 'a receiver that is gone is seen');
is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.parked'), 0, 'and nothing is parked');
$receiver->start;
comes($missed[-1], 1, 'when it is back, all comes');
until_true("(SELECT backlog = 0 AND state = 'idle' FROM inventory.stat_delivery)", 'and the subscription has caught up');
my %came;
push @{ $came{ $_->{headers}{'ce-subject'} } }, $_->{headers}{'ce-messagenumber'} foreach $receiver->requests;
is_deeply(\%came, { map { my $sku = $_; ("sku-$sku\@L" => [ map { $missed[$_] } grep { ($_ + 1) % 10 == $sku } 0 .. 39 ]) } 0 .. 9 },
	'once each, and each key in order');

# kill -9 in the middle

$receiver->forget;
my @many = map { receive($_ % 10, { delay => 0.02 }) } 1 .. 60;
kill 9, $node->safe_psql('postgres', 'SELECT pid FROM inventory.stat_delivery');
$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
until_true("(SELECT backlog = 0 AND state = 'idle' AND position > 0 FROM inventory.stat_delivery)", 'after kill -9 of the delivery process it goes on');
comes($many[-1], scalar(() = about($many[-1])) || 1, 'up to the last event');
my (%ids, %sequences, %order);
foreach my $came ($receiver->requests)
{
	my ($number, $id, $sequence, $key) = @{ $came->{headers} }{qw(ce-messagenumber webhook-id ce-sequence ce-subject)};
	$ids{$number}{$id} = 1;
	$sequences{$number}{$sequence} = 1;
	push @{ $order{$key} }, $number unless grep { $_ == $number } @{ $order{$key} };
}
is_deeply([ sort { $a <=> $b } keys %ids ], \@many, 'nothing is lost');
is(scalar(grep { scalar(keys %$_) > 1 } values %ids, values %sequences), 0, 'what comes twice has the same id and sequence');
is(scalar(grep { "@$_" ne join ' ', sort { $a <=> $b } @$_ } values %order), 0, 'and each key is in order');

# Changes take effect by themselves

my $other_url = $other->url;
$node->safe_psql('postgres', "ALTER SERVER hook OPTIONS (SET url '$other_url')");
$event = receive(1);
my $end = time() + 30;
sleep 0.05 until $other->requests || time() > $end;
is(($other->requests)[-1]{headers}{'ce-messagenumber'}, $event, 'another URL is used from the next message on');
$node->safe_psql('postgres', "ALTER SERVER hook OPTIONS (SET url '$url')");

append_to_file("$folder/secrets/new", "$old_secret\n$secret\n");
chmod 0600, "$folder/secrets/new";
rename "$folder/secrets/new", "$folder/secrets/hook";
$node->safe_psql('postgres', q{SET ROLE shop; SELECT inventory.pause('shop'); SELECT inventory.resume('shop')});
$event = receive(1);
comes($event, 1, 'with another secret in the file');
is((about($event))[0]{verified}, 2, 'there are two signatures');

my $strict = WebhookServer->new("$folder/strict", '--secret', $secret, '--strict');
my $strict_url = $strict->url;
$node->safe_psql('postgres', "ALTER SERVER hook OPTIONS (SET url '$strict_url')");
receive(1);
until_true("(SELECT state = 'broken' AND last_error = 'the answer was 401' FROM inventory.stat_delivery)", 'a receiver that does not know the first secret refuses everything');
append_to_file("$folder/secrets/new", "$secret\n");
chmod 0600, "$folder/secrets/new";
rename "$folder/secrets/new", "$folder/secrets/hook";
until_true("(SELECT backlog = 0 AND state = 'idle' FROM inventory.stat_delivery)", 'until there is another one in the file, which is read again');
$node->safe_psql('postgres', "ALTER SERVER hook OPTIONS (SET url '$url')");

sub breaks
{
	my ($break, $error, $heal, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$break->();
	my $lost = receive(1);
	until_true("(SELECT state = 'broken' AND last_error LIKE '$error' FROM inventory.stat_delivery)", $name);
	is(scalar(() = about($lost)), 0, 'and nothing is sent');
	$heal->();
	$node->safe_psql('postgres', q{SET ROLE shop; SELECT inventory.pause('shop'); SELECT inventory.resume('shop')});
	comes($lost, 1, 'when it has been put right, all comes');
	return;
}
sub by_sql { my ($sql) = @_; return sub { $node->safe_psql('postgres', $sql) } }
breaks(by_sql('REVOKE USAGE ON FOREIGN SERVER hook FROM shop'), '%permission denied for foreign server hook%', by_sql('GRANT USAGE ON FOREIGN SERVER hook TO shop'),
	'whoever loses the right on the server is sent nothing more');
breaks(sub { chmod 0640, "$folder/secrets/hook"; by_sql("ALTER SERVER hook OPTIONS (SET timeout '2 s')")->() }, '%secret file%', sub { chmod 0600, "$folder/secrets/hook" },
	'a secret that others may read is not used');
breaks(sub { rename "$folder/secrets/hook", "$folder/outside"; symlink "$folder/outside", "$folder/secrets/hook"; by_sql("ALTER SERVER hook OPTIONS (SET timeout '1 s')")->() }, '%secret file%',
	sub { rename "$folder/outside", "$folder/secrets/hook" }, 'nor one outside of the directory');
breaks(sub { $node->adjust_conf('postgresql.conf', 'inventory.http_allow', q{'10.0.0.1'}); $node->reload }, '%private address%',
	sub { $node->adjust_conf('postgresql.conf', 'inventory.http_allow', q{'127.0.0.1'}); $node->reload }, 'an address that is no longer allowed is not connected to');
breaks(by_sql("ALTER SERVER hook OPTIONS (SET url 'http://127.0.0.1:1/', ADD ca_file '/nonexistent'); ALTER SERVER hook RENAME TO hidden"), '%server "hook" does not exist%',
	by_sql("ALTER SERVER hidden RENAME TO hook; ALTER SERVER hook OPTIONS (DROP ca_file, SET url '$url')"), 'a server that is gone is missed');

# A receiver that hangs holds nothing up

sub hangs
{
	my ($database) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, <<"SQL");
CREATE EXTENSION inventory;
CREATE SERVER slow FOREIGN DATA WRAPPER inventory_http OPTIONS (url '$url', timeout '60 s');
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) VALUES ('A');
SELECT inventory.subscribe('slow', ARRAY['#'], 'slow');
SELECT inventory.receive('A', 'L', 1, metadata => '{"answer": "stall"}');
SQL
	my $until = time() + 30;
	sleep 0.02 until time() > $until || grep { $_->{headers}{'ce-source'} =~ /:$database$/ } $receiver->requests;
	ok((grep { $_->{headers}{'ce-source'} =~ /:$database$/ } $receiver->requests), "a request of $database hangs");
	return;
}
sub at_once
{
	my ($done, $name) = @_;
	my $began = time();
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($done->(), '', $name);
	return cmp_ok(time() - $began, '<', 2, sprintf('in under two seconds (%.2f)', time() - $began));
}
sub by { my ($database, $sql) = @_; return sub { my (undef, undef, $err) = $node->psql($database, $sql); return $err } }
hangs('one');
at_once(by('postgres', 'DROP DATABASE one'), 'a database is dropped');
hangs('two');
at_once(by('two', 'SET client_min_messages = warning; SET inventory.allow_drop = on; DROP EXTENSION inventory CASCADE'), 'the extension is dropped');
hangs('three');
at_once(by('three', q{SELECT inventory.pause('slow')}), 'a subscription is paused');
at_once(by('three', q{SELECT inventory.unsubscribe('slow')}), 'and removed');
hangs('four');
at_once(by('postgres', 'ALTER DATABASE four RENAME TO five'), 'a database is renamed');
hangs('six');
at_once(
	sub {
		$node->safe_psql('postgres', 'ALTER SYSTEM SET inventory.workers = off');
		$node->reload;
		$node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'inventory delivery')});
		return '';
	},
	'workers are switched off');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET inventory.workers');
$node->reload;
hangs('seven');
at_once(sub { $node->stop('fast'); return '' }, 'the server is stopped');
$node->start;

# Secrets stay secret

my $log = slurp_file($node->logfile);
like($log, qr/delivery of subscription/, 'the log tells of failures');
unlike($log, qr/whsec_|aG9vay11c2Vy|hook-key/, 'and no secrets');
unlike($log =~ s/^.*CREATE USER MAPPING.*$//mgr, qr/hook-password/, 'but in the statements that set them, if those are logged');
is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT row_to_json(x)::text AS t FROM inventory.stat_delivery x UNION ALL SELECT row_to_json(x)::text FROM inventory.subscription x
	UNION ALL SELECT row_to_json(x)::text FROM inventory.parked_message x) y WHERE t ~ 'whsec_|hook-password|hook-key'}), 0, 'no view or table of the engine has any');
agrees($node, 'the stock agrees');
$node->stop;
done_testing();
