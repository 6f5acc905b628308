"""Benchmarks of delivery; run by ./run.

A queue is measured with a backlog: messages are published first, and then what is
measured is how long it takes until an empty handler has been called for each.
"""
import statistics
import time

MESSAGES = 300_000
HANDLER = "CREATE FUNCTION handle(m inventory.message) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$"

# What people write: rows that are claimed, handled and deleted, 500 at a time.
SKIP_LOCKED = """
CREATE TABLE queue (message_id bigserial PRIMARY KEY, topic text NOT NULL, key text, payload jsonb, created_at timestamptz NOT NULL DEFAULT now());
CREATE FUNCTION handle_row(m queue) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE PROCEDURE work() LANGUAGE plpgsql AS $$
DECLARE
	m queue;
	handled integer;
BEGIN
	LOOP
		handled := 0;
		FOR m IN DELETE FROM queue q USING (SELECT message_id FROM queue ORDER BY message_id LIMIT 500 FOR UPDATE SKIP LOCKED) c
			WHERE q.message_id = c.message_id RETURNING q.*
		LOOP
			PERFORM handle_row(m);
			handled := handled + 1;
		END LOOP;
		COMMIT;
		EXIT WHEN handled = 0;
	END LOOP;
END $$;
"""

PGQ = """
CREATE EXTENSION pgq;
SELECT pgq.create_queue('q'), pgq.set_queue_config('q', 'ticker_max_count', '500'), pgq.register_consumer('q', 'c');
CREATE FUNCTION handle_event(id bigint, data text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE PROCEDURE work() LANGUAGE plpgsql AS $$
DECLARE
	batch bigint;
BEGIN
	LOOP
		batch := pgq.next_batch('q', 'c');
		EXIT WHEN batch IS NULL;
		PERFORM handle_event(e.ev_id, e.ev_data) FROM pgq.get_batch_events(batch) e;
		PERFORM pgq.finish_batch(batch);
		COMMIT;
	END LOOP;
END $$;
"""


def counted(bench, what, expected, found):
    if int(found) != expected:
        raise bench.Failure(f'{what}: {found} messages of {expected}')


def until(bench, server, condition, what, seconds=120):
    """Waits until the query says so."""
    end = time.monotonic() + seconds
    while server.value(condition) != 't':
        if time.monotonic() > end:
            raise bench.Failure(f'{what}: not after {seconds} s: {server.value("SELECT d FROM inventory.stat_delivery d")}')
        time.sleep(0.005)



def comparisons(bench):
    """The comparisons, and functions that yield rows."""

    def subscriptions():
        """Sales of 10,000 SKUs by 64 clients while there are subscriptions."""
        def subscribed(*topics):
            def run(server, seconds):
                if topics:
                    server.value(HANDLER)
                server.workers(True)
                for n, topic in enumerate(topics):
                    server.value(f"SELECT inventory.subscribe('s{n}', '{{{topic}}}', 'function', '{{\"handler\": \"public.handle\"}}')")
                if topics:
                    until(bench, server, f"SELECT count(*) = {len(topics)} FROM inventory.stat_delivery WHERE pid IS NOT NULL AND state = 'idle'", 'delivery processes')
                # Who has just begun has its catalogs to read.
                time.sleep(2)
                return load(server, seconds)
            return run
        load = bench.pgbench(bench.REQUEST + bench.RESERVE_ANY, 64)
        stock = ('on_hand - available', 'inventory.levels()')
        others = ['order.#', 'customer.#', 'inventory.stock.shortage', 'inventory.stock.back', 'inventory.event.issue',
                  'inventory.event.adjust', 'inventory.event.count', 'inventory.event.receive', 'inventory.message.dead', 'warehouse.*']
        yield bench.Case('subscriptions', 'ten, of other messages', 'reservations/s', [
            bench.Variant('subscribed', subscribed(*others), 'inventory', stock),
            bench.Variant('none', subscribed(), 'inventory', stock),
        ], {'none': 0.95})
        yield bench.Case('subscriptions', 'one, of all events', 'reservations/s', [
            bench.Variant('subscribed', subscribed('inventory.event.*'), 'inventory', stock),
            bench.Variant('none', subscribed(), 'inventory', stock),
        ], {'none': None})

    def deliver():
        """A backlog, delivered to an empty handler."""
        def inventory(server, seconds):
            server.value(HANDLER)
            server.workers(True)
            server.value("SELECT inventory.subscribe('s', '{bench.#}', 'function', '{\"handler\": \"public.handle\"}'), inventory.pause('s')")
            server.value(f"SELECT count(inventory.publish('bench.message', 'key ' || n % 1000, '{{\"order\": 17}}')) FROM generate_series(1, {MESSAGES}) n")
            began = time.monotonic()
            server.value("SELECT inventory.resume('s')")
            until(bench, server, f"SELECT sum(delivered) = {MESSAGES} FROM inventory.stat_delivery", 'delivery')
            return bench.Outcome(rate=MESSAGES / (time.monotonic() - began))

        def skip_locked(server, seconds):
            server.workers(False)
            server.psql(text=SKIP_LOCKED)
            server.value(f"INSERT INTO queue (topic, key, payload) SELECT 'bench.message', 'key ' || n % 1000, '{{\"order\": 17}}' FROM generate_series(1, {MESSAGES}) n")
            server.value('ANALYZE queue')
            taken, _ = bench.timed(server, 'CALL work();\n')
            counted(bench, 'SKIP LOCKED', 0, server.value('SELECT count(*) FROM queue'))
            return bench.Outcome(rate=MESSAGES / taken)

        def pgq(server, seconds):
            server.workers(False)
            server.psql(text=PGQ)
            for part in range(MESSAGES // 500):
                server.value(f"SELECT pgq.insert_event('q', 'bench.message', '{{\"order\": 17}}') FROM generate_series(1, 500)"
                             '; SELECT pgq.force_tick(\'q\')' if part % 100 == 0 else
                             f"SELECT pgq.insert_event('q', 'bench.message', '{{\"order\": 17}}') FROM generate_series(1, 500)")
                server.value("SELECT pgq.ticker('q')")
            taken, _ = bench.timed(server, 'CALL work();\n')
            return bench.Outcome(rate=MESSAGES / taken)

        variants = [bench.Variant('inventory', inventory), bench.Variant('SKIP LOCKED, 500 rows', skip_locked)]
        targets = {'SKIP LOCKED, 500 rows': None}
        if bench.PGQ_THERE:
            variants.append(bench.Variant('pgq', pgq))
            targets['pgq'] = None
        yield bench.Case('deliver', f'{MESSAGES:,} messages, empty handler', 'messages/s', variants, targets)

    return subscriptions, deliver


def latency(bench, server, messages=300):
    """From the commit to the handler, in a system that has nothing else to do."""
    server.fresh_database()
    server.value('CREATE TABLE arrived (sent timestamptz, got timestamptz)')
    server.value("CREATE FUNCTION handle(m inventory.message) RETURNS void LANGUAGE sql AS"
                 " $$ INSERT INTO public.arrived VALUES ((m.payload->>'sent')::timestamptz, clock_timestamp()) $$")
    server.workers(True)
    server.value("SELECT inventory.subscribe('s', '{bench.#}', 'function', '{\"handler\": \"public.handle\"}')")
    until(bench, server, "SELECT state = 'idle' FROM inventory.stat_delivery", 'the process')
    server.psql(text="SELECT inventory.publish('bench.m', 'k', jsonb_build_object('sent', clock_timestamp()));\n"
                     "SELECT pg_sleep(0.06);\n" * messages)
    until(bench, server, f'SELECT count(*) = {messages} FROM arrived', 'latency')
    median, worst = (float(n) for n in server.value(
        'SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms), percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)'
        ' FROM (SELECT extract(epoch FROM got - sent) * 1000 AS ms FROM arrived) a').split('|'))
    yield bench.Row('latency', 'from publish() to the handler, idle, median', f'{median:.2f} ms', '', '', '', '< 10 ms', bench.verdict(median < 10))
    yield bench.Row('latency', 'the same, 99 of 100', f'{worst:.2f} ms', '', '', '', '', '')


DEAD = ("SELECT coalesce(sum(pg_stat_get_dead_tuples(oid)), 0) FROM pg_class WHERE relnamespace = 'inventory'::regnamespace"
        " AND relkind = 'r' AND relname ~ '^(outbox|delivery_cursor|subscription|parked_message)'")


def held(bench, server, seconds):
    """Publishing and delivering while a snapshot is held."""
    server.fresh_database()
    server.value(HANDLER)
    server.workers(True)
    server.value("SELECT inventory.subscribe('s', '{bench.#}', 'function', '{\"handler\": \"public.handle\"}')")
    holder = bench.subprocess.Popen(
        server.command('psql', '-Xq', '-h', server.folder, '-U', 'postgres', '-d', 'bench'),
        stdin=bench.subprocess.PIPE, stdout=bench.subprocess.DEVNULL, text=True)
    holder.stdin.write('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM inventory.event;\n')
    holder.stdin.flush()
    rates, piece = [], max(seconds / 10, 1)
    load = bench.pgbench("SELECT inventory.publish('bench.m', 'k', '{\"order\": 17}');\n", 4)
    try:
        with bench.ThreadPoolExecutor() as pool:
            running = pool.submit(load, server, int(piece * 10))
            before, at = 0, time.monotonic()
            while not running.done():
                time.sleep(piece)
                delivered, now = int(server.value('SELECT sum(delivered) FROM inventory.stat_delivery')), time.monotonic()
                rates.append((delivered - before) / (now - at))
                before, at = delivered, now
            published = running.result().reserved
        until(bench, server, f'SELECT sum(delivered) = {published} FROM inventory.stat_delivery', 'held')
        dead = int(server.value(DEAD))
    finally:
        holder.stdin.close()
        holder.wait()
    rates = rates[:10]
    ratio = statistics.median(rates[-3:]) / statistics.median(rates[:3])
    yield bench.Row('held', f'messages/s, snapshot held for {int(piece * 10)} s: last third', bench.figure(statistics.median(rates[-3:]), 1),
                    'first third', bench.figure(statistics.median(rates[:3]), 1), f'{ratio:.2f} x the rate', '>= 0.9', bench.verdict(ratio >= 0.9))
    yield bench.Row('held', 'dead rows left in the tables of messages', str(dead), '', '', '', '<= 100', bench.verdict(dead <= 100))
