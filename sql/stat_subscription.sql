-- Subscriptions at a glance: what the delivery processes say, what is parked,
-- and what is wrong before any process has tried.

CREATE VIEW inventory.stat_subscription AS
SELECT s.name AS subscription, s.owner, s.topics, s.sink,
	CASE WHEN s.state <> 'active' THEN s.state
		WHEN NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.owner)
			OR s.sink = 'function' AND NOT EXISTS (SELECT FROM pg_proc p
				JOIN pg_namespace n ON n.oid = p.pronamespace, parse_ident(s.options->>'handler') h(name)
				WHERE n.nspname = h.name[1] AND p.proname = h.name[2]
					AND p.pronargs = 1 AND p.proargtypes[0] = 'inventory.message'::regtype)
			OR s.sink NOT IN ('function', 'notify', 'command')
				AND NOT EXISTS (SELECT FROM pg_foreign_server f WHERE f.srvname = s.sink)
			THEN 'broken'
		ELSE coalesce((ARRAY['broken', 'crashed', 'no free worker process', 'backoff', 'running', 'idle'])[d.state],
			'stopped') END AS state,
	s.workers, coalesce(d.processes, 0) AS processes,
	coalesce(d.delivered, 0) AS delivered, coalesce(d.failed, 0) AS failed,
	coalesce(d.backlog, 0) AS backlog, d.lag_messages,
	extract(epoch FROM clock_timestamp() - d.behind_since)::double precision AS lag_seconds,
	coalesce(p.parked, 0) AS parked, coalesce(p.blocked_keys, 0) AS blocked_keys,
	coalesce(p.dead, 0) AS dead,
	d.last_delivered_at, d.last_error_at, d.retry_at,
	d.last_error
FROM inventory.subscription s
LEFT JOIN (
	SELECT t.subscription_id,
		min(array_position(ARRAY['broken', 'crashed', 'no free worker process', 'backoff', 'running', 'idle'], t.state)) AS state,
		count(t.pid) AS processes, sum(t.delivered)::bigint AS delivered, sum(t.failed)::bigint AS failed,
		sum(t.backlog)::bigint AS backlog, max(t.lag_messages) AS lag_messages, min(t.behind_since) AS behind_since,
		max(t.last_delivered_at) AS last_delivered_at, max(t.last_error_at) AS last_error_at,
		min(t.retry_at) AS retry_at,
		(array_agg(t.last_error ORDER BY t.last_error_at DESC NULLS LAST))[1] AS last_error
	FROM inventory.stat_deliveries() t GROUP BY t.subscription_id
) d USING (subscription_id)
LEFT JOIN (
	SELECT m.subscription_id, count(*) FILTER (WHERE m.state IN ('retry', 'delayed', 'deferred')) AS parked,
		count(DISTINCT m.key) FILTER (WHERE m.state IN ('retry', 'deferred')) AS blocked_keys,
		count(*) FILTER (WHERE m.state IN ('dead', 'skipped')) AS dead
	FROM inventory.parked_message m GROUP BY m.subscription_id
) p USING (subscription_id);
COMMENT ON VIEW inventory.stat_subscription IS 'One row per subscription: how its delivery is. What is counted is since the start of the server; what is parked and dead is as the tables have it.';
COMMENT ON COLUMN inventory.stat_subscription.subscription IS 'Its name.';
COMMENT ON COLUMN inventory.stat_subscription.owner IS 'Whose rights count on the sink.';
COMMENT ON COLUMN inventory.stat_subscription.topics IS 'Patterns of topics.';
COMMENT ON COLUMN inventory.stat_subscription.sink IS 'function, notify, command, or a foreign server.';
COMMENT ON COLUMN inventory.stat_subscription.state IS 'paused; finished; broken: the handler, the server or the owner is gone, or the sink refuses the configuration; or the state of the slice that is worst off, as in stat_delivery.';
COMMENT ON COLUMN inventory.stat_subscription.workers IS 'Number of its slices.';
COMMENT ON COLUMN inventory.stat_subscription.processes IS 'Number of them that have a process now.';
COMMENT ON COLUMN inventory.stat_subscription.delivered IS 'Messages delivered.';
COMMENT ON COLUMN inventory.stat_subscription.failed IS 'Attempts that failed.';
COMMENT ON COLUMN inventory.stat_subscription.backlog IS 'Messages of the open window that are not delivered yet.';
COMMENT ON COLUMN inventory.stat_subscription.lag_messages IS 'At most so many messages are not delivered yet: the backlog, and all that has been published since the process last looked; of several slices, the one that is furthest behind.';
COMMENT ON COLUMN inventory.stat_subscription.lag_seconds IS 'How long the oldest message that is being delivered has been waiting; NULL: none.';
COMMENT ON COLUMN inventory.stat_subscription.parked IS 'Messages that are to be tried again, or wait behind one.';
COMMENT ON COLUMN inventory.stat_subscription.blocked_keys IS 'Keys whose messages wait.';
COMMENT ON COLUMN inventory.stat_subscription.dead IS 'Messages that were given up.';
COMMENT ON COLUMN inventory.stat_subscription.last_delivered_at IS 'When a message was last delivered.';
COMMENT ON COLUMN inventory.stat_subscription.last_error_at IS 'When an attempt last failed.';
COMMENT ON COLUMN inventory.stat_subscription.retry_at IS 'When a sink that is down is tried again.';
COMMENT ON COLUMN inventory.stat_subscription.last_error IS 'Why; for the owner of the subscription and of the extension.';
