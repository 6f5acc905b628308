# The Kafka sink by itself, against brokers that refuse, stall, go away and come
# back: what it says of each message is true, and the order of a key holds.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventorySink;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
chomp(my $libraries = `$pg_config --pkglibdir`);
my $library = "$libraries/inventory_sink_kafka.so";
plan skip_all => 'built without librdkafka' unless -e $library;
plan skip_all => 'without kcat there is nothing to consume with' unless `which kcat`;
my $driver_program = compile('driver');
my $cluster_program = compile('kafka_cluster', 'rdkafka');
my $seed = $ENV{INVENTORY_TEST_SEED} // int(time()) % 1_000_000;
srand($seed);
note "INVENTORY_TEST_SEED=$seed";

# Requests and errors of Kafka's protocol.
my ($PRODUCE, $METADATA, $INIT_PRODUCER) = (0, 3, 22);
my ($UNKNOWN_TOPIC, $NOT_LEADER, $TIMED_OUT, $TOO_LARGE, $NOT_ENOUGH_REPLICAS, $NO_TOPIC_RIGHT, $NO_CLUSTER_RIGHT, $OUT_OF_ORDER, $INVALID_RECORD) =
  (3, 6, 7, 10, 19, 29, 31, 45, 87);

my $cluster = kafka_cluster($cluster_program, 3);
my $position = 0;
my $topics = 0;

sub driver
{
	my (%options) = @_;
	$options{brokers} //= $cluster->{brokers};
	my $driver = talk($driver_program, $library, map { "$_=$options{$_}" } sort keys %options);
	my ($word, $verdict, $error) = split /\t/, hear_from($driver), -1;
	@$driver{qw(verdict error)} = ($verdict, $error);
	return $driver;
}

sub message
{
	my ($key, $topic, $payload, @headers) = @_;
	$position++;
	return join "\t", 'message', $position, $key, $topic, $payload // "{\"n\":$position}", @headers;
}

# What consumers of a topic get, by partition and offset.
sub consumed
{
	my ($topic) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'kcat', '-b', $cluster->{brokers}, '-C', '-t', $topic, '-o', 'beginning', '-e', '-q', '-J' ], '>', \$out, '2>', \$err)
	  or die "kcat: $err";
	my @records = map { decode_json($_) } split /\n/, $out;
	for my $record (@records)
	{
		my @headers = @{ $record->{headers} };
		$record->{headers} = {@headers};
	}
	return sort { $a->{partition} <=> $b->{partition} || $a->{offset} <=> $b->{offset} } @records;
}

sub positions { return map { $_->{headers}{ce_sequence} + 0 } @_; }

# A consumer that drops what it has seen of a key: is the rest complete and in order?
sub deduplicated
{
	my (@records) = @_;
	my %last;
	return grep {
		my $sequence = $_->{headers}{ce_sequence};
		my $new = $sequence gt ($last{ $_->{key} // '' } // '');
		$last{ $_->{key} // '' } = $sequence if $new;
		$new
	} @records;
}

# ---- Envelope ----

my $driver = driver(subscription => 'shop');
is($driver->{verdict}, 'OK', 'the sink opens');
my @answer = ask_sink($driver, message('a', 't.envelope', '{"ä": 1}', 'trace=7', 'ce_id=forged', 'content-type=text/plain'),
	message('\\N', 't.envelope', '{}'), message('b', 't.envelope', '\\N'), 'send');
is($answer[1], 'OK', 'messages are sent');
is(verdicts($driver), '1:OK 2:OK 3:OK', 'and confirmed');
my %record = map { $_->{headers}{ce_sequence} + 0 => $_ } consumed('t.envelope');
is_deeply($record{1}{headers}, {
		'content-type' => 'application/json', ce_specversion => '1.0', ce_id => 'message-1001-5d5', ce_source => 'urn:inventory:1:test',
		ce_type => 't.envelope', ce_subject => 'a', ce_time => '2026-11-21T10:00:00Z', ce_partitionkey => 'a',
		ce_sequence => '00000000000000000001', ce_messagenumber => '1001', ce_subscription => 'shop', trace => '7' },
	'a message is a CloudEvent in binary mode, with the publisher\'s headers, which cannot forge it');
utf8::encode($record{1}{payload});
is("$record{1}{key} $record{1}{payload}", 'a {"ä": 1}', 'its key and payload are as they were');
ok(!defined $record{2}{key} && !exists $record{2}{headers}{ce_subject}, 'a message without a key has none');
ok(!defined $record{3}{payload} && !exists $record{3}{headers}{'content-type'}, 'one without a payload is a tombstone');
# All but those that nobody can block, and the C library's own.
my (undef, @blocked) = ask_sink($driver, 'signals');
is(join(' ', @blocked), join(' ', ('fffffffe7ffbfeff') x 5), 'no thread of the client lets a signal in');
is((ask_sink($driver, 'idle'))[1], 'yes', 'the sink can idle');

# ---- Errors that pass ----

for my $error ($NOT_LEADER, $TIMED_OUT, $NOT_ENOUGH_REPLICAS)
{
	my $topic = 't.passing' . ++$topics;
	order($cluster, "topic $topic 4", "errors $PRODUCE 3 $error");
	my @keys = map { 'k' . int(rand(10)) } 1 .. 300;
	@answer = ask_sink($driver, (map { message($_, $topic) } @keys), 'send');
	is($answer[1], 'OK', "error $error of a broker passes");
	my @records = consumed($topic);
	is(scalar @records, 300, 'each message is there once');
	is(scalar deduplicated(@records), 300, 'and its key in order');
}

# ---- Messages that cannot be taken ----

my $small = driver(max_message_size => 2000, topic => 't.small');
my $first = $position + 1;
@answer = ask_sink($small, message('a', 'x'), message('a', 'x', '"' . 'x' x 3000 . '"'), message('a', 'x'), message('b', 'x'), 'send');
is($answer[1], 'OK', 'a message that is too large says nothing of the sink');
is(verdicts($small), join(' ', map { $first + $_->[0] . ":$_->[1]" } [ 0, 'OK' ], [ 1, 'FAIL_MESSAGE' ], [ 2, 'NOT_SENT' ], [ 3, 'OK' ]),
	'it can never be taken, what is behind it is not sent, other keys are');
ask_sink($small, 'close');
end_talk($small);

# A refused batch: once, then each message alone.
order($cluster, 'topic t.batch 1', "errors $PRODUCE 1 $TOO_LARGE");
@answer = ask_sink($driver, (map { message('k' . $_ % 3, 't.batch') } 1 .. 30), 'send');
is("$answer[1] " . verdicts($driver, 'OK'), 'OK ' . join(' ', $position - 29 .. $position), 'of a refused batch, every message that the brokers take alone is sent');
is(scalar deduplicated(consumed('t.batch')), 30, 'in order');
# Twice: the first message is the one that is meant.
order($cluster, 'topic t.batch2 1', "errors $PRODUCE 2 $INVALID_RECORD");
@answer = ask_sink($driver, (map { message('k' . $_ % 3, 't.batch2') } 0 .. 29), 'send');
is($answer[1], 'OK', 'a refused message says nothing of the sink');
is(verdicts($driver, 'FAIL_MESSAGE'), $position - 29, 'the refused message is found');
is(verdicts($driver, 'NOT_SENT'), join(' ', map { $position - 29 + 3 * $_ } 1 .. 9), 'what is behind it is not sent');
is(join(' ', sort { $a <=> $b } positions(consumed('t.batch2'))), verdicts($driver, 'OK'), 'the others are, once');
# Also when the key's next message goes to another topic.
order($cluster, 'topic t.one 1', 'topic t.other 1', "errors $PRODUCE 2 $INVALID_RECORD");
$first = $position + 1;
ask_sink($driver, message('k', 't.one'), message('k', 't.other'), 'send');
is(verdicts($driver), "$first:FAIL_MESSAGE " . ($first + 1) . ':NOT_SENT', 'nor what goes to another topic');
$first = $position + 1;
ask_sink($driver, message('k', 'x' x 250), message('k', 't.other'), message('l', 't.other'), 'send');
is(verdicts($driver), "$first:FAIL_MESSAGE " . ($first + 1) . ':NOT_SENT ' . ($first + 2) . ':OK', 'a name that Kafka cannot have for a topic');

# ---- Unknown topics ----

order($cluster, 'topic t.unknown 1', "topic_error t.unknown $UNKNOWN_TOPIC");
$first = $position + 1;
@answer = ask_sink($driver, message('k', 't.unknown'), message('k', 't.other'), message('l', 't.other'), 'send');
is("$answer[1] " . verdicts($driver), "OK $first:RETRY_MESSAGE " . ($first + 1) . ':NOT_SENT ' . ($first + 2) . ':OK', 'a message whose topic is not there is retried, the others go on');
my $fixed = driver(topic => 't.unknown');
@answer = ask_sink($fixed, message('k', 'x'), 'send');
is("$answer[1] " . verdicts($fixed), "FATAL $position:FATAL", 'a topic that all messages go to must be there');
like($answer[3], qr/topic/i, 'and is named as the error');
order($cluster, 'topic_error t.unknown 0');
@answer = ask_sink($fixed, message('k', 'x'), 'send');
is("$answer[1]", 'OK', 'when it is, messages are sent');
ask_sink($fixed, 'close');
end_talk($fixed);
my $found;
for (1 .. 20)
{
	ask_sink($driver, message('k', 't.unknown'), 'send');
	$found = verdicts($driver, 'OK') and last;
	select undef, undef, undef, 1;
}
ok($found, 'also by the sink that has met it before');

# ---- Who may not ----

for my $case ([ $INIT_PRODUCER, $NO_CLUSTER_RIGHT ], [ $PRODUCE, $NO_TOPIC_RIGHT ])
{
	my ($request, $error) = @$case;
	my $refused = driver(topic => 't.rights');
	order($cluster, "errors $request 1 $error");
	@answer = ask_sink($refused, message('k', 'x'), 'send');
	is($answer[1], 'FATAL', "error $error is a matter of configuration");
	like($answer[3], qr/authori/i, "and says so: $answer[3]");
	@answer = ask_sink($refused, message('k', 'x'), 'send');
	is($answer[1], 'OK', 'until it is put right');
	ask_sink($refused, 'close');
	end_talk($refused);
}

# ---- Clients that come to their end ----

order($cluster, "errors $PRODUCE 1 $OUT_OF_ORDER");
@answer = ask_sink($driver, (map { message('k' . $_ % 3, 't.end') } 0 .. 9), 'send');
note "out of order: @answer";
@answer = ask_sink($driver, (map { message('k' . $_ % 3, 't.end') } 0 .. 9), 'send');
is($answer[1], 'OK', 'a client that is of no use any more is replaced');

# ---- Brokers that go away, and come back where they were ----

order($cluster, map { "down $_" } 1 .. 3);
my $began = time;
@answer = ask_sink($driver, (map { message('k' . $_ % 3, 't.outage') } 0 .. 9), 'send');
is($answer[1], 'RETRY_SINK', "without brokers the sink is down: $answer[3]");
cmp_ok(time - $began, '<', 5, 'which it says soon');
is(verdicts($driver, 'FAIL_MESSAGE') . verdicts($driver, 'RETRY_MESSAGE') . verdicts($driver, 'OK'), '', 'and nothing of the messages');
order($cluster, map { "up $_" } 1 .. 3);
$position -= 10;
@answer = ask_sink($driver, (map { message('k' . $_ % 3, 't.outage') } 0 .. 9), 'send');
is($answer[1], 'OK', 'when they are back, it goes on');
is(scalar deduplicated(consumed('t.outage')), 10, 'with what was not confirmed, in order');

# ---- Brokers that do not answer ----

my $patient = driver(timeout => 1500, topic => 't.stall');
@answer = ask_sink($patient, message('k', 'x'), 'send');
is($answer[1], 'OK', 'as long as they answer');
$cluster->{run}->signal('STOP');
$began = time;
my @lines = map { message('k' . $_ % 3, 'x') } 1 .. 20;
@answer = ask_sink($patient, @lines, 'send');
is($answer[1], 'RETRY_SINK', "brokers that do not answer: $answer[3]");
cmp_ok(time - $began, '<', 4, 'are given up after the timeout');
ask_sink($patient, "stop\t300");
$began = time;
@answer = ask_sink($patient, @lines, 'send');
is($answer[1], 'RETRY_SINK', 'a process that is to stop');
cmp_ok(time - $began, '<', 2, 'does not wait for them');
ask_sink($patient, "stop\t-");
say_to($patient, "stop\t200", @lines, 'send');
hear_from($patient, qr/^sent/);
cmp_ok((ask_sink($patient, 'close'))[1], '<', 1000, 'nor does the end');
ask_sink($patient, "stop\t-");
$cluster->{run}->signal('CONT');
ask_sink($patient, 'open');
@answer = ask_sink($patient, @lines, 'send');
is($answer[1], 'OK', 'when they answer again, it goes on');
is(scalar deduplicated(consumed('t.stall')), 21, 'with every message, in order');
ask_sink($patient, 'close');
end_talk($patient);

# ---- Nobody there ----

for my $brokers ('127.0.0.1:1', 'nobody.invalid:9092')
{
	my $lost = driver(brokers => $brokers);
	$began = time;
	@answer = ask_sink($lost, message('k', 't.lost'), 'send');
	is($answer[1], 'RETRY_SINK', "nobody at $brokers: $answer[3]");
	cmp_ok(time - $began, '<', 15, 'which is found out in time');
	cmp_ok((ask_sink($lost, 'close'))[1], '<', 1000, 'and it closes within a second');
	end_talk($lost);
}

# ---- Options ----

my $wrong = driver(compression => 'secret-value');
is($wrong->{verdict}, 'FATAL', 'a value that the client does not know');
unlike($wrong->{error}, qr/secret-value/, 'is not repeated');
end_talk($wrong);
$wrong = driver(security_protocol => 'sasl_plaintext', user => 'me', password => 'secret-value', timeout => 3000);
is($wrong->{verdict}, 'OK', 'a user and a password');
@answer = ask_sink($wrong, message('k', 't.lost'), 'send');
isnt($answer[1], 'OK', "that nobody there asks for: $answer[1] $answer[3]");
unlike("@answer $wrong->{err}", qr/secret-value/, 'are not in the error');
end_talk($wrong);
for my $compression (qw(none gzip snappy lz4 zstd))
{
	my $packed = driver(compression => $compression, topic => "t.$compression");
	@answer = ask_sink($packed, (map { message('k', 'x') } 1 .. 50), 'send');
	my @packed = consumed("t.$compression");
	is("$answer[1] " . @packed, 'OK 50', "compression $compression");
	end_talk($packed);
}

# ---- Everything at once ----

# As a delivery process does: what is not accepted is sent again, in order, until
# it is; a key's messages behind a failed one wait.
order($cluster, 'topic t.storm 5');
my $storm = driver(timeout => 2000, topic => 't.storm');
my @keys = map { "key-$_" } 1 .. 12;
my @backlog;
my %failed;
$first = $position + 1;
my $rounds = 0;
while ($position < $first + 1500 || @backlog)
{
	last if ++$rounds > 400;
	push @backlog, [ $position + 1, message($keys[ rand @keys ], 'x') ] while @backlog < 20 && $position < $first + 1500;
	my $luck = rand;
	order($cluster, "errors $PRODUCE " . (1 + int(rand(3))) . ' ' . ($NOT_LEADER, $TIMED_OUT, $NOT_ENOUGH_REPLICAS, $OUT_OF_ORDER)[ rand 4 ]) if $luck < 0.2;
	order($cluster, 'down ' . (1 + int(rand(3)))) if $luck > 0.9;
	order($cluster, map { "up $_" } 1 .. 3) if $luck < 0.5;
	order($cluster, "errors $PRODUCE 1 $TOO_LARGE") if $luck > 0.8 && $luck < 0.85;
	say_to($storm, "stop\t" . int(rand(50))) if $luck > 0.7 && $luck < 0.75;
	ask_sink($storm, (map { $_->[1] } @backlog), 'send');
	ask_sink($storm, "stop\t-");
	my $of = $storm->{verdicts};
	@backlog = grep { $of->{ $_->[0] }{verdict} ne 'OK' } @backlog;
	ask_sink($storm, 'close') and ask_sink($storm, 'open') if $luck > 0.97;
}
my @records = consumed('t.storm');
note scalar(@records), " records in $rounds calls";
my @kept = deduplicated(@records);
is(join(' ', sort { $a <=> $b } positions(@kept)), join(' ', $first .. $position), 'through a storm of errors every message arrives, and in order of its key');
ask_sink($storm, 'close');
end_talk($storm);

cmp_ok((ask_sink($driver, 'close'))[1], '<', 1000, 'the sink closes within a second');
is(scalar((my @threads = ask_sink($driver, 'signals'))), 1, 'and leaves no thread');
end_talk($driver);
end_talk($cluster);
done_testing();
