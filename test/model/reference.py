"""What the engine should do, said as simply as possible: one thread, dictionaries,
no database.  It shares nothing with the extension but the words.

A stock item is (sku, location, lot, condition).  What stands in `on_hand` and
`lines` is committed; a Transaction keeps what it adds and what it has taken:
takes are seen by everybody at once, gives at the commit.
"""
import copy
import datetime
from collections import defaultdict


class Refused(Exception):
    """The call fails with one of these SQLSTATEs and changes nothing."""

    def __init__(self, *codes):
        self.codes = set(codes)


class Transaction:
    def __init__(self):
        # Per stock item: given and taken on hand, given and taken available.
        self.moved = defaultdict(lambda: [0, 0, 0, 0])
        self.lines, self.requests, self.events = {}, {}, {}
        self.savepoints = []
        # For who uses the model: what it has locked, and what it cannot see.
        self.touched, self.old_snapshot = set(), False

    def state(self):
        return copy.deepcopy((self.moved, self.lines, self.requests, self.events, self.touched))

    def restore(self, state):
        self.moved, self.lines, self.requests, self.events, self.touched = copy.deepcopy(state)


class Model:
    def __init__(self, clock):
        self.clock = clock
        self.skus, self.locations, self.lots = {}, {}, {}
        self.on_hand, self.known = defaultdict(int), set()
        self.lines, self.requests, self.events = {}, {}, {}
        self.promises = defaultdict(set)
        self.open = {}

    # Transactions ----------------------------------------------------------

    def begin(self, session):
        self.open[session] = Transaction()

    def commit(self, session):
        tx = self.open.pop(session)
        for item, (given, taken, _, _) in tx.moved.items():
            self.known.add(item)
            self.on_hand[item] += given - taken
        for mine, all_ in ((tx.lines, self.lines), (tx.requests, self.requests), (tx.events, self.events)):
            all_.update(mine)
        for key, line in tx.lines.items():
            promising = line['state'] in ('held', 'committed')
            (self.promises[line['item']].add if promising else self.promises[line['item']].discard)(key)

    def rollback(self, session):
        self.open.pop(session, None)

    def savepoint(self, session, name):
        tx = self.open[session]
        tx.savepoints.append((name, tx.state()))

    def rollback_to(self, session, name):
        tx = self.open[session]
        while tx.savepoints[-1][0] != name:
            tx.savepoints.pop()
        tx.restore(tx.savepoints[-1][1])

    def release_savepoint(self, session, name):
        tx = self.open[session]
        while tx.savepoints.pop()[0] != name:
            pass

    # Quantities ------------------------------------------------------------

    def alive(self, line):
        return line['state'] == 'committed' or (
            line['state'] == 'held' and (line['expires'] is None or line['expires'] > self.clock))

    def shared(self, item):
        """On hand and available (before safety stock) as everybody sees them."""
        on_hand = available = self.on_hand[item]
        for key in self.promises[item]:
            line = self.lines[key]
            # Whoever has changed a line and not committed yet decides about it.
            if self.alive(line) or any(key in tx.lines for tx in self.open.values()):
                available -= line['quantity'] - line['shipped'] - line['released']
        for tx in self.open.values():
            if item in tx.moved:
                on_hand -= tx.moved[item][1]
                available -= tx.moved[item][3]
        return on_hand, available

    def seen(self, tx, item):
        """The same, with what the transaction itself has given."""
        on_hand, available = self.shared(item)
        if tx and item in tx.moved:
            on_hand += tx.moved[item][0]
            available += tx.moved[item][2]
        return on_hand, available

    def floor(self, item):
        sku = self.skus[item[0]]
        if item[3] != 'good':
            return 0
        return float('-inf') if sku['backorder_limit'] is None else sku['safety_stock'] - sku['backorder_limit']

    def move(self, tx, item, on_hand, available, promise=True):
        """Takes come from the transaction's own gifts first."""
        has_on_hand, has_available = self.seen(tx, item)
        if on_hand < 0 and has_on_hand + on_hand < 0:
            raise Refused('IV001')
        if available < 0 and promise and has_available + available < self.floor(item):
            raise Refused('IV001')
        moved = tx.moved[item]
        for delta, given, taken in ((on_hand, 0, 1), (available, 2, 3)):
            if delta > 0:
                moved[given] += delta
            else:
                own = min(moved[given], -delta)
                moved[given] -= own
                moved[taken] += -delta - own

    # Checks ----------------------------------------------------------------

    def check(self, what, item, quantity=1):
        sku, location, lot, condition = item
        codes = set()
        if quantity is None:
            codes.add('22004')
        elif quantity <= 0:
            codes.add('IV011')
        if condition not in ('good', 'damaged', 'quality_control', 'quarantine'):
            codes.add('IV017')
        if what == 'reserve' and condition != 'good':
            codes.add('IV017')
        if sku not in self.skus or location not in self.locations:
            raise Refused('IV002', *codes)
        if not self.skus[sku]['active'] or not self.locations[location]['active']:
            codes.add('IV003')
        if (lot is not None) != (self.skus[sku]['tracking'] != 'none'):
            codes.add('IV004')
        elif lot is not None and (sku, lot) not in self.lots:
            codes.add('IV002')
        elif lot is not None:
            if what in ('reserve', 'issue') and self.lots[sku, lot]['status'] == 'blocked':
                codes.add('IV005')
            if what in ('reserve', 'issue') and self.expired(sku, lot):
                codes.add('IV006')
        if codes:
            raise Refused(*codes)

    def expired(self, sku, lot):
        day = self.lots[sku, lot]['expires_on']
        return day is not None and day < self.clock.astimezone(datetime.timezone.utc).date()

    # Movements: each gets the id that the engine says it has made -----------

    def receive(self, tx, new, item, quantity):
        self.check('receive', item, quantity)
        self.move(tx, item, quantity, quantity)
        tx.events[new] = {'legs': [(item, quantity)], 'reversed': False}
        return new

    def issue(self, tx, new, item, quantity):
        self.check('issue', item, quantity)
        self.move(tx, item, -quantity, -quantity)
        tx.events[new] = {'legs': [(item, -quantity)], 'reversed': False}
        return new

    def adjust(self, tx, new, item, delta):
        self.check('adjust', item, 1 if delta else delta)
        self.move(tx, item, delta, delta, promise=False)
        tx.events[new] = {'legs': [(item, delta)], 'reversed': False}
        return new

    def set_on_hand(self, tx, new, item, quantity, expected):
        self.check('count', item, quantity + 1)
        has, _ = self.seen(tx, item)
        if has != expected:
            raise Refused('IV012')
        self.move(tx, item, quantity - has, quantity - has, promise=False)
        tx.events[new] = {'legs': [(item, quantity - has)], 'reversed': False}
        return new

    def transfer(self, tx, new, item, to, quantity):
        target = (item[0], to) + item[2:]
        self.check('transfer', item, quantity)
        self.check('transfer', target, quantity)
        self.move(tx, item, -quantity, -quantity)
        self.move(tx, target, quantity, quantity)
        tx.events[new] = {'legs': [(item, -quantity), (target, quantity)], 'reversed': False}
        return new

    def reverse(self, tx, new, event_id):
        event = copy.deepcopy({**self.events, **tx.events}.get(event_id))
        if event is None:
            raise Refused('IV013')
        if event['reversed']:
            raise Refused('IV014')
        for item, delta in event['legs']:
            self.move(tx, item, -delta, -delta, promise=False)
        event['reversed'] = True
        tx.events[event_id] = event
        tx.events[new] = {'legs': [], 'reversed': True}
        return new

    def post(self, tx, new, movements):
        """All or nothing; each line finds what the earlier ones have left."""
        for kind, item, quantity in movements:
            self.check(kind, item, quantity if kind != 'adjust' else (1 if quantity else 0))
        for kind, item, quantity in movements:
            delta = -quantity if kind == 'issue' else quantity
            self.move(tx, item, delta, delta, promise=kind == 'issue')
        return len(movements)

    # Reservations ----------------------------------------------------------

    def line_of(self, tx):
        return {**self.lines, **(tx.lines if tx else {})}

    def change(self, tx, key, **values):
        tx.lines[key] = {**self.line_of(tx)[key], **values}

    def give_back(self, tx, key, quantity):
        line = self.line_of(tx)[key]
        self.move(tx, line['item'], 0, quantity)
        done = line['shipped'] + line['released'] + quantity == line['quantity']
        state = ('closed' if line['shipped'] else 'released') if done else line['state']
        self.change(tx, key, released=line['released'] + quantity, state=state,
                    expires=line['expires'] if state == 'held' else None)

    def reserve(self, tx, new, lines, seconds, owner, mode='all', trying=False):
        if seconds is not None and seconds <= 0:
            raise Refused('IV019')
        for item, quantity in lines:
            self.check('reserve', item, quantity)
        wanted = defaultdict(int)
        for item, quantity in lines:
            wanted[item] += quantity
        for key, line in list(self.line_of(tx).items()):
            if owner is not None and line['owner'] == owner and line['item'] in wanted \
                    and line['state'] == 'held' and self.alive(line):
                self.give_back(tx, key, line['quantity'] - line['shipped'] - line['released'])
        made = []
        left = {item: self.seen(tx, item)[1] - self.floor(item) for item in wanted}
        if mode == 'all' and any(left[item] < wanted[item] for item in wanted):
            if trying:
                return None
            raise Refused('IV001')
        for item, quantity in lines:
            quantity = max(0, min(quantity, left[item]))
            left[item] -= quantity
            if quantity:
                self.move(tx, item, 0, -quantity)
                made.append((item, quantity))
        if not made:
            if trying:
                return None
            raise Refused('IV001')
        for number, (item, quantity) in enumerate(made, 1):
            tx.lines[new, number] = {
                'item': item, 'quantity': quantity, 'shipped': 0, 'released': 0, 'state': 'held', 'owner': owner,
                'expires': None if seconds is None else self.clock + datetime.timedelta(seconds=seconds)}
        return new

    def of_reservation(self, tx, reservation_id, states):
        lines = {key: line for key, line in sorted(self.line_of(tx).items()) if key[0] == reservation_id}
        if not lines:
            raise Refused('IV007')
        fit = {key: line for key, line in lines.items() if line['state'] in states}
        if any(line['state'] == 'held' and not self.alive(line) for line in lines.values()):
            raise Refused('IV008')
        if not fit:
            raise Refused('IV009')
        return fit

    def usable(self, item):
        if item[2] is not None and self.lots[item[0], item[2]]['status'] == 'blocked':
            raise Refused('IV005')

    def confirm(self, tx, new, reservation_id):
        lines = self.of_reservation(tx, reservation_id, ('held',))
        for key, line in lines.items():
            self.usable(line['item'])
            self.change(tx, key, state='committed', expires=None)
        return len(lines)

    def parts(self, tx, reservation_id, states, parts):
        lines = self.of_reservation(tx, reservation_id, states)
        if parts is None:
            return [(key, line['quantity'] - line['shipped'] - line['released']) for key, line in lines.items()]
        chosen = []
        for number, quantity in parts:
            line = lines.get((reservation_id, number))
            if quantity <= 0:
                raise Refused('IV011')
            if (reservation_id, number) not in self.line_of(tx):
                raise Refused('IV015')
            if line is None or quantity > line['quantity'] - line['shipped'] - line['released']:
                raise Refused('IV009')
            chosen.append(((reservation_id, number), quantity))
        return chosen

    def ship(self, tx, new, reservation_id, parts):
        chosen = self.parts(tx, reservation_id, ('committed',), parts)
        wrong = set()
        for key, quantity in chosen:
            line = self.line_of(tx)[key]
            try:
                self.usable(line['item'])
                self.move(tx, line['item'], -quantity, 0)
            except Refused as refused:
                wrong |= refused.codes
                continue
            done = line['shipped'] + line['released'] + quantity == line['quantity']
            self.change(tx, key, shipped=line['shipped'] + quantity, state='closed' if done else 'committed')
        if wrong:
            raise Refused(*wrong)
        return len(chosen)

    def release(self, tx, new, reservation_id, parts):
        chosen = self.parts(tx, reservation_id, ('held', 'committed'), parts)
        for key, quantity in chosen:
            self.give_back(tx, key, quantity)
        return len(chosen)

    def extend(self, tx, new, reservation_id, seconds):
        if seconds is not None and seconds <= 0:
            raise Refused('IV019', 'IV007', 'IV008', 'IV009')
        deadline = None if seconds is None else self.clock + datetime.timedelta(seconds=seconds)
        for key in self.of_reservation(tx, reservation_id, ('held',)):
            self.change(tx, key, expires=deadline)
        return deadline

    def release_owner(self, tx, new, owner):
        mine = [key for key, line in self.line_of(tx).items()
                if line['owner'] == owner and line['state'] == 'held' and self.alive(line)]
        for key in mine:
            line = self.line_of(tx)[key]
            self.give_back(tx, key, line['quantity'] - line['shipped'] - line['released'])
        return len(mine)

    # Reading ---------------------------------------------------------------

    def inside(self, location, top):
        while location is not None and location != top:
            location = self.locations[location]['parent']
        return location is not None or top is None

    def items(self, tx, sku, location, lot):
        if sku not in self.skus or location is not None and location not in self.locations \
                or lot is not None and (sku, lot) not in self.lots:
            raise Refused('IV002')
        known = self.known | set(tx.moved if tx else ())
        return [i for i in known if i[0] == sku and (lot is None or i[2] == lot) and self.inside(i[1], location)]

    def read_on_hand(self, tx, sku, location, lot):
        return sum(self.seen(tx, item)[0] for item in self.items(tx, sku, location, lot))

    def read_available(self, tx, sku, location, lot):
        total = 0
        for item in self.items(tx, sku, location, lot):
            on_hand, available = self.seen(tx, item)
            usable = item[3] == 'good' and self.skus[sku]['active'] and self.locations[item[1]]['active'] and (
                item[2] is None or self.lots[sku, item[2]]['status'] == 'active' and not self.expired(sku, item[2]))
            if usable and (on_hand, available) != (0, 0):
                total += available - self.skus[sku]['safety_stock']
        return total
