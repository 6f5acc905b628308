-- Movements: goods come, go and are put right.  Every function returns the id
-- of the event that it wrote, unless its comment says otherwise.

CREATE FUNCTION inventory.receive(
	sku text,
	location text,
	quantity bigint,
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
	AS 'MODULE_PATHNAME', 'inventory_receive';
REVOKE ALL ON FUNCTION inventory.receive(text, text, bigint, text, text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.receive(text, text, bigint, text, text, text, text, text, timestamptz, jsonb) IS
'Goods come in: adds quantity (base units, positive) to on hand; can be promised from commit on. Returns the event id.';

CREATE FUNCTION inventory.issue(
	sku text,
	location text,
	quantity bigint,
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
	AS 'MODULE_PATHNAME', 'inventory_issue';
REVOKE ALL ON FUNCTION inventory.issue(text, text, bigint, text, text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.issue(text, text, bigint, text, text, text, text, text, timestamptz, jsonb) IS
'Goods go out without a reservation: takes quantity (base units, positive) from on hand, if it is available. Returns the event id; IV001 if short.';

CREATE FUNCTION inventory.adjust(
	sku text,
	location text,
	delta bigint,
	reason text,
	lot text DEFAULT NULL,
	condition text DEFAULT 'good',
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_adjust';
REVOKE ALL ON FUNCTION inventory.adjust(text, text, bigint, text, text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.adjust(text, text, bigint, text, text, text, text, text, timestamptz, jsonb) IS
'Puts on hand right by delta (base units, not 0): damage, loss, find. Never refused because goods are promised; on hand cannot fall below 0 (IV001). Returns the event id.';

CREATE FUNCTION inventory.set_on_hand(
	sku text,
	location text,
	quantity bigint,
	expected bigint,
	reason text DEFAULT NULL,
	lot text DEFAULT NULL,
	condition text DEFAULT 'good',
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_set_on_hand';
REVOKE ALL ON FUNCTION inventory.set_on_hand(text, text, bigint, bigint, text, text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.set_on_hand(text, text, bigint, bigint, text, text, text, text, text, timestamptz, jsonb) IS
'Compare and set: on hand becomes quantity (base units, 0 or more) if it is as expected, otherwise IV012. Waits for the transactions that are moving this stock item. Returns the event id.';

CREATE FUNCTION inventory.transfer(
	sku text,
	from_location text,
	to_location text,
	quantity bigint,
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
	AS 'MODULE_PATHNAME', 'inventory_transfer';
REVOKE ALL ON FUNCTION inventory.transfer(text, text, text, bigint, text, text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.transfer(text, text, text, bigint, text, text, text, text, text, timestamptz, jsonb) IS
'Moves quantity (base units, positive) from one location to another, if it is available there. Returns the id of the transfer_out event; IV001 if short.';

CREATE FUNCTION inventory.reverse(
	event_id bigint,
	reason text,
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_reverse';
REVOKE ALL ON FUNCTION inventory.reverse(bigint, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.reverse(bigint, text, text, text, timestamptz, jsonb) IS
'Takes back a movement by an opposite event, once; both legs of a transfer. Events of reservations are taken back by release(). Returns the event id.';

CREATE FUNCTION inventory.post(
	movements jsonb,
	request_id text DEFAULT NULL,
	reference text DEFAULT NULL,
	reason text DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL,
	metadata jsonb DEFAULT NULL
) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_post_json';
REVOKE ALL ON FUNCTION inventory.post(jsonb, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.post(jsonb, text, text, text, timestamptz, jsonb) IS
'Many movements, all or nothing: [{"type":"receive","sku":"A","location":"L","quantity":5}, ...] with types receive, issue, adjust, transfer (from_location, to_location) and count (quantity, expected). Returns the number of events written.';

CREATE FUNCTION inventory.post(
	type text,
	skus text[],
	locations text[],
	quantities bigint[],
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
	AS 'MODULE_PATHNAME', 'inventory_post_array';
REVOKE ALL ON FUNCTION inventory.post(text, text[], text[], bigint[], text, text, text, text, text, timestamptz, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.post(text, text[], text[], bigint[], text, text, text, text, text, timestamptz, jsonb) IS
'Many movements of one type (receive, issue or adjust), all or nothing, from arrays of equal length: the fast bulk form. Returns the number of events written.';
