-- Commands: stock operations that are handed in, executed later by a worker, and
-- compensated when that fails; sagas, several of them in a row.
--
-- A command is a message.  What has become of it is inserted here, once: the key
-- decides between whoever executes it, cancel() and any other.  Nothing is ever
-- updated.  A saga's next command is handed in by the execution of the one before.

CREATE TABLE inventory.command_result (
	message_id bigint NOT NULL CONSTRAINT command_result_pkey PRIMARY KEY,
	command text NOT NULL,
	key text COLLATE "C",
	submitted_by regrole NOT NULL,
	submitted_at timestamptz NOT NULL,
	state text NOT NULL CONSTRAINT command_result_state_check CHECK (state IN ('done', 'dead', 'cancelled')),
	result jsonb,
	error text,
	sqlstate text,
	attempts integer NOT NULL,
	finished_at timestamptz NOT NULL,
	saga_id bigint
);
COMMENT ON TABLE inventory.command_result IS 'What has become of commands, for inventory.request_retention days. Read it by command_result() and the view command.';
COMMENT ON COLUMN inventory.command_result.message_id IS 'Number of the command.';
COMMENT ON COLUMN inventory.command_result.command IS 'Which function.';
COMMENT ON COLUMN inventory.command_result.key IS 'The message''s key.';
COMMENT ON COLUMN inventory.command_result.submitted_by IS 'Who has submitted it, and whom it was executed as.';
COMMENT ON COLUMN inventory.command_result.submitted_at IS 'When.';
COMMENT ON COLUMN inventory.command_result.state IS 'done; dead: has failed and is not tried any more; cancelled.';
COMMENT ON COLUMN inventory.command_result.result IS 'What the function returned.';
COMMENT ON COLUMN inventory.command_result.error IS 'Why it failed.';
COMMENT ON COLUMN inventory.command_result.sqlstate IS 'The error''s SQLSTATE, if it was one.';
COMMENT ON COLUMN inventory.command_result.attempts IS 'How often it was tried.';
COMMENT ON COLUMN inventory.command_result.finished_at IS 'When this was decided.';
COMMENT ON COLUMN inventory.command_result.saga_id IS 'The saga that it belongs to.';
COMMENT ON INDEX inventory.command_result_pkey IS 'Query: a command by its number; and decides who finishes it.';

CREATE TABLE inventory.saga_run (
	saga_id bigint NOT NULL CONSTRAINT saga_run_pkey PRIMARY KEY,
	commands jsonb NOT NULL,
	submitted_by regrole NOT NULL,
	submitted_as jsonb NOT NULL,
	submitted_at timestamptz NOT NULL
);
COMMENT ON TABLE inventory.saga_run IS 'Sagas, as they were handed in. Read the view saga.';
COMMENT ON COLUMN inventory.saga_run.saga_id IS 'Number of the saga.';
COMMENT ON COLUMN inventory.saga_run.commands IS 'Its commands, in order.';
COMMENT ON COLUMN inventory.saga_run.submitted_by IS 'Who has submitted it, and whom its commands are executed as.';
COMMENT ON COLUMN inventory.saga_run.submitted_as IS 'The role as messages name it.';
COMMENT ON COLUMN inventory.saga_run.submitted_at IS 'When.';
COMMENT ON INDEX inventory.saga_run_pkey IS 'Query: a saga by its number.';

CREATE TABLE inventory.saga_step (
	saga_id bigint NOT NULL,
	step integer NOT NULL,
	compensation boolean NOT NULL,
	message_id bigint NOT NULL,
	CONSTRAINT saga_step_pkey PRIMARY KEY (saga_id, step, compensation)
);
COMMENT ON TABLE inventory.saga_step IS 'The commands of sagas that have been handed in so far.';
COMMENT ON COLUMN inventory.saga_step.saga_id IS 'The saga.';
COMMENT ON COLUMN inventory.saga_step.step IS 'Which of its commands, from 1.';
COMMENT ON COLUMN inventory.saga_step.compensation IS 'Whether it undoes that command.';
COMMENT ON COLUMN inventory.saga_step.message_id IS 'Number of the command.';
COMMENT ON INDEX inventory.saga_step_pkey IS 'Query: the commands of a saga.';

CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.command_result
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();
CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.saga_run
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();
CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.saga_step
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

SELECT pg_extension_config_dump('inventory.command_result', '');
SELECT pg_extension_config_dump('inventory.saga_run', '');
SELECT pg_extension_config_dump('inventory.saga_step', '');

-- Checking

CREATE FUNCTION inventory.command_names() RETURNS text[]
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY['receive', 'issue', 'adjust', 'set_on_hand', 'transfer', 'reverse', 'post', 'reserve',
		'try_reserve', 'confirm', 'ship', 'release', 'extend', 'release_owner']
$$;
REVOKE ALL ON FUNCTION inventory.command_names() FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_names() IS 'The engine''s own: the functions that can be submitted as commands.';

-- Of functions with the same name, the one whose parameters these are.
CREATE FUNCTION inventory.command_function(command text, arguments jsonb) RETURNS regprocedure
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	given text[];
	found regprocedure[];
	wrong text;
	lacking text;
BEGIN
	IF NOT coalesce(command = ANY (inventory.command_names()), false) THEN
		RAISE EXCEPTION 'unknown command "%"', command
			USING ERRCODE = 'IV026', HINT = 'The commands are ' || array_to_string(inventory.command_names(), ', ') || '.';
	END IF;
	IF coalesce(jsonb_typeof(arguments), '') <> 'object' THEN
		RAISE EXCEPTION 'the arguments of command "%" must be a JSON object', command
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The function''s named parameters, like {"sku": "A", "quantity": 1}.';
	END IF;
	given := ARRAY(SELECT jsonb_object_keys(arguments));
	SELECT array_agg(p.oid::regprocedure ORDER BY p.oid) INTO found
	FROM pg_proc p
	WHERE p.proname = command AND p.pronamespace = 'inventory'::regnamespace
		AND given <@ p.proargnames[1:p.pronargs]
		AND p.proargnames[1:p.pronargs - p.pronargdefaults] <@ given;
	IF cardinality(found) = 1 THEN
		RETURN found[1];
	END IF;
	SELECT min(g) INTO wrong FROM unnest(given) g
	WHERE NOT EXISTS (SELECT FROM pg_proc p WHERE p.proname = command
		AND p.pronamespace = 'inventory'::regnamespace AND g = ANY (p.proargnames[1:p.pronargs]));
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'command "%" has no argument "%"', command, wrong USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT string_agg(format('%s(%s)', command, array_to_string(p.proargnames[1:p.pronargs - p.pronargdefaults], ', ')), ' or ')
	INTO lacking FROM pg_proc p
	WHERE p.proname = command AND p.pronamespace = 'inventory'::regnamespace;
	RAISE EXCEPTION 'command "%" does not go with these arguments: %', command, array_to_string(given, ', ')
		USING ERRCODE = 'invalid_parameter_value', HINT = format('It needs %s.', lacking);
END
$$;
REVOKE ALL ON FUNCTION inventory.command_function(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_function(text, jsonb) IS
'The engine''s own: the function that a command with these arguments calls.';

-- What executes the command; $1 are its arguments.
CREATE FUNCTION inventory.command_statement(command text, arguments jsonb) RETURNS text
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT pg_catalog.to_jsonb(inventory.%I(%s)) FROM pg_catalog.jsonb_to_record($1) AS a(%s)', command,
		string_agg(format('%1$I => a.%1$I', p.name), ', ' ORDER BY p.number),
		string_agg(format('%I %s', p.name, format_type(p.type, NULL)), ', ' ORDER BY p.number))
	FROM (SELECT a.name, a.number, f.proargtypes[a.number - 1] AS type
		FROM pg_proc f, unnest(f.proargnames) WITH ORDINALITY a(name, number)
		WHERE f.oid = inventory.command_function(command, arguments) AND arguments ? a.name) p
$$;
REVOKE ALL ON FUNCTION inventory.command_statement(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_statement(text, jsonb) IS
'The engine''s own: the SQL statement that executes a command, with its arguments as $1.';

-- Strings that stand for a result: $1 for that of a saga's first command, $result
-- for that of the command that is compensated.  $$1 is the string $1.
CREATE FUNCTION inventory.command_substitute(template jsonb, results jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	string text;
BEGIN
	CASE jsonb_typeof(template)
		WHEN 'object' THEN
			RETURN (SELECT coalesce(jsonb_object_agg(e.key, inventory.command_substitute(e.value, results)), '{}') FROM jsonb_each(template) e);
		WHEN 'array' THEN
			RETURN (SELECT coalesce(jsonb_agg(inventory.command_substitute(e.value, results) ORDER BY e.n), '[]')
				FROM jsonb_array_elements(template) WITH ORDINALITY e(value, n));
		WHEN 'string' THEN
			string := template #>> '{}';
			IF string ~ '^\$(result|[0-9]+)$' THEN
				RETURN coalesce(results -> substr(string, 2), 'null');
			ELSIF string ~ '^\$\$+(result|[0-9]+)$' THEN
				RETURN to_jsonb(substr(string, 2));
			END IF;
			RETURN template;
		ELSE
			RETURN template;
	END CASE;
END
$$;
REVOKE ALL ON FUNCTION inventory.command_substitute(jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_substitute(jsonb, jsonb) IS
'The engine''s own: arguments with results in place of the strings that stand for them.';

-- The function exists, takes these arguments, and the role may call it.
CREATE FUNCTION inventory.command_check(role oid, command text, arguments jsonb) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	function regprocedure := inventory.command_function(command, arguments);
	columns text;
BEGIN
	IF NOT has_function_privilege(role, function, 'EXECUTE') THEN
		RAISE EXCEPTION 'permission denied for function %', command USING ERRCODE = 'insufficient_privilege';
	END IF;
	-- Their types, of those that are known already.
	SELECT string_agg(format('%I %s', a.name, format_type(f.proargtypes[a.number - 1], NULL)), ', ') INTO columns
	FROM pg_proc f, unnest(f.proargnames) WITH ORDINALITY a(name, number)
	WHERE f.oid = function AND arguments ? a.name AND (arguments -> a.name)::text !~ '"\$';
	IF columns IS NOT NULL THEN
		EXECUTE format('SELECT FROM jsonb_to_record($1) AS a(%s)', columns) USING arguments;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION inventory.command_check(oid, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_check(oid, text, jsonb) IS
'The engine''s own: an error unless a role may submit a command with these arguments.';

-- Strings in there that stand for a result which there will not be.
CREATE FUNCTION inventory.command_check_references(arguments jsonb, steps integer, result boolean, what text) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	reference text;
BEGIN
	SELECT min(r.string) INTO reference
	FROM (SELECT j #>> '{}' AS string FROM jsonb_path_query(arguments, 'strict $.**') j WHERE jsonb_typeof(j) = 'string') r
	WHERE r.string ~ '^\$(result|[0-9]+)$' AND NOT (r.string = '$result' AND result)
		AND NOT (r.string ~ '^\$[1-9][0-9]{0,2}$' AND substr(r.string, 2, 3)::integer <= steps);
	IF reference IS NOT NULL THEN
		RAISE EXCEPTION '% cannot use %', what, reference
			USING ERRCODE = 'IV015', HINT = 'In a saga, $1 stands for the result of the first command, and in compensate_with $result for that of the command itself. Write $' || reference || ' for the string.';
	END IF;
	-- What cannot be done then is refused now: arrays nested too deeply.
	PERFORM inventory.command_substitute(arguments, '{}');
END
$$;
REVOKE ALL ON FUNCTION inventory.command_check_references(jsonb, integer, boolean, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_check_references(jsonb, integer, boolean, text) IS
'The engine''s own: an error if arguments use results that there will not be.';

CREATE FUNCTION inventory.command_check_compensation(role oid, compensate_with jsonb, steps integer) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF jsonb_typeof(compensate_with) <> 'object' OR NOT compensate_with ? 'command'
		OR compensate_with - ARRAY['command', 'arguments'] <> '{}' THEN
		RAISE EXCEPTION 'compensate_with must be a JSON object with command and arguments'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Like {"command": "release", "arguments": {"reservation_id": "$result"}}.';
	END IF;
	PERFORM inventory.command_check(role, compensate_with ->> 'command', coalesce(compensate_with -> 'arguments', '{}'));
	PERFORM inventory.command_check_references(compensate_with, steps, true, 'compensate_with');
END
$$;
REVOKE ALL ON FUNCTION inventory.command_check_compensation(oid, jsonb, integer) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_check_compensation(oid, jsonb, integer) IS
'The engine''s own: an error unless a role may submit this as a compensation.';

CREATE FUNCTION inventory.command_check_times(not_before timestamptz, deadline timestamptz) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT isfinite(not_before) OR NOT isfinite(deadline) THEN
		RAISE EXCEPTION 'not_before and deadline must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF deadline <= not_before THEN
		RAISE EXCEPTION 'deadline must be later than not_before' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION inventory.command_check_times(timestamptz, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_check_times(timestamptz, timestamptz) IS
'The engine''s own: an error unless a command can have these times.';

-- Times are those of the session that hands in: the worker may have another time
-- zone, and read 01/02 otherwise.
CREATE FUNCTION inventory.command_arguments(command text, arguments jsonb) RETURNS jsonb
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT arguments || coalesce(jsonb_object_agg(a.name, CASE f.proargtypes[a.number - 1]
			WHEN 'date'::regtype THEN to_jsonb((arguments ->> a.name)::date)
			ELSE to_jsonb((arguments ->> a.name)::timestamptz) END), '{}')
	FROM pg_proc f, unnest(f.proargnames) WITH ORDINALITY a(name, number)
	WHERE f.oid = inventory.command_function(command, arguments)
		AND f.proargtypes[a.number - 1] IN ('timestamptz'::regtype, 'date'::regtype)
		AND jsonb_typeof(arguments -> a.name) = 'string' AND arguments ->> a.name !~ '^\$'
$$;
REVOKE ALL ON FUNCTION inventory.command_arguments(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_arguments(text, jsonb) IS
'The engine''s own: the arguments of a command with times that mean the same everywhere.';

CREATE FUNCTION inventory.command_as_meant(command jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN command
		|| jsonb_build_object('arguments',
			inventory.command_arguments(command ->> 'command', coalesce(command -> 'arguments', '{}')))
		|| jsonb_strip_nulls(jsonb_build_object('not_before', (command ->> 'not_before')::timestamptz,
			'deadline', (command ->> 'deadline')::timestamptz))
		|| CASE WHEN command ? 'compensate_with'
			THEN jsonb_build_object('compensate_with', inventory.command_as_meant(command -> 'compensate_with')) ELSE '{}' END;
END
$$;
REVOKE ALL ON FUNCTION inventory.command_as_meant(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_as_meant(jsonb) IS
'The engine''s own: a command of a saga, or a compensation, with times that mean the same everywhere.';

-- Roles.  A message names the role by name and number: within one cluster the
-- number counts, so that a new role with the name of a dropped one is nobody;
-- after a dump was restored elsewhere, the name.

CREATE FUNCTION inventory.command_cluster() RETURNS text
	LANGUAGE c STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_command_cluster';
REVOKE ALL ON FUNCTION inventory.command_cluster() FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_cluster() IS 'The engine''s own: the cluster''s system identifier.';

CREATE FUNCTION inventory.command_role(payload jsonb) RETURNS regrole
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN payload ->> 'cluster' = inventory.command_cluster() THEN (payload ->> 'role_id')::oid
		ELSE coalesce((SELECT r.oid FROM pg_roles r WHERE r.rolname = payload ->> 'role'), 0) END
$$;
REVOKE ALL ON FUNCTION inventory.command_role(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_role(jsonb) IS
'The role that a command''s message names.';

-- Commands are shown to who has submitted them, and to who may retry them.
CREATE FUNCTION inventory.may_see_command(submitted_by regrole) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT pg_has_role(submitted_by::oid, 'USAGE')
		OR has_function_privilege('inventory.retry_pending(interval)', 'EXECUTE')
$$;
REVOKE ALL ON FUNCTION inventory.may_see_command(regrole) FROM PUBLIC;
COMMENT ON FUNCTION inventory.may_see_command(regrole) IS
'Whether the caller sees the commands that a role has submitted, and may cancel them.';

-- Handing in

CREATE FUNCTION inventory.command_append(command text, key text, payload jsonb) RETURNS bigint
	LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_command_append';
REVOKE ALL ON FUNCTION inventory.command_append(text, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_append(text, text, jsonb) IS 'The engine''s own: writes the message of a command.';

CREATE FUNCTION inventory.command_as(role oid) RETURNS jsonb
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('role', pg_get_userbyid(role), 'role_id', role::bigint, 'cluster', inventory.command_cluster())
$$;
REVOKE ALL ON FUNCTION inventory.command_as(oid) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_as(oid) IS 'The engine''s own: a role as the message of a command names it.';

CREATE FUNCTION inventory.command_payload(role oid, command text, arguments jsonb) RETURNS jsonb
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('command', command, 'arguments', arguments) || inventory.command_as(role)
$$;
REVOKE ALL ON FUNCTION inventory.command_payload(oid, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_payload(oid, text, jsonb) IS
'The engine''s own: what the message of a command has at least.';

CREATE FUNCTION inventory.command_submit(role oid, command text, arguments jsonb, not_before timestamptz,
	deadline timestamptz, compensate_with jsonb, key text) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM inventory.command_check(role, command, arguments);
	PERFORM inventory.command_check_times(not_before, deadline);
	IF compensate_with IS NOT NULL THEN
		PERFORM inventory.command_check_compensation(role, compensate_with, 0);
	END IF;
	RETURN inventory.command_append(command, key,
		inventory.command_payload(role, command, inventory.command_arguments(command, arguments))
		|| jsonb_strip_nulls(jsonb_build_object('not_before', not_before, 'deadline', deadline))
		|| CASE WHEN compensate_with IS NULL THEN '{}'
			ELSE jsonb_build_object('compensate_with', inventory.command_as_meant(compensate_with)) END);
END
$$;
REVOKE ALL ON FUNCTION inventory.command_submit(oid, text, jsonb, timestamptz, timestamptz, jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_submit(oid, text, jsonb, timestamptz, timestamptz, jsonb, text) IS
'The engine''s own: the work of submit().';

CREATE FUNCTION inventory.submit(command text, arguments jsonb, request_id text DEFAULT NULL,
	not_before timestamptz DEFAULT NULL, deadline timestamptz DEFAULT NULL,
	compensate_with jsonb DEFAULT NULL, key text DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_submit';
REVOKE ALL ON FUNCTION inventory.submit(text, jsonb, text, timestamptz, timestamptz, jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.submit(text, jsonb, text, timestamptz, timestamptz, jsonb, text) IS
'Hands in a stock operation (receive, issue, reserve, ...; arguments: its named parameters) that is executed once, after the commit, as the caller; not before not_before, not at all after deadline. Tried again when it fails; compensate_with ({"command", "arguments"}) is submitted when it is given up. Commands with the same key are executed in order. Returns its number.';

-- Sagas

CREATE FUNCTION inventory.saga_check(role oid, commands jsonb) RETURNS void
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	step jsonb;
	n integer;
BEGIN
	IF coalesce(jsonb_typeof(commands), '') <> 'array' OR jsonb_array_length(commands) NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'commands must be a JSON array of 1 to 100 objects' USING ERRCODE = 'IV015';
	END IF;
	FOR step, n IN SELECT e.value, e.n FROM jsonb_array_elements(commands) WITH ORDINALITY e(value, n) LOOP
		IF jsonb_typeof(step) <> 'object' OR NOT step ? 'command' OR NOT step ? 'arguments'
			OR step - ARRAY['command', 'arguments', 'compensate_with', 'not_before', 'deadline'] <> '{}' THEN
			RAISE EXCEPTION 'command % of the saga must be an object with command, arguments, and perhaps compensate_with, not_before, deadline', n
				USING ERRCODE = 'IV015';
		END IF;
		IF jsonb_typeof(step -> 'not_before') NOT IN ('string', 'null') OR jsonb_typeof(step -> 'deadline') NOT IN ('string', 'null') THEN
			RAISE EXCEPTION 'not_before and deadline of command % of the saga must be strings', n USING ERRCODE = 'IV015';
		END IF;
		PERFORM inventory.command_check(role, step ->> 'command', step -> 'arguments');
		PERFORM inventory.command_check_times((step ->> 'not_before')::timestamptz, (step ->> 'deadline')::timestamptz);
		IF step ? 'compensate_with' THEN
			PERFORM inventory.command_check_compensation(role, step -> 'compensate_with', n);
		END IF;
		PERFORM inventory.command_check_references(step -> 'arguments', n - 1, false, format('command %s of the saga', n));
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION inventory.saga_check(oid, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.saga_check(oid, jsonb) IS
'The engine''s own: an error unless a role may submit this saga.';

-- A saga's command, with the results of those before it.  The rights were
-- checked when it was submitted, and are again when it is executed.
CREATE FUNCTION inventory.saga_append(saga bigint, number integer, undo boolean) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	run inventory.saga_run;
	step jsonb;
	template jsonb;
	results jsonb;
BEGIN
	SELECT * INTO STRICT run FROM inventory.saga_run r WHERE r.saga_id = saga;
	step := run.commands -> (number - 1);
	template := CASE WHEN undo THEN step -> 'compensate_with' ELSE step END;
	SELECT coalesce(jsonb_object_agg(s.step::text, c.result), '{}') INTO results
	FROM inventory.saga_step s JOIN inventory.command_result c USING (message_id)
	WHERE s.saga_id = saga AND NOT s.compensation AND c.state = 'done';
	IF undo THEN
		results := results || jsonb_build_object('result', results -> number::text);
	END IF;
	INSERT INTO inventory.saga_step (saga_id, step, compensation, message_id)
	VALUES (saga, number, undo, inventory.command_append(template ->> 'command', 'saga-' || saga,
		jsonb_build_object('command', template ->> 'command', 'arguments',
			inventory.command_substitute(coalesce(template -> 'arguments', '{}'), results))
		|| run.submitted_as
		|| CASE WHEN undo THEN '{}' ELSE jsonb_strip_nulls(jsonb_build_object('not_before', template -> 'not_before', 'deadline', template -> 'deadline')) END
		|| jsonb_build_object('saga', saga, 'step', number, 'compensation', undo)));
END
$$;
REVOKE ALL ON FUNCTION inventory.saga_append(bigint, integer, boolean) FROM PUBLIC;
COMMENT ON FUNCTION inventory.saga_append(bigint, integer, boolean) IS
'The engine''s own: hands in a command of a saga, or what undoes it.';

-- One of its commands has come to an end: the next, or what undoes those before.
CREATE FUNCTION inventory.saga_continue(saga bigint, number integer, undo boolean, state text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	commands jsonb := (SELECT r.commands FROM inventory.saga_run r WHERE r.saga_id = saga);
	next integer;
BEGIN
	IF NOT undo AND state = 'done' THEN
		IF number < jsonb_array_length(commands) THEN
			PERFORM inventory.saga_append(saga, number + 1, false);
		END IF;
		RETURN;
	END IF;
	SELECT max(s.step) INTO next
	FROM inventory.saga_step s JOIN inventory.command_result c USING (message_id)
	WHERE s.saga_id = saga AND NOT s.compensation AND s.step < number AND c.state = 'done'
		AND commands -> (s.step - 1) ? 'compensate_with';
	IF next IS NOT NULL THEN
		PERFORM inventory.saga_append(saga, next, true);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION inventory.saga_continue(bigint, integer, boolean, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.saga_continue(bigint, integer, boolean, text) IS
'The engine''s own: what follows in a saga when one of its commands has come to an end.';

CREATE FUNCTION inventory.saga_submit(role oid, commands jsonb) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	saga bigint := nextval('inventory.event_event_id_seq');
BEGIN
	PERFORM inventory.saga_check(role, commands);
	INSERT INTO inventory.saga_run (saga_id, commands, submitted_by, submitted_as, submitted_at)
	SELECT saga, jsonb_agg(inventory.command_as_meant(e.value) ORDER BY e.n), role::regrole,
		inventory.command_as(role), inventory.transaction_time()
	FROM jsonb_array_elements(commands) WITH ORDINALITY e(value, n);
	PERFORM inventory.saga_append(saga, 1, false);
	RETURN saga;
END
$$;
REVOKE ALL ON FUNCTION inventory.saga_submit(oid, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.saga_submit(oid, jsonb) IS 'The engine''s own: the work of saga().';

CREATE FUNCTION inventory.saga(commands jsonb, request_id text DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_saga';
REVOKE ALL ON FUNCTION inventory.saga(jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.saga(jsonb, text) IS
'Hands in several commands, [{"command", "arguments", "compensate_with"}, ...], that are executed one after the other; "$1" in arguments stands for the result of the first. When one is given up, those that were done are compensated in reverse order. Returns the number of the saga: see the view saga.';

-- A dead command's own compensation.
CREATE FUNCTION inventory.command_compensate(message_id bigint, key text, payload jsonb) RETURNS void
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT inventory.command_append(c ->> 'command', key,
		inventory.command_payload(inventory.command_role(payload)::oid, c ->> 'command',
			inventory.command_substitute(coalesce(c -> 'arguments', '{}'), '{}'))
		|| jsonb_build_object('compensation', true, 'compensates', message_id))
	FROM (SELECT payload -> 'compensate_with') x(c)
$$;
REVOKE ALL ON FUNCTION inventory.command_compensate(bigint, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_compensate(bigint, text, jsonb) IS
'The engine''s own: hands in the compensation of a command that was given up.';

-- What there is

CREATE INDEX parked_message_command_idx ON inventory.parked_message (number)
	WHERE topic >= 'inventory.command.' AND topic < 'inventory.command/';
COMMENT ON INDEX inventory.parked_message_command_idx IS 'Query: a parked command by its number (command_result, cancel).';

-- Transactions are compared as signed numbers, so those of restored messages, from
-- 2^63 on, are before all others; see restore.sql.
CREATE FUNCTION inventory.first_after(boundary pg_snapshot) RETURNS xid8
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE WHEN pg_snapshot_xmin(boundary) < '9223372036854775808'::xid8 THEN pg_snapshot_xmin(boundary) ELSE '0'::xid8 END;
REVOKE ALL ON FUNCTION inventory.first_after(pg_snapshot) FROM PUBLIC;
COMMENT ON FUNCTION inventory.first_after(pg_snapshot) IS 'The engine''s own: transactions before this one need not be looked for beyond a cursor; 0 if there is no cursor.';

CREATE VIEW inventory.pending_command WITH (security_barrier) AS
WITH waiting AS (
	(SELECT DISTINCT ON (p.number) p.number AS message_id, p.key, p.payload, p.created_at, p.state, p.attempts, p.due_at, p.last_error
	FROM inventory.parked_message p
	JOIN inventory.subscription s USING (subscription_id)
	WHERE s.name = 'inventory.commands' AND p.state IN ('retry', 'delayed', 'deferred')
		AND p.topic >= 'inventory.command.' AND p.topic < 'inventory.command/'
		AND p.topic NOT IN ('inventory.command.dead', 'inventory.command.cancelled')
	ORDER BY p.number, p.position DESC)
	UNION ALL
	SELECT o.message_id, o.key, o.payload, o.created_at, 'pending', 0, NULL, NULL
	FROM inventory.subscription s
	-- As this statement sees it, like the results: cursors() would be later than these.
	-- A snapshot from before the journal was emptied finds no cursor, but the results.
	LEFT JOIN LATERAL (SELECT k.after, k.upto, k.last_number FROM inventory.delivery_cursor k
		WHERE k.subscription_id = s.subscription_id ORDER BY k.cursor_no DESC LIMIT 1) c ON true
	JOIN inventory.outbox o ON o.xid >= inventory.first_after(c.after)
	WHERE s.name = 'inventory.commands' AND o.topic ^@ 'inventory.command.' AND o.topic NOT IN ('inventory.command.dead', 'inventory.command.cancelled')
		AND inventory.included(o.xid, c.after) IS NOT TRUE
		AND (c.upto IS NULL OR o.message_id > c.last_number OR NOT inventory.included(o.xid, c.upto))
		AND NOT EXISTS (SELECT FROM inventory.parked_message p
			WHERE p.subscription_id = s.subscription_id AND p.number = o.message_id)
)
SELECT w.message_id, w.payload ->> 'command' AS command, w.payload -> 'arguments' AS arguments, w.key,
	CASE w.state WHEN 'retry' THEN CASE WHEN w.attempts > 0 THEN 'retrying' ELSE 'pending' END
		WHEN 'deferred' THEN 'pending' ELSE w.state END AS state,
	w.attempts, w.due_at, w.last_error,
	inventory.command_role(w.payload) AS submitted_by, w.created_at AS submitted_at,
	t.waiting, t.waiting > current_setting('inventory.command_overdue')::interval AS overdue,
	(w.payload ->> 'saga')::bigint AS saga_id
FROM waiting w
CROSS JOIN LATERAL (SELECT greatest(inventory.clock_time()
	- greatest(w.created_at, (w.payload ->> 'not_before')::timestamptz), interval '0') AS waiting) t
WHERE NOT EXISTS (SELECT FROM inventory.command_result r WHERE r.message_id = w.message_id)
	AND inventory.may_see_command(inventory.command_role(w.payload));
COMMENT ON VIEW inventory.pending_command IS 'Commands that are not finished: of the caller, of everybody for managers.';
COMMENT ON COLUMN inventory.pending_command.message_id IS 'Number of the command.';
COMMENT ON COLUMN inventory.pending_command.command IS 'Which function.';
COMMENT ON COLUMN inventory.pending_command.arguments IS 'Its arguments.';
COMMENT ON COLUMN inventory.pending_command.key IS 'Commands with the same key are executed in order.';
COMMENT ON COLUMN inventory.pending_command.state IS 'pending; delayed: until not_before; retrying: has failed and is tried again at due_at.';
COMMENT ON COLUMN inventory.pending_command.attempts IS 'How often it has been tried.';
COMMENT ON COLUMN inventory.pending_command.due_at IS 'When it is tried next; NULL: as soon as it is its turn.';
COMMENT ON COLUMN inventory.pending_command.last_error IS 'Why it last failed.';
COMMENT ON COLUMN inventory.pending_command.submitted_by IS 'Who has submitted it.';
COMMENT ON COLUMN inventory.pending_command.submitted_at IS 'When.';
COMMENT ON COLUMN inventory.pending_command.waiting IS 'For how long it could have been executed already.';
COMMENT ON COLUMN inventory.pending_command.overdue IS 'Whether that is longer than inventory.command_overdue.';
COMMENT ON COLUMN inventory.pending_command.saga_id IS 'The saga that it belongs to.';

CREATE VIEW inventory.command WITH (security_barrier) AS
SELECT r.message_id, r.command, r.key, r.state, r.result, r.error, r.sqlstate, r.attempts, NULL::timestamptz AS due_at,
	r.submitted_by, r.submitted_at, r.finished_at, r.saga_id
FROM inventory.command_result r
WHERE inventory.may_see_command(r.submitted_by)
UNION ALL
SELECT p.message_id, p.command, p.key, p.state, NULL, p.last_error, NULL, p.attempts, p.due_at,
	p.submitted_by, p.submitted_at, NULL, p.saga_id
FROM inventory.pending_command p;
COMMENT ON VIEW inventory.command IS 'Commands, finished ones for inventory.request_retention days: of the caller, of everybody for managers.';
COMMENT ON COLUMN inventory.command.message_id IS 'Number of the command.';
COMMENT ON COLUMN inventory.command.command IS 'Which function.';
COMMENT ON COLUMN inventory.command.key IS 'Commands with the same key are executed in order.';
COMMENT ON COLUMN inventory.command.state IS 'pending; delayed: until not_before; retrying: has failed and is tried again at due_at; done; dead: has failed and is not tried any more; cancelled.';
COMMENT ON COLUMN inventory.command.result IS 'What the function returned.';
COMMENT ON COLUMN inventory.command.error IS 'Why it has failed, or last failed.';
COMMENT ON COLUMN inventory.command.sqlstate IS 'The error''s SQLSTATE, of one that is dead.';
COMMENT ON COLUMN inventory.command.attempts IS 'How often it has been tried.';
COMMENT ON COLUMN inventory.command.due_at IS 'When it is tried next.';
COMMENT ON COLUMN inventory.command.submitted_by IS 'Who has submitted it, and whom it is executed as.';
COMMENT ON COLUMN inventory.command.submitted_at IS 'When.';
COMMENT ON COLUMN inventory.command.finished_at IS 'When it came to its end.';
COMMENT ON COLUMN inventory.command.saga_id IS 'The saga that it belongs to.';

CREATE FUNCTION inventory.command_result(message_id bigint, OUT state text, OUT result jsonb, OUT error text,
	OUT sqlstate text, OUT attempts integer, OUT due_at timestamptz, OUT finished_at timestamptz) RETURNS record
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.state, c.result, c.error, c.sqlstate, c.attempts, c.due_at, c.finished_at
	FROM inventory.command c WHERE c.message_id = command_result.message_id
$$;
REVOKE ALL ON FUNCTION inventory.command_result(bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_result(bigint) IS
'What has become of a command: state (pending, delayed, retrying, done, dead, cancelled), result, error, attempts, and when it is tried next. NULLs for a number that is not a command of the caller''s.';

CREATE VIEW inventory.saga WITH (security_barrier) AS
SELECT r.saga_id,
	CASE WHEN NOT t.failing THEN CASE WHEN t.done = t.steps THEN 'done' ELSE 'running' END
		WHEN t.undoing THEN 'compensating'
		WHEN t.not_undone OR t.undone < t.owed THEN 'failed' ELSE 'compensated' END AS state,
	t.done, t.steps, t.undone, t.error, r.submitted_by, r.submitted_at,
	CASE WHEN t.done = t.steps OR t.failing AND NOT t.undoing THEN t.last_finished_at END AS finished_at
FROM inventory.saga_run r
CROSS JOIN LATERAL (
	SELECT jsonb_array_length(r.commands) AS steps,
		count(*) FILTER (WHERE NOT s.compensation AND c.state = 'done')::integer AS done,
		count(*) FILTER (WHERE s.compensation AND c.state = 'done')::integer AS undone,
		count(*) FILTER (WHERE NOT s.compensation AND c.state = 'done' AND r.commands -> (s.step - 1) ? 'compensate_with')::integer AS owed,
		coalesce(bool_or(NOT s.compensation AND c.state IN ('dead', 'cancelled')), false) AS failing,
		coalesce(bool_or(s.compensation AND c.state IS NULL), false) AS undoing,
		coalesce(bool_or(s.compensation AND c.state IN ('dead', 'cancelled')), false) AS not_undone,
		string_agg(CASE WHEN c.state IN ('dead', 'cancelled') THEN
			format('%s %s: %s', CASE WHEN s.compensation THEN 'compensation of command' ELSE 'command' END, s.step, coalesce(c.error, c.state)) END,
			'; ' ORDER BY s.compensation, s.step DESC) AS error,
		max(c.finished_at) AS last_finished_at
	FROM inventory.saga_step s LEFT JOIN inventory.command_result c USING (message_id)
	WHERE s.saga_id = r.saga_id
) t
WHERE inventory.may_see_command(r.submitted_by);
COMMENT ON VIEW inventory.saga IS 'Sagas: of the caller, of everybody for managers.';
COMMENT ON COLUMN inventory.saga.saga_id IS 'Number of the saga.';
COMMENT ON COLUMN inventory.saga.state IS 'running; done; compensating: a command was given up or cancelled, and those before it are being undone; compensated; failed: one of these could not be undone.';
COMMENT ON COLUMN inventory.saga.done IS 'How many commands have been done.';
COMMENT ON COLUMN inventory.saga.steps IS 'How many commands there are.';
COMMENT ON COLUMN inventory.saga.undone IS 'How many commands have been compensated.';
COMMENT ON COLUMN inventory.saga.error IS 'Why it has failed.';
COMMENT ON COLUMN inventory.saga.submitted_by IS 'Who has submitted it, and whom its commands are executed as.';
COMMENT ON COLUMN inventory.saga.submitted_at IS 'When.';
COMMENT ON COLUMN inventory.saga.finished_at IS 'When it came to its end.';

-- Cancelling and retrying

CREATE FUNCTION inventory.command_find(message_id bigint, OUT command text, OUT key text, OUT payload jsonb,
	OUT submitted_by regrole, OUT submitted_at timestamptz, OUT state text, OUT attempts integer) RETURNS SETOF record
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.command, c.key,
		coalesce((SELECT p.payload FROM inventory.parked_message p JOIN inventory.subscription s USING (subscription_id)
			WHERE s.name = 'inventory.commands' AND p.number = c.message_id
				AND p.topic >= 'inventory.command.' AND p.topic < 'inventory.command/'
			LIMIT 1),
			(SELECT o.payload FROM inventory.outbox o
			WHERE o.message_id = c.message_id AND c.state = 'pending'
				AND o.xid >= inventory.first_after((SELECT k.after FROM inventory.delivery_cursor k JOIN inventory.subscription s USING (subscription_id)
					WHERE s.name = 'inventory.commands' ORDER BY k.cursor_no DESC LIMIT 1)))),
		c.submitted_by, c.submitted_at, c.state, c.attempts
	FROM inventory.command c WHERE c.message_id = command_find.message_id
$$;
REVOKE ALL ON FUNCTION inventory.command_find(bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_find(bigint) IS 'The engine''s own: what cancel() has to know of a command.';

CREATE FUNCTION inventory.command_retry(before timestamptz) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_command_retry';
REVOKE ALL ON FUNCTION inventory.command_retry(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_retry(timestamptz) IS
'The engine''s own: makes failed commands due that could have been executed before a time.';

CREATE FUNCTION inventory.cancel(message_id bigint) RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_cancel';
REVOKE ALL ON FUNCTION inventory.cancel(bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.cancel(bigint) IS
'Cancels a command of the caller''s that is not finished; managers, anybody''s. Waits for one that is just being executed, and fails with IV027 if it is done or dead. False if it had been cancelled already. In a saga, those done before are compensated.';

CREATE FUNCTION inventory.retry_pending(older_than interval DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	before timestamptz := inventory.clock_time()
		- coalesce(older_than, current_setting('inventory.command_overdue')::interval);
	count bigint := (SELECT count(*) FROM inventory.pending_command p
		WHERE p.state <> 'delayed' AND inventory.clock_time() - p.waiting <= before);
BEGIN
	IF count = 0 THEN
		RETURN 0;
	END IF;
	PERFORM inventory.command_retry(before);
	PERFORM inventory.deliver('inventory.commands');
	RETURN count;
EXCEPTION WHEN object_in_use THEN
	-- A delivery process does it, when this has been committed.
	PERFORM inventory.command_retry(before);
	RETURN count;
END
$$;
REVOKE ALL ON FUNCTION inventory.retry_pending(interval) FROM PUBLIC;
COMMENT ON FUNCTION inventory.retry_pending(interval) IS
'Tries commands at once that have been pending for longer than this, or than inventory.command_overdue; in the caller''s session where no delivery process runs. Returns how many there were.';

-- Old ones go: a saga with all of its commands, when it has come to its end.
CREATE FUNCTION inventory.command_sweep(first tid, until tid, before timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	removed bigint[];
	sagas bigint[];
BEGIN
	SELECT array_agg(DISTINCT s.saga_id) INTO sagas
	FROM inventory.saga s
	WHERE s.finished_at < before AND s.saga_id IN (SELECT r.saga_id FROM inventory.command_result r
		WHERE r.ctid >= first AND r.ctid < until AND r.finished_at < before);
	WITH gone AS (
		DELETE FROM inventory.command_result r
		WHERE r.ctid >= first AND r.ctid < until AND r.finished_at < before AND r.saga_id IS NULL
				-- While its message is still to be delivered, it must not be executed again.
				AND NOT EXISTS (SELECT FROM inventory.parked_message p
					WHERE p.number = r.message_id AND p.topic >= 'inventory.command.' AND p.topic < 'inventory.command/'
						AND p.state IN ('retry', 'delayed', 'deferred'))
			OR r.message_id IN (SELECT s.message_id FROM inventory.saga_step s WHERE s.saga_id = ANY (sagas))
		RETURNING r.message_id)
	SELECT array_agg(g.message_id) INTO removed FROM gone g;
	DELETE FROM inventory.saga_step s WHERE s.saga_id = ANY (sagas);
	DELETE FROM inventory.saga_run s WHERE s.saga_id = ANY (sagas);
	-- Without its result, a dead one could be executed again.
	DELETE FROM inventory.parked_message p USING inventory.subscription s
	WHERE p.subscription_id = s.subscription_id AND s.sink = 'command'
		AND p.state IN ('dead', 'skipped') AND p.number = ANY (removed);
	RETURN coalesce(cardinality(removed), 0);
END
$$;
REVOKE ALL ON FUNCTION inventory.command_sweep(tid, tid, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION inventory.command_sweep(tid, tid, timestamptz) IS
'The engine''s own: removes old results of commands from some blocks.';
