-- Where external sinks are and how to get in: foreign servers and user mappings
-- of four foreign data wrappers, which have no handler, only the check of their
-- options.

CREATE FUNCTION inventory.http_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_http_validator';
REVOKE ALL ON FUNCTION inventory.http_validator(text[], oid) FROM PUBLIC;
COMMENT ON FUNCTION inventory.http_validator(text[], oid) IS
'The engine''s own: checks the options of a server or user mapping of inventory_http.';

CREATE FUNCTION inventory.rabbitmq_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_rabbitmq_validator';
REVOKE ALL ON FUNCTION inventory.rabbitmq_validator(text[], oid) FROM PUBLIC;
COMMENT ON FUNCTION inventory.rabbitmq_validator(text[], oid) IS
'The engine''s own: checks the options of a server or user mapping of inventory_rabbitmq.';

CREATE FUNCTION inventory.redis_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_redis_validator';
REVOKE ALL ON FUNCTION inventory.redis_validator(text[], oid) FROM PUBLIC;
COMMENT ON FUNCTION inventory.redis_validator(text[], oid) IS
'The engine''s own: checks the options of a server or user mapping of inventory_redis.';

CREATE FUNCTION inventory.kafka_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_kafka_validator';
REVOKE ALL ON FUNCTION inventory.kafka_validator(text[], oid) FROM PUBLIC;
COMMENT ON FUNCTION inventory.kafka_validator(text[], oid) IS
'The engine''s own: checks the options of a server or user mapping of inventory_kafka.';

CREATE FOREIGN DATA WRAPPER inventory_http VALIDATOR inventory.http_validator;
COMMENT ON FOREIGN DATA WRAPPER inventory_http IS 'Webhooks: messages are posted to a URL.';
CREATE FOREIGN DATA WRAPPER inventory_rabbitmq VALIDATOR inventory.rabbitmq_validator;
COMMENT ON FOREIGN DATA WRAPPER inventory_rabbitmq IS 'RabbitMQ: messages are published to an exchange.';
CREATE FOREIGN DATA WRAPPER inventory_redis VALIDATOR inventory.redis_validator;
COMMENT ON FOREIGN DATA WRAPPER inventory_redis IS 'Redis: messages go to streams or channels, or keep a cache right.';
CREATE FOREIGN DATA WRAPPER inventory_kafka VALIDATOR inventory.kafka_validator;
COMMENT ON FOREIGN DATA WRAPPER inventory_kafka IS 'Kafka: messages are produced to a topic.';
