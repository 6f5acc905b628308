# The Kafka sink by itself, against brokers that refuse, stall, go away and come
# back: what it says of each message is true, and the order of a key holds.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use KafkaCluster;
use SinkDriver;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => KafkaCluster::missing() if KafkaCluster::missing();
my $seed = $ENV{INVENTORY_TEST_SEED} // int(time()) % 1_000_000;
srand($seed);
note "INVENTORY_TEST_SEED=$seed";

# Requests and errors of Kafka's protocol.
my ($PRODUCE, $METADATA, $INIT_PRODUCER) = (0, 3, 22);
my ($UNKNOWN_TOPIC, $NOT_LEADER, $TIMED_OUT, $TOO_LARGE, $NOT_ENOUGH_REPLICAS, $NO_TOPIC_RIGHT, $NO_CLUSTER_RIGHT, $OUT_OF_ORDER, $INVALID_RECORD) =
  (3, 6, 7, 10, 19, 29, 31, 45, 87);

my $cluster = KafkaCluster->new(3);
my $position = 0;
my $topics = 0;

# A process with the sink open, or with why it is not.
sub driver
{
	my (%options) = @_;
	my $driver = SinkDriver->new('kafka', brokers => $cluster->brokers, %options);
	$driver->{opened} = $driver->open;
	return $driver;
}

sub message
{
	my ($key, $topic, $payload, @headers) = @_;
	$position++;
	return [ $position, "message-$position-5d5", $topic, $key, '', $payload // "{\"n\":$position}", @headers ];
}

# Sends messages; what comes of them is the verdict of the call, and of each.
my $call;
sub transmit
{
	my ($driver, @messages) = @_;
	$driver->message(@$_) for @messages;
	$call = $driver->send;
	return $call->{verdict};
}

# Of the last call: position and verdict of each, or the positions of a verdict.
sub verdicts
{
	my ($verdict) = @_;
	my $of = $call->{verdict_of};
	return join ' ', map { defined $verdict ? $_ : "$_:$of->{$_}" }
	  grep { !defined $verdict || $of->{$_} eq $verdict } sort { $a <=> $b } keys %$of;
}

sub closing_ms { return (split ' ', $_[0]->close)[1]; }
sub positions { return map { $_->{headers}{ce_sequence} + 0 } @_; }
sub consumed { return $cluster->consumed($_[0]); }
sub order { return $cluster->order(@_); }
sub in_order { return scalar(my @kept = KafkaCluster::latest(consumed($_[0]))); }

# ---- Envelope ----

my $driver = driver(subscription => 'shop');
like($driver->{opened}, qr/^opened/, 'the sink opens');
transmit($driver, message('a', 't.envelope', '{"ä": 1}', 'trace=7', 'ce_id=forged', 'content-type=text/plain'),
	message('', 't.envelope', '{}'), message('b', 't.envelope', '\\N'));
is($call->{verdict}, 'ok', 'messages are sent');
is(verdicts(), '1:ok 2:ok 3:ok', 'and confirmed');
my %record = map { $_->{headers}{ce_sequence} + 0 => $_ } consumed('t.envelope');
is_deeply($record{1}{headers}, {
		'content-type' => 'application/json', ce_specversion => '1.0', ce_id => 'message-1-5d5', ce_source => 'urn:inventory:1:test',
		ce_type => 't.envelope', ce_subject => 'a', ce_time => '2026-01-02T03:04:05.678901Z', ce_partitionkey => 'a',
		ce_sequence => '00000000000000000001', ce_messagenumber => '1', ce_subscription => 'shop', trace => '7' },
	'a message is a CloudEvent in binary mode, with the publisher\'s headers, which cannot forge it');
utf8::encode($record{1}{payload});
is("$record{1}{key} $record{1}{payload}", 'a {"ä": 1}', 'its key and payload are as they were');
ok(!defined $record{2}{key} && !exists $record{2}{headers}{ce_subject}, 'a message without a key has none');
ok(!defined $record{3}{payload} && !exists $record{3}{headers}{'content-type'}, 'one without a payload is a tombstone');
# All but those that nobody can block, and the C library's own.
my (undef, @blocked) = split ' ', $driver->signals;
is(join(' ', @blocked), join(' ', ('fffffffe7ffbfeff') x 5), 'no thread of the client lets a signal in');
like($driver->idle, qr/^idle 1 /, 'the sink can idle');

# ---- Errors that pass ----

for my $error ($NOT_LEADER, $TIMED_OUT, $NOT_ENOUGH_REPLICAS)
{
	my $topic = 't.passing' . ++$topics;
	order("topic $topic 4", "errors $PRODUCE 3 $error");
	my @keys = map { 'k' . int(rand(10)) } 1 .. 300;
	transmit($driver, (map { message($_, $topic) } @keys));
	is($call->{verdict}, 'ok', "error $error of a broker passes");
	my @records = consumed($topic);
	is(scalar @records, 300, 'each message is there once');
	is(in_order($topic), 300, 'and its key in order');
}

# ---- Messages that cannot be taken ----

my $small = driver(max_message_size => 2000, topic => 't.small');
my $first = $position + 1;
transmit($small, message('a', 'x'), message('a', 'x', '"' . 'x' x 3000 . '"'), message('a', 'x'), message('b', 'x'));
is($call->{verdict}, 'ok', 'a message that is too large says nothing of the sink');
is(verdicts(), join(' ', map { $first + $_->[0] . ":$_->[1]" } [ 0, 'ok' ], [ 1, 'fail_message' ], [ 2, 'not_sent' ], [ 3, 'ok' ]),
	'it can never be taken, what is behind it is not sent, other keys are');
$small->close;
$small->end;

# A refused batch: once, then each message alone.
order('topic t.batch 1', "errors $PRODUCE 1 $TOO_LARGE");
transmit($driver, (map { message('k' . $_ % 3, 't.batch') } 1 .. 30));
is("$call->{verdict} " . verdicts('ok'), 'ok ' . join(' ', $position - 29 .. $position), 'of a refused batch, every message that the brokers take alone is sent');
is(in_order('t.batch'), 30, 'in order');
# Twice: the first message is the one that is meant.
order('topic t.batch2 1', "errors $PRODUCE 2 $INVALID_RECORD");
transmit($driver, (map { message('k' . $_ % 3, 't.batch2') } 0 .. 29));
is($call->{verdict}, 'ok', 'a refused message says nothing of the sink');
is(verdicts('fail_message'), $position - 29, 'the refused message is found');
is(verdicts('not_sent'), join(' ', map { $position - 29 + 3 * $_ } 1 .. 9), 'what is behind it is not sent');
is(join(' ', sort { $a <=> $b } positions(consumed('t.batch2'))), verdicts('ok'), 'the others are, once');
# Also when the key's next message goes to another topic.
order('topic t.one 1', 'topic t.other 1', "errors $PRODUCE 2 $INVALID_RECORD");
$first = $position + 1;
transmit($driver, message('k', 't.one'), message('k', 't.other'));
is(verdicts(), "$first:fail_message " . ($first + 1) . ':not_sent', 'nor what goes to another topic');
$first = $position + 1;
transmit($driver, message('k', 'x' x 250), message('k', 't.other'), message('l', 't.other'));
is(verdicts(), "$first:fail_message " . ($first + 1) . ':not_sent ' . ($first + 2) . ':ok', 'a name that Kafka cannot have for a topic');

# ---- Unknown topics ----

order('topic t.unknown 1', "topic_error t.unknown $UNKNOWN_TOPIC");
$first = $position + 1;
transmit($driver, message('k', 't.unknown'), message('k', 't.other'), message('l', 't.other'));
is("$call->{verdict} " . verdicts(), "ok $first:retry_message " . ($first + 1) . ':not_sent ' . ($first + 2) . ':ok', 'a message whose topic is not there is retried, the others go on');
my $fixed = driver(topic => 't.unknown');
transmit($fixed, message('k', 'x'));
is("$call->{verdict} " . verdicts(), "fatal $position:fatal", 'a topic that all messages go to must be there');
like($call->{error}, qr/topic/i, 'and is named as the error');
order('topic_error t.unknown 0');
transmit($fixed, message('k', 'x'));
is($call->{verdict}, 'ok', 'when it is, messages are sent');
$fixed->close;
$fixed->end;
my $found;
for (1 .. 20)
{
	transmit($driver, message('k', 't.unknown'));
	$found = verdicts('ok') and last;
	select undef, undef, undef, 1;
}
ok($found, 'also by the sink that has met it before');

# ---- Who may not ----

for my $case ([ $INIT_PRODUCER, $NO_CLUSTER_RIGHT ], [ $PRODUCE, $NO_TOPIC_RIGHT ])
{
	my ($request, $error) = @$case;
	my $refused = driver(topic => 't.rights');
	order("errors $request 1 $error");
	transmit($refused, message('k', 'x'));
	is($call->{verdict}, 'fatal', "error $error is a matter of configuration");
	like($call->{error}, qr/authori/i, "and says so: $call->{error}");
	transmit($refused, message('k', 'x'));
	is($call->{verdict}, 'ok', 'until it is put right');
	$refused->close;
	$refused->end;
}

# Of one topic among others, it is a matter of its messages.
order('topic t.denied 1', "errors $PRODUCE 1 $NO_TOPIC_RIGHT");
$first = $position + 1;
transmit($driver, message('k', 't.denied'), message('l', 't.denied'));
is("$call->{verdict} " . verdicts(), "ok $first:retry_message " . ($first + 1) . ':retry_message', 'a topic that may not be written to, among others, says something of its messages');
like($call->{error_of}{$first}, qr/authori/i, "and why: $call->{error_of}{$first}");
$first = $position + 1;
transmit($driver, message('k', 't.denied'), message('l', 't.other'));
is("$call->{verdict} " . verdicts(), "ok $first:ok " . ($first + 1) . ':ok', 'when it may be, they are sent, by a client that is of use');

# ---- Clients that come to their end ----

order("errors $PRODUCE 1 $OUT_OF_ORDER");
transmit($driver, (map { message('k' . $_ % 3, 't.end') } 0 .. 9));
note "out of order: $call->{verdict} $call->{error}";
transmit($driver, (map { message('k' . $_ % 3, 't.end') } 0 .. 9));
is($call->{verdict}, 'ok', 'a client that is of no use any more is replaced');

# ---- Brokers that go away, and come back where they were ----

order(map { "down $_" } 1 .. 3);
my $began = time;
transmit($driver, (map { message('k' . $_ % 3, 't.outage') } 0 .. 9));
is($call->{verdict}, 'retry_sink', "without brokers the sink is down: $call->{error}");
cmp_ok(time - $began, '<', 5, 'which it says soon');
is(verdicts('fail_message') . verdicts('retry_message') . verdicts('ok'), '', 'and nothing of the messages');
order(map { "up $_" } 1 .. 3);
$position -= 10;
transmit($driver, (map { message('k' . $_ % 3, 't.outage') } 0 .. 9));
is($call->{verdict}, 'ok', 'when they are back, it goes on');
is(in_order('t.outage'), 10, 'with what was not confirmed, in order');

# ---- Brokers that do not answer ----

my $patient = driver(timeout => 1500, topic => 't.stall');
transmit($patient, message('k', 'x'));
is($call->{verdict}, 'ok', 'as long as they answer');
$cluster->{run}->signal('STOP');
$began = time;
my @lines = map { message('k' . $_ % 3, 'x') } 1 .. 20;
transmit($patient, @lines);
is($call->{verdict}, 'retry_sink', "brokers that do not answer: $call->{error}");
cmp_ok(time - $began, '<', 4, 'are given up after the timeout');
$patient->stop_after(300);
$began = time;
transmit($patient, @lines);
is($call->{verdict}, 'retry_sink', 'a process that is to stop');
cmp_ok(time - $began, '<', 2, 'does not wait for them');
$patient->stop_after(-1);
$patient->stop_after(200);
transmit($patient, @lines);
cmp_ok(closing_ms($patient), '<', 1000, 'nor does the end');
$patient->stop_after(-1);
$cluster->{run}->signal('CONT');
$patient->open;
transmit($patient, @lines);
is($call->{verdict}, 'ok', 'when they answer again, it goes on');
is(in_order('t.stall'), 21, 'with every message, in order');
$patient->close;
$patient->end;

# ---- Nobody there ----

for my $brokers ('127.0.0.1:1', 'nobody.invalid:9092')
{
	my $lost = driver(brokers => $brokers);
	$began = time;
	transmit($lost, message('k', 't.lost'));
	is($call->{verdict}, 'retry_sink', "nobody at $brokers: $call->{error}");
	cmp_ok(time - $began, '<', 15, 'which is found out in time');
	cmp_ok(closing_ms($lost), '<', 1000, 'and it closes within a second');
	$lost->end;
}

# ---- Options ----

my $wrong = driver(compression => 'secret-value');
like($wrong->{opened}, qr/^failed fatal/, 'a value that the client does not know');
unlike($wrong->{opened}, qr/secret-value/, 'is not repeated');
$wrong->end;
$wrong = driver(security_protocol => 'sasl_plaintext', user => 'me', password => 'secret-value', timeout => 3000);
like($wrong->{opened}, qr/^opened/, 'a user and a password');
transmit($wrong, message('k', 't.lost'));
isnt($call->{verdict}, 'ok', "that nobody there asks for: $call->{verdict} $call->{error}");
unlike($call->{error}, qr/secret-value/, 'are not in the error');
$wrong->end;
for my $compression (qw(none gzip snappy lz4 zstd))
{
	my $packed = driver(compression => $compression, topic => "t.$compression");
	transmit($packed, (map { message('k', 'x') } 1 .. 50));
	my @packed = consumed("t.$compression");
	is("$call->{verdict} " . @packed, 'ok 50', "compression $compression");
	$packed->end;
}

# ---- Everything at once ----

# As a delivery process does: what is not accepted is sent again, in order, until
# it is; of each key, nothing behind a failed message may be accepted.
my @keys = map { "key-$_" } 1 .. 12;
for my $case ([ 'one topic', 't.storm' ], [ 'several topics', 't.storm-a', 't.storm-b', 't.storm-c' ])
{
	my ($name, @to) = @$case;
	order(map { "topic $_ 5" } @to);
	my $storm = driver(timeout => 2000);
	my (@backlog, @overtaken);
	my $rounds = 0;
	$first = $position + 1;
	while ($position < $first + 800 || @backlog)
	{
		last if ++$rounds > 400;
		push @backlog, message($keys[ rand @keys ], $to[ rand @to ]) while @backlog < 20 && $position < $first + 800;
		my $luck = rand;
		order("errors $PRODUCE " . (1 + int(rand(3))) . ' ' . ($NOT_LEADER, $TIMED_OUT, $NOT_ENOUGH_REPLICAS, $OUT_OF_ORDER)[ rand 4 ]) if $luck < 0.2;
		order('down ' . (1 + int(rand(3)))) if $luck > 0.9;
		order(map { "up $_" } 1 .. 3) if $luck < 0.5;
		order("errors $PRODUCE 1 $TOO_LARGE") if $luck > 0.8 && $luck < 0.85;
		$storm->stop_after(int(rand(50))) if $luck > 0.7 && $luck < 0.75;
		transmit($storm, @backlog);
		$storm->stop_after(-1);
		my (@rest, %failed);
		for my $message (@backlog)
		{
			my ($number, $key) = @$message[ 0, 3 ];
			my $accepted = $call->{verdict_of}{$number} eq 'ok';
			push @overtaken, $number if $accepted && $failed{$key};
			next if $accepted;
			$failed{$key} = 1;
			push @rest, $message;
		}
		@backlog = @rest;
		$storm->close && $storm->open if $luck > 0.97;
	}
	order(map { "up $_" } 1 .. 3);
	my (@all, %seen);
	for my $topic (@to)
	{
		my @records = consumed($topic);
		push @all, @records;
		my @kept = KafkaCluster::latest(@records);
		$seen{$_}++ for positions(@kept);
	}
	note "$name: ", scalar(@all), " records in $rounds calls";
	is(join(' ', sort { $a <=> $b } keys %seen), join(' ', $first .. $position), "$name: through a storm of errors every message arrives, and in order of its key");
	is("@overtaken", '', "$name: none is accepted behind one of its key that is not");
	$storm->close;
	$storm->end;
}

cmp_ok(closing_ms($driver), '<', 1000, 'the sink closes within a second');
is($driver->signals, 'signals', 'and leaves no thread');
$driver->end;
$cluster->end;
done_testing();
