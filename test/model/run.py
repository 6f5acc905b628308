#!/usr/bin/python3
"""Random operations against the engine and against the reference model.

Several sessions, one statement at a time, in an order that the seed decides; so
a run with the same seed repeats.  After each statement its answer or SQLSTATE is
compared, and what everybody sees of the levels; now and then a session's own
view of stock_level, and what there was at an earlier moment, by stock_at(); at
the end, with everything committed, verify().

Another session projects all the while: beside the statements, between them, and
in transactions that stay open for many of them, or roll back.  Nothing may show.

A statement that has to wait for another session's transaction is sent too: the
run waits until it stands in pg_blocking_pids(), ends that transaction, and then
predicts what the statement must have done.

    test/model/run.py [--seed N] [--steps N]

connects as libpq does (PGHOST, PGPORT, PGDATABASE), to a database in which it
creates the extension anew.  Needs python3-psycopg2.
"""
import argparse
import collections
import datetime
import json
import queue
import random
import sys
import threading
import time

import psycopg2

from reference import Model, Refused, Transaction

UTC = datetime.timezone.utc
SESSIONS = 5
GOOD = 'good'


class Session(threading.Thread):
    """A connection that runs the statements it is given, in a thread of its own."""

    def __init__(self, name):
        super().__init__(daemon=True)
        self.connection = psycopg2.connect('', application_name=name)
        self.connection.autocommit = True
        self.pid = self.connection.info.backend_pid
        self.todo, self.done = queue.Queue(), queue.Queue()
        self.start()

    def run(self):
        cursor = self.connection.cursor()
        while True:
            sql, values = self.todo.get()
            try:
                cursor.execute(sql, values)
                self.done.put(('rows', cursor.fetchall() if cursor.description else []))
            except psycopg2.Error as error:
                self.done.put(('error', error.pgcode or str(error), str(error).strip()))

    def send(self, sql, values=()):
        self.todo.put((sql, values))

    def answer(self, timeout=60):
        return self.done.get(timeout=timeout)

    def ask(self, sql, values=()):
        self.send(sql, values)
        kind, *rest = self.answer()
        if kind == 'error':
            raise AssertionError('%s: %s' % (sql, rest))
        return rest[0]


class Difference(Exception):
    pass


class Run:
    def __init__(self, seed, steps):
        self.random = random.Random(seed)
        self.steps = steps
        self.count = collections.Counter()
        self.admin = Session('admin')
        self.sessions = [Session('session %d' % n) for n in range(SESSIONS)]
        self.projector, self.projecting = Session('projector'), None
        # What was on hand and committed when the clock went on, by moment.
        self.moments = {}
        self.requests = {}
        # By session with an open transaction: when it first tried to write, and did.
        self.first_write = {}
        self.log = collections.deque(maxlen=400)
        self.number = 0
        self.set_up()

    # The world -------------------------------------------------------------

    def set_up(self):
        ask = self.admin.ask
        ask('SET client_min_messages = warning')
        ask('DROP EXTENSION IF EXISTS inventory CASCADE')
        ask('CREATE EXTENSION inventory')
        # Many snapshots for the history to start from.
        ask('ALTER SYSTEM SET inventory.snapshot_events = 10')
        ask('SELECT pg_reload_conf()')
        self.model = model = Model(datetime.datetime(2030, 1, 30, 12, tzinfo=UTC))
        ask('SELECT inventory.set_test_clock(%s)', (model.clock,))
        for name, parent in (('SITE', None), ('A', 'SITE'), ('B', 'SITE'), ('A1', 'A'), ('ELSEWHERE', None)):
            model.locations[name] = {'parent': parent, 'active': True}
            ask('INSERT INTO inventory.location (location, parent_id) SELECT %s, '
                '(SELECT location_id FROM inventory.location WHERE location = %s)', (name, parent))
        for name, tracking, safety, backorder in (
                ('plain', 'none', 0, 0), ('safe', 'none', 5, 0), ('back', 'none', 0, 7),
                ('both', 'none', 4, 6), ('endless', 'none', 0, None), ('lots', 'lot', 0, 0), ('safelots', 'lot', 2, 1)):
            model.skus[name] = {'tracking': tracking, 'safety_stock': safety, 'backorder_limit': backorder, 'active': True}
            ask('INSERT INTO inventory.sku (sku, tracking, safety_stock, backorder_limit) VALUES (%s, %s, %s, %s)',
                (name, tracking, safety, backorder))
            for lot, days in (('one', 2), ('two', None)) if tracking == 'lot' else ():
                expires = days and model.clock.date() + datetime.timedelta(days=days)
                model.lots[name, lot] = {'expires_on': expires, 'status': 'active'}
                ask('INSERT INTO inventory.lot (sku_id, lot, expires_on) SELECT sku_id, %s, %s FROM inventory.sku WHERE sku = %s',
                    (lot, expires, name))
        self.places = [(sku, location, lot, GOOD) for sku in model.skus for location in ('A', 'B', 'A1')
                       for lot in ([None] if model.skus[sku]['tracking'] == 'none' else ['one', 'two'])]
        self.places += [('plain', 'A', None, 'damaged'), ('lots', 'B', 'one', 'quarantine')]
        # A few stock items are left for the sessions to make.
        for place in self.places[:-4]:
            model.begin('set up')
            new = ask(*self.sql_of('receive', dict(item=place, quantity=20)))[0][0]
            model.receive(model.open['set up'], new, place, 20)
            model.commit('set up')

    # Statements ------------------------------------------------------------

    def sql_of(self, name, a):
        """The statement for a call of the model."""
        request = a.get('request_id')
        tail = ', request_id => %s)' if request is not None else ')'
        extra = (request,) if request is not None else ()

        def call(function, text, *values):
            return 'SELECT inventory.' + function + '(' + text + tail, values + extra

        if name in ('receive', 'issue'):
            sku, location, lot, condition = a['item']
            return call(name, '%s, %s, %s, %s, %s', sku, location, a['quantity'], lot, condition)
        if name == 'adjust':
            sku, location, lot, condition = a['item']
            return call(name, "%s, %s, %s, 'because', %s, %s", sku, location, a['delta'], lot, condition)
        if name == 'set_on_hand':
            sku, location, lot, condition = a['item']
            return call(name, "%s, %s, %s, %s, 'counted', %s, %s", sku, location, a['quantity'], a['expected'], lot, condition)
        if name == 'transfer':
            sku, location, lot, condition = a['item']
            return call(name, '%s, %s, %s, %s, %s, %s', sku, location, a['to'], a['quantity'], lot, condition)
        if name == 'reverse':
            return call(name, "%s, 'mistake'", a['event_id'])
        if name == 'post':
            lines = []
            for kind, (sku, location, lot, condition), quantity in a['movements']:
                line = {'type': kind, 'sku': sku, 'location': location, 'quantity': quantity, 'condition': condition}
                if kind == 'adjust':
                    line['reason'] = 'because'
                if lot is not None:
                    line['lot'] = lot
                lines.append(line)
            return call('post', '%s::jsonb', json.dumps(lines))
        if name == 'post array':
            kind = a['movements'][0][0]
            return call('post', '%s, %s::text[], %s::text[], %s::bigint[]', kind, [m[1][0] for m in a['movements']],
                        [m[1][1] for m in a['movements']], [m[2] for m in a['movements']])
        if name == 'reserve':
            function = 'try_reserve' if a['trying'] else 'reserve'
            ttl = None if a['seconds'] is None else datetime.timedelta(seconds=a['seconds'])
            if a['single']:
                ((sku, location, lot, condition), quantity), = a['lines']
                return call(function, '%s, %s, %s, ttl => %s, owner => %s, lot => %s, condition => %s',
                            sku, location, quantity, ttl, a['owner'], lot, condition)
            lines = [dict({'sku': i[0], 'location': i[1], 'quantity': q}, **({'lot': i[2]} if i[2] else {})) for i, q in a['lines']]
            return call(function, '%s::jsonb, ttl => %s, owner => %s, mode => %s', json.dumps(lines), ttl, a['owner'], a['mode'])
        if name == 'confirm':
            return call(name, '%s', a['reservation_id'])
        if name in ('ship', 'release'):
            lines = a['parts'] and json.dumps([{'line_no': n, 'quantity': q} for n, q in a['parts']])
            return call(name, '%s, %s::jsonb', a['reservation_id'], lines)
        if name == 'extend':
            return call(name, '%s, %s', a['reservation_id'], None if a['seconds'] is None else datetime.timedelta(seconds=a['seconds']))
        if name == 'release_owner':
            return call(name, '%s', a['owner'])
        if name in ('read_available', 'read_on_hand'):
            return call(name[5:], '%s, %s, %s', a['sku'], a['location'], a['lot'])
        raise AssertionError(name)

    def random_call(self, tx):
        r, m = self.random, self.model
        item = r.choice(self.places[:3]) if r.random() < .4 else r.choice(self.places)
        if r.random() < .03:
            item = r.choice([('nothing',) + item[1:], (item[0], 'nowhere') + item[2:], item[:3] + ('odd',),
                             item[:2] + (None if item[2] else 'one', item[3]), item[:2] + ('nothing', item[3])])
        quantity = r.choice((1, 2, 3, 5, 8, 13)) if r.random() > .03 else r.choice((0, -1))
        ids = sorted({key[0] for key in m.line_of(tx)})
        owner = r.choice((None, None, 'cart 1', 'cart 2', 'cart 3'))
        reservation_id = r.choice(ids[-12:]) if ids and r.random() > .03 else 10 ** 9

        def likely(*states):
            alive = sorted({k[0] for k, l in m.line_of(tx).items() if l['state'] in states and m.alive(l)})
            return r.choice(alive) if alive and r.random() < .75 else reservation_id
        seconds = r.choice((60, 600, 600, 3600, None)) if r.random() > .02 else r.choice((0, -5))
        name = r.choice(['receive', 'issue', 'issue', 'adjust', 'set_on_hand', 'transfer', 'reverse', 'post', 'post array']
                        + ['reserve'] * 9 + ['confirm'] * 4 + ['ship'] * 3 + ['release'] * 3
                        + ['extend', 'extend', 'release_owner', 'read_available', 'read_available', 'read_on_hand'])
        if name in ('receive', 'issue'):
            a = dict(item=item, quantity=quantity)
        elif name == 'adjust':
            a = dict(item=item, delta=quantity * r.choice((1, -1)))
        elif name == 'set_on_hand':
            has = m.seen(tx, item)[0]
            a = dict(item=item, quantity=max(0, has + r.randint(-5, 8)), expected=has + r.choice((0, 0, 0, 1)))
        elif name == 'transfer':
            a = dict(item=item, to=r.choice([l for l in ('A', 'B', 'A1') if l != item[1]]), quantity=quantity)
        elif name == 'reverse':
            events = sorted({**m.events, **(tx.events if tx else {})})
            a = dict(event_id=r.choice(events[-20:]) if r.random() > .05 else 10 ** 9)
        elif name == 'post':
            a = dict(movements=[(kind, r.choice(self.places), r.choice((1, 2, 4)) * (r.choice((1, -1)) if kind == 'adjust' else 1))
                                for kind in r.choices(('receive', 'issue', 'issue', 'adjust'), k=r.randint(1, 4))])
        elif name == 'post array':
            kind = r.choice(('receive', 'issue'))
            plain = [p for p in self.places if p[2] is None and p[3] == GOOD]
            a = dict(movements=[(kind, r.choice(plain), r.choice((1, 2, 4))) for _ in range(r.randint(1, 4))])
        elif name == 'reserve':
            single = r.random() < .5
            lines = [(item, quantity)] if single else [
                (r.choice([p for p in self.places if p[3] == GOOD]), r.choice((1, 2, 5, 9))) for _ in range(r.randint(1, 4))]
            a = dict(lines=lines, seconds=seconds, owner=owner, trying=r.random() < .4, single=single,
                     mode='all' if single else r.choice(('all', 'partial')))
        elif name == 'confirm':
            a = dict(reservation_id=likely('held'))
        elif name in ('ship', 'release'):
            reservation_id = likely('committed') if name == 'ship' else likely('held', 'committed')
            lines = [(k[1], l['quantity'] - l['shipped'] - l['released']) for k, l in m.line_of(tx).items() if k[0] == reservation_id]
            parts = None
            if lines and r.random() < .5:
                parts = [(n, max(1, r.choice((left, (left + 1) // 2, left + 1)) if r.random() < .9 else 1))
                         for n, left in r.sample(lines, r.randint(1, len(lines)))]
            a = dict(reservation_id=reservation_id, parts=parts)
        elif name == 'extend':
            a = dict(reservation_id=likely('held'), seconds=seconds)
        elif name == 'release_owner':
            a = dict(owner=owner or 'cart 1')
        else:
            sku = item[0]
            a = dict(sku=sku, location=r.choice((None, 'SITE', 'A', 'B', 'ELSEWHERE', item[1])), lot=item[2] if r.random() < .4 else None)
        if not name.startswith('read') and r.random() < .3:
            a['request_id'] = None
            known = sorted(self.requests)
            if known and r.random() < .4:
                a['request_id'] = r.choice(known[-15:])
                if r.random() < .8:
                    name, a = self.requests[a['request_id']]
            else:
                a['request_id'] = 'request %06d' % len(self.requests)
                self.requests[a['request_id']] = (name, a)
        return name, a

    # Prediction ------------------------------------------------------------

    def predict(self, tx, name, a, got):
        """The model's answer; the id that the engine has made is taken as it is."""
        m = self.model
        request = a.get('request_id')
        if request is not None:
            first = {**m.requests, **tx.requests}.get(request)
            if first is not None:
                if first[0] != repr((name, a)):
                    # What is wrong with the arguments themselves may be said first.
                    raise Refused('IV010', 'IV011', 'IV017', 'IV019', 'IV002', 'IV003', 'IV004', 'IV005', 'IV006')
                return first[1]
        arguments = {k: v for k, v in a.items() if k not in ('request_id', 'single')}
        before = tx.state()
        try:
            if name.startswith('read'):
                return getattr(m, name)(tx, **arguments)
            result = getattr(m, name.split()[0])(tx, got, **arguments)
        except Refused:
            tx.restore(before)
            raise
        if result is None and name == 'reserve':
            tx.restore(before)
        elif request is not None:
            tx.requests[request] = (repr((name, a)), result)
            tx.touched.add(('request', request))
        return result

    def needs(self, session, name, a):
        """What a call may lock, by itself and shared with others."""
        m, alone = self.model, set()
        lines = m.line_of(m.open.get(session))
        items = [a['item']] if 'item' in a else [l[0] for l in a.get('lines', ())] + [x[1] for x in a.get('movements', ())]
        if 'to' in a:
            items.append((a['item'][0], a['to']) + a['item'][2:])
        if 'event_id' in a:
            alone.add(('event', a['event_id']))
            items += [leg[0] for tx in [m] + list(m.open.values()) for leg in tx.events.get(a['event_id'], {}).get('legs', ())]
        if 'reservation_id' in a:
            alone.add(('reservation', a['reservation_id']))
            items += [line['item'] for key, line in lines.items() if key[0] == a['reservation_id']]
        if a.get('owner') is not None:
            alone.add(('owner', a['owner']))
            for key, line in lines.items():
                if line['owner'] == a['owner']:
                    alone.add(('reservation', key[0]))
                    items += [line['item']] if line['state'] == 'held' else []
        if a.get('request_id') is not None:
            alone.add(('request', a['request_id']))
        for key, line in lines.items():
            # The engine may write the expire event of a hold along the way.
            if name == 'reserve' and line['item'] in items and line['state'] == 'held' and not m.alive(line):
                alone.add(('reservation', key[0]))
        if name in ('set_on_hand', 'reverse'):
            alone |= {('count', item) for item in items}
        if name.startswith('read'):
            items = []
        return alone, {('item', item) for item in items}

    def conflicts(self, session, name, a):
        """The sessions whose open transaction may be in the way of a call."""
        alone, shared = self.needs(session, name, a)
        wanted = alone | {('count', key[1]) for key in shared}
        wanted |= {key for key in shared if ('count', key[1]) in alone or key[1] not in self.model.known}
        return [s for s, tx in self.model.open.items() if s != session and tx.touched & wanted]

    # Steps -----------------------------------------------------------------

    def commit(self, session):
        """The model's commit.  What it brings was recorded when the transaction
        wrote first, so it belongs to the moments since then."""
        m, tx = self.model, self.model.open[session]
        change = collections.defaultdict(lambda: [0, 0])
        for item, moved in tx.moved.items():
            change[item][0] += moved[0] - moved[1]
        for key, line in tx.lines.items():
            for sign, line in (1, line), (-1, m.lines.get(key)):
                if line is not None and line['state'] == 'committed':
                    change[line['item']][1] += sign * (line['quantity'] - line['shipped'] - line['released'])
        tried, written = self.first_write.pop(session, (None, None))
        if any(c != [0, 0] for c in change.values()):
            for at in list(self.moments):
                if tried <= at < written:
                    # Its first call has failed; whether that set its time is not our business.
                    del self.moments[at]
                elif at >= written:
                    for item, (on_hand, committed) in change.items():
                        self.moments[at][item][0] += on_hand
                        self.moments[at][item][1] += committed
                    self.count['late commits'] += 1
        m.commit(session)

    def written(self, tx):
        """What a transaction has events of: a call may also do nothing, such as
        try_reserve when short, and then does not set the transaction's time."""
        return ({item: list(moved) for item, moved in tx.moved.items() if any(moved)},
                {key: (line['state'], line['shipped'], line['released']) for key, line in tx.lines.items()})

    def rollback(self, session):
        self.first_write.pop(session, None)
        self.model.rollback(session)

    def remember(self):
        """What there is at this moment, which then will be the past."""
        m = self.model
        now = collections.defaultdict(lambda: [0, 0])
        for item in m.known:
            now[item][0] = m.on_hand[item]
        for line in m.lines.values():
            if line['state'] == 'committed':
                now[line['item']][1] += line['quantity'] - line['shipped'] - line['released']
        self.moments[m.clock] = now

    def end(self, session):
        """Ends a session's transaction, one way or the other."""
        how = self.random.choice(('COMMIT', 'COMMIT', 'ROLLBACK'))
        self.log.append('%s: %s' % (session, how))
        self.sessions[session].ask(how)
        (self.commit if how == 'COMMIT' else self.rollback)(session)
        self.count[how.lower()] += 1

    def blocked(self, session):
        return self.admin.ask('SELECT cardinality(pg_blocking_pids(%s)) > 0', (self.sessions[session].pid,))[0][0]

    def statement(self, session, name, a):
        m, backend = self.model, self.sessions[session]
        in_way = self.conflicts(session, name, a)
        if session in m.open and m.open[session].old_snapshot and (
                name in ('confirm', 'ship', 'release', 'extend', 'release_owner', 'reverse') or a.get('owner') or 'request_id' in a):
            return
        locks = set.union(*self.needs(session, name, a))
        # Two transactions that wait for each other would be a deadlock of the
        # test's own making: only who has nothing yet waits.
        if in_way and session in m.open:
            return
        tx = m.open.get(session)
        implicit = tx is None
        sql, values = self.sql_of(name, a)
        self.log.append('%s: %s' % (session, (sql, values)))
        backend.send(sql, values)
        waits = 0
        while True:
            try:
                answer = backend.answer(timeout=.05 if not in_way else .01)
                break
            except queue.Empty:
                waits += 1
                if self.blocked(session):
                    if not in_way:
                        raise Difference('waits although no transaction is in its way: %s' % self.admin.ask(
                            "SELECT locktype, classid, objid, objsubid, relation::regclass::text, mode, transactionid, pg_blocking_pids(pid), "
                            "(SELECT array_agg(application_name) FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids(l.pid))) "
                            "FROM pg_locks l WHERE pid = %s AND NOT granted", (backend.pid,)))
                    self.count['waited'] += 1
                    self.end(in_way.pop())
                    in_way = self.conflicts(session, name, a)
                    waits = 0
                elif waits > 1000:
                    raise Difference('does not end')
        if implicit:
            m.begin(session)
            tx = m.open[session]
        before = self.written(tx)
        got = answer[1][0][0] if answer[0] == 'rows' else None
        if isinstance(got, datetime.datetime):
            got = got.astimezone(UTC)
        try:
            expected = ('rows', self.predict(tx, name, a, got))
        except Refused as refused:
            expected = ('error', refused.codes)
        if not name.startswith('read'):
            tried, written = self.first_write.get(session, (m.clock, None))
            self.first_write[session] = tried, written or (m.clock if self.written(tx) != before else None)
        if answer[0] != expected[0] or (got != expected[1] if answer[0] == 'rows' else answer[1] not in expected[1]):
            raise Difference('engine: %s, model: %s' % (answer, expected))
        self.count[name if answer[0] == 'rows' else answer[1]] += 1
        if answer[0] == 'rows' and not name.startswith('read') and got is None and name == 'reserve':
            self.count['try_reserve short'] += 1
        # What it has locked stays locked, also when it has done nothing.
        tx.touched |= locks.union(*self.needs(session, name, a))
        if implicit:
            (self.commit if answer[0] == 'rows' else self.rollback)(session)
        elif answer[0] == 'error':
            self.after_error(session)

    def after_error(self, session):
        tx = self.model.open[session]
        if tx.savepoints and self.random.random() < .7:
            self.back_to(session)
        else:
            self.sessions[session].ask('ROLLBACK')
            self.rollback(session)
            self.log.append('%s: ROLLBACK' % session)
            self.count['rollback'] += 1

    def back_to(self, session):
        name = self.random.choice(self.model.open[session].savepoints)[0]
        self.log.append('%s: ROLLBACK TO %s' % (session, name))
        self.sessions[session].ask('ROLLBACK TO ' + name)
        self.model.rollback_to(session, name)
        self.count['rollback to savepoint'] += 1

    def advance(self):
        """The clock goes on, to a deadline now and then, but not past one of a
        hold that is not committed: what the engine may do about it is left open."""
        m = self.model
        deadlines = sorted({l['expires'] for l in m.lines.values() if l['state'] == 'held' and l['expires'] and l['expires'] > m.clock})
        at = self.random.choice(deadlines[:3]) if deadlines and self.random.random() < .5 else \
            m.clock + datetime.timedelta(seconds=self.random.choice((1, 30, 300, 300, 3000)))
        limits = [l['expires'] for tx in m.open.values() for l in tx.lines.values() if l['state'] == 'held' and l['expires']]
        if limits and at >= min(limits):
            return
        self.log.append('clock: %s' % at)
        self.remember()
        m.clock = at
        self.admin.ask('SELECT inventory.set_test_clock(%s)', (at,))
        self.count['clock'] += 1

    def master_data(self):
        r, m = self.random, self.model
        what = r.random()
        if what < .4:
            sku = r.choice(sorted(m.skus))
            m.skus[sku]['safety_stock'] = r.randint(0, 6)
            m.skus[sku]['backorder_limit'] = None if sku == 'endless' else r.choice((0, 0, 3, 8))
            sql, values = 'UPDATE inventory.sku SET safety_stock = %s, backorder_limit = %s WHERE sku = %s', (
                m.skus[sku]['safety_stock'], m.skus[sku]['backorder_limit'], sku)
        elif what < .6:
            sku = r.choice(sorted(m.skus))
            m.skus[sku]['active'] = r.random() < .8 or not all(x['active'] for x in m.skus.values())
            sql, values = 'UPDATE inventory.sku SET active = %s WHERE sku = %s', (m.skus[sku]['active'], sku)
        elif what < .75:
            location = r.choice(('A', 'B', 'A1'))
            m.locations[location]['active'] = r.random() < .7 or not all(x['active'] for x in m.locations.values())
            sql, values = 'UPDATE inventory.location SET active = %s WHERE location = %s', (m.locations[location]['active'], location)
        else:
            sku, lot = r.choice(sorted(m.lots))
            m.lots[sku, lot]['status'] = r.choice(('active', 'active', 'blocked'))
            sql, values = 'UPDATE inventory.lot SET status = %s WHERE lot = %s AND sku_id = (SELECT sku_id FROM inventory.sku WHERE sku = %s)', (
                m.lots[sku, lot]['status'], lot, sku)
        self.log.append('admin: %s' % ((sql, values),))
        self.admin.ask(sql, values)
        self.count['master data'] += 1

    def project(self):
        """The projector goes on: starts a run that is not waited for, or a
        transaction with a run in it; or ends what it has started."""
        r, p = self.random, self.projector
        if self.projecting is None:
            self.projecting = r.choice(('alone', 'alone', 'COMMIT', 'COMMIT', 'ROLLBACK'))
            if self.projecting == 'alone':
                p.send('SELECT inventory.project()')
            else:
                p.ask('BEGIN')
                p.ask('SELECT inventory.project()')
            return
        if self.projecting == 'alone':
            answer = p.answer()
            if answer[0] == 'error':
                raise Difference('project(): %s' % (answer,))
            self.count['events projected'] += answer[1][0][0]
        else:
            p.ask(self.projecting)
        self.count['projection: ' + self.projecting] += 1
        self.projecting = None

    def step(self):
        r, m = self.random, self.model
        self.look_for_items()
        if r.random() < .1:
            self.project()
        session = r.randrange(SESSIONS)
        chance = r.random()
        if chance < .04:
            self.advance()
        elif chance < .046:
            self.master_data()
        elif chance < .08:
            # Its events change no quantity that counts, only the rows.
            if not m.open:
                self.log.append('admin: expire_due')
                self.admin.ask('SELECT inventory.expire_due()')
                self.count['expire_due'] += 1
        elif session not in m.open and chance < .2:
            level = r.choice(('READ COMMITTED', 'READ COMMITTED', 'REPEATABLE READ'))
            self.sessions[session].ask('BEGIN ISOLATION LEVEL ' + level)
            m.begin(session)
            if level != 'READ COMMITTED':
                # The levels are the same for every snapshot.  What depends on
                # rows that the snapshot cannot see is left to other tests.
                self.sessions[session].ask('SELECT FROM inventory.sku')
                m.open[session].old_snapshot = True
                self.count['old snapshot'] += 1
            self.log.append('%s: BEGIN ISOLATION LEVEL %s' % (session, level))
        elif session in m.open and chance < .2:
            self.end(session)
        elif session in m.open and chance < .28:
            self.number += 1
            name = 's%d' % self.number
            self.sessions[session].ask('SAVEPOINT ' + name)
            m.savepoint(session, name)
            self.log.append('%s: SAVEPOINT %s' % (session, name))
        elif session in m.open and m.open[session].savepoints and chance < .34:
            if r.random() < .7:
                self.back_to(session)
            else:
                name = r.choice(m.open[session].savepoints)[0]
                self.log.append('%s: RELEASE %s' % (session, name))
                self.sessions[session].ask('RELEASE ' + name)
                m.release_savepoint(session, name)
        else:
            self.statement(session, *self.random_call(m.open.get(session)))

    # Comparison ------------------------------------------------------------

    def compare_levels(self):
        """What everybody sees, of every stock item that is loaded."""
        m = self.model
        for sku, location, lot, condition, on_hand, available, overdue, next_expiry in self.admin.ask('''
SELECT s.sku, l.location, t.lot, k.condition, v.on_hand, v.available, v.overdue, v.next_expiry
FROM inventory.levels() v JOIN inventory.stock k USING (stock_id) JOIN inventory.sku s USING (sku_id)
JOIN inventory.location l USING (location_id) LEFT JOIN inventory.lot t USING (lot_id)'''):
            item = (sku, location, lot, condition)
            if next_expiry is not None and next_expiry <= m.clock:
                continue
            self.count['levels compared'] += 1
            if (on_hand, available) != m.shared(item):
                raise Difference('level of %s: engine %s, model %s' % (item, (on_hand, available), m.shared(item)))

    def look_for_items(self):
        """A call that has done nothing may have made the stock item all the same."""
        if not self.model.known.issuperset(self.places):
            self.model.known |= {tuple(item) for item in self.admin.ask('''
SELECT s.sku, l.location, t.lot, k.condition FROM inventory.stock k JOIN inventory.sku s USING (sku_id)
JOIN inventory.location l USING (location_id) LEFT JOIN inventory.lot t USING (lot_id)''')}

    def settle(self):
        """Asks for each level, which looks at the deadlines that have passed."""
        for sku in sorted(self.model.skus):
            got = self.admin.ask('SELECT inventory.available(%s), inventory.on_hand(%s)', (sku, sku))[0]
            expected = (self.model.read_available(None, sku, None, None), self.model.read_on_hand(None, sku, None, None))
            if got != expected:
                raise Difference('available and on hand of %s: engine %s, model %s' % (sku, got, expected))

    def compare_view(self, session):
        """A session's own view of the tables: what is committed, and its own."""
        m = self.model
        tx = m.open.get(session) or Transaction()
        if tx.old_snapshot:
            return
        expected = collections.defaultdict(lambda: [0, 0, 0])
        for item in m.known:
            expected[item][0] += m.on_hand[item]
        for item, moved in tx.moved.items():
            expected[item][0] += moved[0] - moved[1]
        for line in m.line_of(tx).values():
            left = line['quantity'] - line['shipped'] - line['released']
            if m.alive(line):
                expected[line['item']][1 if line['state'] == 'held' else 2] += left
        for *item, on_hand, reserved, committed in self.sessions[session].ask(
                'SELECT sku, location, lot, condition, on_hand, reserved, committed FROM inventory.stock_level'):
            if [on_hand, reserved, committed] != expected[tuple(item)]:
                raise Difference('stock_level of %s in session %s: engine %s, model %s' % (
                    item, session, [on_hand, reserved, committed], expected[tuple(item)]))
        self.count['views compared'] += 1

    def compare_past(self):
        """What there was at an earlier moment, as is known now."""
        if not self.moments:
            return
        at = self.random.choice(sorted(self.moments))
        expected = {item: list(q) for item, q in self.moments[at].items() if q != [0, 0]}
        got = {tuple(item): [on_hand, committed] for *item, on_hand, committed in self.admin.ask(
            'SELECT sku, location, lot, condition, on_hand, committed FROM inventory.stock_at(%s)', (at,)) if [on_hand, committed] != [0, 0]}
        if got != expected:
            raise Difference('stock_at(%s): engine and model differ in %s' % (
                at, [(i, got.get(i), expected.get(i)) for i in {**got, **expected} if got.get(i) != expected.get(i)]))
        self.count['moments compared'] += 1

    def run(self):
        for self.at in range(self.steps):
            self.step()
            if self.random.random() < .3:
                self.settle()
            self.compare_levels()
            if self.random.random() < .06:
                self.compare_view(self.random.randrange(SESSIONS))
            if self.random.random() < .06:
                self.compare_past()
        for session in sorted(self.model.open):
            self.end(session)
        if self.projecting:
            self.project()
        self.settle()
        self.compare_levels()
        self.compare_view(0)
        self.admin.ask('SELECT inventory.project()')
        self.compare_view(0)
        for _ in self.moments:
            self.compare_past()
        found = self.admin.ask('SELECT * FROM inventory.verify()')
        if found:
            raise Difference('verify(): %s' % found)
        pins = self.admin.ask('SELECT coalesce(sum(pins), 0) FROM inventory.levels()')[0][0]
        if pins:
            raise Difference('%s pins are left' % pins)
        missing = self.admin.ask('SELECT sum(events) - (SELECT count(*) FROM inventory.event) FROM inventory.tick')[0][0]
        if missing:
            raise Difference('%s events are in ticks too often' % missing)
        self.admin.ask('ALTER SYSTEM RESET inventory.snapshot_events')
        self.admin.ask('SELECT inventory.set_test_clock(NULL)')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seed', type=int, default=random.randrange(10 ** 6))
    parser.add_argument('--steps', type=int, default=4000)
    arguments = parser.parse_args()
    print('seed %d, steps %d' % (arguments.seed, arguments.steps), flush=True)
    started = time.time()
    run = Run(arguments.seed, arguments.steps)
    try:
        run.run()
    except (Difference, AssertionError) as difference:
        print('\n'.join(run.log))
        for session, tx in sorted(run.model.open.items()):
            print('open: %s has touched %s' % (session, sorted(map(str, tx.touched))))
        print('step %s: %s' % (getattr(run, 'at', '?'), difference))
        print('NOT AS THE MODEL SAYS: repeat with --seed %d --steps %d' % (arguments.seed, arguments.steps))
        return 1
    print(', '.join('%s %d' % pair for pair in sorted(run.count.items())))
    # A run that never meets a refusal or a wait proves little.
    rare = [what for what in ('reserve', 'confirm', 'ship', 'release', 'extend', 'transfer', 'reverse', 'set_on_hand', 'waited',
                              'projection: alone', 'projection: COMMIT', 'projection: ROLLBACK', 'late commits', 'moments compared',
                              'IV001', 'IV008', 'IV009', 'IV010', 'rollback', 'rollback to savepoint', 'clock')
            if arguments.steps >= 2000 and run.count[what] < 5]
    if rare:
        print('too rare to prove anything: ' + ', '.join(rare))
        return 1
    print('as the model says, %.0f s' % (time.time() - started))
    return 0


if __name__ == '__main__':
    sys.exit(main())
