-- Reservations: held for an owner until a deadline, then committed to an order,
-- then shipped.  A line moves between these states:
--
--             reserve            confirm              ship (all of it)
--   available ------->   held   -------> committed -------------------> closed
--                         |  |               |
--          deadline passed|  |release        |release (the rest)
--                         v  v               v
--                    expired released   released, or closed if part was shipped

CREATE TYPE inventory.reservation_state AS ENUM (
	'held', 'committed', 'closed', 'released', 'expired');
COMMENT ON TYPE inventory.reservation_state IS 'What has become of a reservation line.';

CREATE SEQUENCE inventory.reservation_reservation_id_seq;

CREATE TABLE inventory.reservation (
	reservation_id bigint NOT NULL DEFAULT nextval('inventory.reservation_reservation_id_seq'),
	line_no integer NOT NULL DEFAULT 1,
	state inventory.reservation_state NOT NULL DEFAULT 'held',
	stock_id bigint NOT NULL,
	quantity bigint NOT NULL,
	shipped bigint NOT NULL DEFAULT 0,
	released bigint NOT NULL DEFAULT 0,
	expires_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT inventory.transaction_time(),
	owner text COLLATE "C",
	reference text,
	CONSTRAINT reservation_pkey PRIMARY KEY (reservation_id, line_no)
);
ALTER SEQUENCE inventory.reservation_reservation_id_seq OWNED BY inventory.reservation.reservation_id;
CREATE INDEX reservation_stock_id_expires_at_idx ON inventory.reservation (stock_id, expires_at);
CREATE INDEX reservation_expires_at_idx ON inventory.reservation (expires_at);
CREATE INDEX reservation_owner_idx ON inventory.reservation (owner) WHERE owner IS NOT NULL;
COMMENT ON TABLE inventory.reservation IS 'One row per reservation line. Read the view open_reservation; write through the functions.';
COMMENT ON COLUMN inventory.reservation.reservation_id IS 'Number of the reservation.';
COMMENT ON COLUMN inventory.reservation.line_no IS 'Number of the line in it, from 1.';
COMMENT ON COLUMN inventory.reservation.state IS 'held, committed, closed (shipped as far as wanted), released or expired. A held line past its deadline does not count any more, whatever stands here.';
COMMENT ON COLUMN inventory.reservation.stock_id IS 'The stock item.';
COMMENT ON COLUMN inventory.reservation.quantity IS 'Base units reserved.';
COMMENT ON COLUMN inventory.reservation.shipped IS 'Base units of them that have been shipped.';
COMMENT ON COLUMN inventory.reservation.released IS 'Base units of them that have been given back, by release or by expiry.';
COMMENT ON COLUMN inventory.reservation.expires_at IS 'The deadline of a held line: the first moment at which it no longer counts; NULL when there is none, and after the line has left the state held.';
COMMENT ON COLUMN inventory.reservation.created_at IS 'When it was made.';
COMMENT ON COLUMN inventory.reservation.owner IS 'Whom it is for: a cart, an order.';
COMMENT ON COLUMN inventory.reservation.reference IS 'The business document that caused it.';
COMMENT ON INDEX inventory.reservation_pkey IS 'Query: the lines of a reservation (confirm, ship, release, extend).';
COMMENT ON INDEX inventory.reservation_stock_id_expires_at_idx IS 'Query: the holds of a stock item in the order of their deadlines (exact expiry).';
COMMENT ON INDEX inventory.reservation_expires_at_idx IS 'Query: the next deadline of all, and the holds past theirs (expiry, views).';
COMMENT ON INDEX inventory.reservation_owner_idx IS 'Query: the reservations of an owner (reserving again, release_owner).';
CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.reservation
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

SELECT pg_extension_config_dump('inventory.reservation', '');
SELECT pg_extension_config_dump('inventory.reservation_reservation_id_seq', '');

CREATE FUNCTION inventory.reserve(
	sku text,
	location text,
	quantity bigint,
	ttl interval DEFAULT '15 minutes',
	owner text DEFAULT NULL,
	lot text DEFAULT NULL,
	condition text DEFAULT 'good',
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	reason text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_reserve';
REVOKE ALL ON FUNCTION inventory.reserve(text, text, bigint, interval, text, text, text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.reserve(text, text, bigint, interval, text, text, text, text, text, text, timestamptz, jsonb) IS
'Holds quantity (base units, positive) until the deadline now + ttl (NULL: none). What the same owner holds of the same stock item is replaced. Returns the reservation id; IV001 if short.';

CREATE FUNCTION inventory.reserve(
	lines jsonb,
	ttl interval DEFAULT '15 minutes',
	owner text DEFAULT NULL,
	mode text DEFAULT 'all',
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	reason text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_reserve_lines';
REVOKE ALL ON FUNCTION inventory.reserve(jsonb, interval, text, text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.reserve(jsonb, interval, text, text, text, text, text, timestamptz, jsonb) IS
'Holds several lines: [{"sku":"A","location":"L","quantity":2,"lot":"optional"}, ...]; mode all: all or nothing; partial: of each line as much as there is. Returns the reservation id; IV001 if short.';

CREATE FUNCTION inventory.try_reserve(
	sku text,
	location text,
	quantity bigint,
	ttl interval DEFAULT '15 minutes',
	owner text DEFAULT NULL,
	lot text DEFAULT NULL,
	condition text DEFAULT 'good',
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	reason text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_try_reserve';
REVOKE ALL ON FUNCTION inventory.try_reserve(text, text, bigint, interval, text, text, text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.try_reserve(text, text, bigint, interval, text, text, text, text, text, text, timestamptz, jsonb) IS
'As reserve, but returns NULL when short, at the cost of a memory read.';

CREATE FUNCTION inventory.try_reserve(
	lines jsonb,
	ttl interval DEFAULT '15 minutes',
	owner text DEFAULT NULL,
	mode text DEFAULT 'all',
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	reason text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_try_reserve_lines';
REVOKE ALL ON FUNCTION inventory.try_reserve(jsonb, interval, text, text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.try_reserve(jsonb, interval, text, text, text, text, text, timestamptz, jsonb) IS
'As reserve, but returns NULL when short, at the cost of a memory read.';

CREATE FUNCTION inventory.confirm(
	reservation_id bigint,
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	reason text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_confirm';
REVOKE ALL ON FUNCTION inventory.confirm(bigint, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.confirm(bigint, text, text, text, timestamptz, jsonb) IS
'The held lines become committed: the cart is an order, without a deadline. Returns the number of lines.';

CREATE FUNCTION inventory.ship(
	reservation_id bigint,
	lines jsonb DEFAULT NULL,
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	reason text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_ship';
REVOKE ALL ON FUNCTION inventory.ship(bigint, jsonb, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.ship(bigint, jsonb, text, text, text, timestamptz, jsonb) IS
'Committed goods leave: all that remains, or [{"line_no":1,"quantity":2}, ...] or [{"sku":"A","quantity":2}, ...]; without quantity all of that line. Can be called several times. Returns the number of events written.';

CREATE FUNCTION inventory.release(
	reservation_id bigint,
	lines jsonb DEFAULT NULL,
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	reason text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_release';
REVOKE ALL ON FUNCTION inventory.release(bigint, jsonb, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.release(bigint, jsonb, text, text, text, timestamptz, jsonb) IS
'Gives back held or committed goods: all that remains, or the given lines as in ship. Returns the number of events written.';

CREATE FUNCTION inventory.extend(
	reservation_id bigint,
	ttl interval,
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	reason text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS timestamptz
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_extend';
REVOKE ALL ON FUNCTION inventory.extend(bigint, interval, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.extend(bigint, interval, text, text, text, timestamptz, jsonb) IS
'Moves the deadline of the held lines to now + ttl (NULL: no deadline). Returns the new deadline.';

CREATE FUNCTION inventory.release_owner(
	owner text,
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	reason text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_release_owner';
REVOKE ALL ON FUNCTION inventory.release_owner(text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.release_owner(text, text, text, text, timestamptz, jsonb) IS
'Gives back everything that this owner holds; what is committed stays. Returns the number of lines released.';

CREATE FUNCTION inventory.expire_due(
	max_lines integer DEFAULT 1000
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_expire_due';
REVOKE ALL ON FUNCTION inventory.expire_due(integer) FROM PUBLIC;
COMMENT ON FUNCTION inventory.expire_due(integer) IS
'Writes the expire events of holds past their deadline, at most max_lines of them; returns how many. Such holds have stopped counting at their deadline already: this is book-keeping, and the engine also does it along the way.';
