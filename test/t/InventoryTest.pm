# What the TAP tests share: a server that preloads the engine, many psql
# sessions started at the same moment, and the oracle that compares every place
# where a quantity stands.
#
# Run as an ordinary user: prove test/t/*.pl.  pg_config on the path, or
# PG_CONFIG, names the installation.  INVENTORY_TEST_SEED repeats a run's random
# choices.
package InventoryTest;

use strict;
use warnings FATAL => 'all';

BEGIN
{
	require Cwd;
	require File::Temp;
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
	chomp(my $pgxs = `$pg_config --pgxs`);
	chomp(my $bindir = `$pg_config --bindir`);
	die "no PostgreSQL installation: $pg_config" unless $pgxs && $bindir;
	my $top = $pgxs =~ s{/src/makefiles/pgxs\.mk$}{}r;
	unshift @INC, "$top/src/test/perl";
	$ENV{PATH} = "$bindir:$ENV{PATH}";
	$ENV{PG_REGRESS} //= "$top/src/test/regress/pg_regress";
	$ENV{TESTDIR} //=
	  File::Temp::tempdir('inventory-XXXXXX', TMPDIR => 1, CLEANUP => 1);
}

use Exporter 'import';
use POSIX ();
use Test::More;
use Time::HiRes qw(usleep time);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(
  new_node add_skus session ask refused
  start_clients finish_clients run_clients count_of only_codes
  agrees one_of number_below);

our $seed = $ENV{INVENTORY_TEST_SEED} // int(time()) % 1_000_000;
srand($seed);
note "INVENTORY_TEST_SEED=$seed";

# Advisory locks: the gate that all clients wait at, and the lock that nobody
# gets until somebody cancels them.
our $GATE = 4711;
our $TRAP = 4712;

sub one_of { return $_[ int(rand(@_)) ]; }
sub number_below { return int(rand($_[0])); }

# A running server with the extension in database postgres.
sub new_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(allows_streaming => $options{streaming} // 0);
	$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'inventory'
max_connections = 100
shared_buffers = 64MB
log_statement = none
CONF
	$node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION inventory')
	  unless $options{bare};
	return $node;
}

# SKUs with their first receipt at location L.
sub add_skus
{
	my ($node, $quantity, @skus) = @_;
	my $list = join ',', map { "'$_'" } @skus;
	$node->safe_psql(
		'postgres', qq{
INSERT INTO inventory.location (location) VALUES ('L') ON CONFLICT DO NOTHING;
INSERT INTO inventory.sku (sku) SELECT unnest(ARRAY[$list]);
});
	$node->safe_psql(
		'postgres', qq{
SELECT inventory.post('receive', array_agg(s), array_agg('L'::text), array_agg(${quantity}::bigint))
FROM unnest(ARRAY[$list]) s
}) if $quantity > 0;
	return;
}

# A session that stays open and goes on after an error.
sub session
{
	my ($node, $database) = @_;
	my $session = $node->background_psql($database // 'postgres',
		on_error_stop => 0, extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
	$session->set_query_timer_restart();
	return $session;
}

# What a session answers: the rows, or the SQLSTATE of its error.
sub ask
{
	my ($session, $sql) = @_;
	$session->{stderr} = '';
	my ($rows) = $session->query($sql);
	return $1 if $session->{stderr} =~ /(?:ERROR|FATAL):\s+([0-9A-Z]{5})/;
	return $rows;
}

# That a statement is refused with this SQLSTATE.
sub refused
{
	my ($node, $sql, $sqlstate, $name, %options) = @_;
	my ($status, $out, $err) = $node->psql(
		$options{database} // 'postgres', $sql,
		extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like($err, qr/(?:ERROR|FATAL):\s+\Q$sqlstate\E/, $name);
}

# One psql per element of $scripts, all let go at the same moment.  An element
# is a list of scripts that the client runs one after the other, each in a
# session of its own, so that a terminated session does not end the client.
sub start_clients
{
	my ($node, $scripts, %options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $psql = $node->installed_command('psql');
	my $connection = $node->connstr($options{database} // 'postgres');
	my $gate = session($node, $options{database});
	my $run = { node => $node, dir => $dir, left => {}, exits => [],
		chunks => [], database => $options{database} // 'postgres' };

	ask($gate, "SELECT pg_advisory_lock($GATE)");
	for my $i (0 .. $#$scripts)
	{
		my @chunks = ref $scripts->[$i] ? @{ $scripts->[$i] } : ($scripts->[$i]);
		$chunks[0] = "SELECT FROM pg_advisory_lock_shared($GATE);"
		  . " SELECT FROM pg_advisory_unlock_shared($GATE);\n" . $chunks[0];
		append_to_file("$dir/$i.$_.sql", $chunks[$_]) for 0 .. $#chunks;
		$run->{chunks}[$i] = @chunks;

		my $pid = fork() // die "fork: $!";
		if ($pid == 0)
		{
			local %ENV = $node->_get_env();
			my $bad = 0;
			$ENV{PGAPPNAME} = "client_$i";
			open STDIN, '<', '/dev/null';
			for my $chunk (0 .. $#chunks)
			{
				my $child = fork() // POSIX::_exit(99);
				if ($child == 0)
				{
					open STDOUT, '>', "$dir/$i.$chunk.out";
					open STDERR, '>', "$dir/$i.$chunk.err";
					{
						no warnings;
						exec $psql, '-XAtq', '-v', 'VERBOSITY=sqlstate',
						  '-d', $connection, '-f', "$dir/$i.$chunk.sql";
					}
					POSIX::_exit(99);
				}
				waitpid $child, 0;
				$bad++ if $?;
			}
			POSIX::_exit($bad > 100 ? 100 : $bad);
		}
		$run->{left}{$pid} = $i;
	}
	$node->poll_query_until($run->{database},
		"SELECT count(*) = ${\ scalar @$scripts } FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND objid = $GATE AND NOT granted"
	) or die 'the clients did not reach the gate';
	$gate->quit;
	return $run;
}

# Waits for the clients; meanwhile calls $options{meanwhile} again and again.
# Returns what they printed: out and err by client, codes counted by SQLSTATE,
# and in exits how many sessions of each client were lost.
sub finish_clients
{
	my ($run, %options) = @_;
	my $until = time() + $PostgreSQL::Test::Utils::timeout_default;

	while (%{ $run->{left} })
	{
		for my $pid (keys %{ $run->{left} })
		{
			next if waitpid($pid, POSIX::WNOHANG()) != $pid;
			$run->{exits}[ delete $run->{left}{$pid} ] = $? >> 8;
		}
		last unless %{ $run->{left} };
		if (time() > $until)
		{
			kill 'KILL', keys %{ $run->{left} };
			die 'clients did not end: ' . join ' ', values %{ $run->{left} };
		}
		$options{meanwhile}->() if $options{meanwhile};
		usleep(10_000);
	}
	$run->{codes} = {};
	for my $i (0 .. $#{ $run->{chunks} })
	{
		$run->{out}[$i] = $run->{err}[$i] = '';
		for my $chunk (0 .. $run->{chunks}[$i] - 1)
		{
			my $err = slurp_file("$run->{dir}/$i.$chunk.err");
			$run->{out}[$i] .= slurp_file("$run->{dir}/$i.$chunk.out");
			$run->{err}[$i] .= $err;
			$run->{codes}{$1}++
			  while $err =~ /(?:ERROR|FATAL|PANIC):\s+(\w+)/g;
		}
	}
	note 'SQLSTATEs: ' . join ' ',
	  map { "$_=$run->{codes}{$_}" } sort keys %{ $run->{codes} };
	# A terminated backend tells its client before it has ended.
	$run->{node}->poll_query_until($run->{database},
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'client_%'"
	) unless $options{server_gone};
	return $run;
}

sub run_clients
{
	my ($node, $scripts, %options) = @_;
	return finish_clients(start_clients($node, $scripts, %options), %options);
}

sub count_of { return $_[0]{codes}{ $_[1] } // 0; }

# That the clients met no other SQLSTATE than these.
sub only_codes
{
	my ($run, $name, @allowed) = @_;
	my %allowed = map { $_ => 1 } @allowed;
	my @other = grep { !$allowed{$_} } sort keys %{ $run->{codes} };
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is("@other", '', $name);
}

# The oracle.  The sums over events are made here, by other means than the
# engine's, and compared with reservation lines, the levels in memory, what the
# functions answer, the view, and verify(); nothing may be pinned any more.
my $oracle = <<'SQL';
SELECT count(inventory.available(s.sku, l.location)) > -1
FROM (SELECT DISTINCT sku_id, location_id FROM inventory.stock) k
JOIN inventory.sku s USING (sku_id) JOIN inventory.location l USING (location_id);

WITH RECURSIVE inside AS (
	SELECT location_id AS top, location_id FROM inventory.location
	UNION ALL
	SELECT i.top, l.location_id FROM inside i JOIN inventory.location l ON l.parent_id = i.location_id
), booked AS (
	SELECT stock_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved,
		sum(committed_delta) AS committed
	FROM (SELECT stock_id, on_hand_delta, reserved_delta, committed_delta FROM inventory.event
		UNION ALL SELECT stock_id, on_hand, reserved, committed FROM inventory.baseline) e GROUP BY stock_id
), promised AS (
	SELECT stock_id,
		sum(quantity - shipped - released) FILTER (WHERE state = 'held') AS held,
		sum(quantity - shipped - released) FILTER (WHERE state = 'committed') AS committed,
		sum(quantity - shipped - released) FILTER (WHERE state = 'held' AND expires_at <= inventory.clock_time()) AS overdue
	FROM inventory.reservation GROUP BY stock_id
), item AS (
	SELECT k.stock_id, k.location_id, s.sku, s.safety_stock,
		k.condition = 'good' AND s.active AND l.active AND coalesce(t.status = 'active', true)
			AND coalesce(t.expires_on >= (inventory.clock_time() AT TIME ZONE 'UTC')::date, true) AS promisable,
		coalesce(b.on_hand, 0) AS on_hand, coalesce(b.reserved, 0) AS reserved,
		coalesce(b.committed, 0) AS committed, coalesce(p.held, 0) AS held,
		coalesce(p.committed, 0) AS owed, coalesce(p.overdue, 0) AS overdue
	FROM inventory.stock k
	JOIN inventory.sku s USING (sku_id)
	JOIN inventory.location l USING (location_id)
	LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
	LEFT JOIN booked b USING (stock_id)
	LEFT JOIN promised p USING (stock_id)
), place AS (
	SELECT sku, location, sum(on_hand) AS on_hand,
		sum(CASE WHEN NOT promisable OR on_hand = 0 AND reserved - overdue = 0 AND committed = 0 THEN 0
			ELSE on_hand - reserved + overdue - committed - safety_stock END) AS available
	FROM item i
	JOIN inside n USING (location_id)
	JOIN inventory.location l ON l.location_id = n.top
	GROUP BY sku, location
)
SELECT 'reservation lines', stock_id, reserved, held, committed, owed
FROM item WHERE reserved <> held OR committed <> owed
UNION ALL
SELECT 'negative', stock_id, on_hand, reserved, committed, NULL
FROM item WHERE on_hand < 0 OR reserved < 0 OR committed < 0
UNION ALL
SELECT 'level', stock_id, i.on_hand, v.on_hand, i.on_hand - i.reserved - i.committed + i.overdue, v.available
FROM item i JOIN inventory.levels() v USING (stock_id)
WHERE v.on_hand <> i.on_hand OR v.available <> i.on_hand - i.reserved - i.committed + i.overdue
UNION ALL
SELECT 'pins', stock_id, 0, pins, NULL, NULL FROM inventory.levels() WHERE pins <> 0
UNION ALL
SELECT 'functions ' || sku || ' ' || location, NULL, p.on_hand, inventory.on_hand(sku, location),
	p.available, inventory.available(sku, location)
FROM place p
WHERE p.on_hand <> inventory.on_hand(sku, location) OR p.available <> inventory.available(sku, location)
UNION ALL
SELECT 'stock_level', stock_id, i.on_hand, v.on_hand, i.reserved - i.overdue, v.reserved
FROM item i JOIN inventory.stock_level v USING (stock_id)
WHERE v.on_hand <> i.on_hand OR v.reserved <> i.reserved - i.overdue OR v.committed <> i.committed
UNION ALL
SELECT 'verify ' || check_name, stock_id, expected, found, NULL, NULL FROM inventory.verify();
SQL

sub agrees
{
	my ($node, $name, %options) = @_;
	my $differences =
	  $node->safe_psql($options{database} // 'postgres', $oracle);
	$differences =~ s/^t\n?//;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($differences, '',
		"$name: events, reservation lines, levels, functions, view and verify() agree to the unit"
	);
}

1;
