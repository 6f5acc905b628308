/*-------------------------------------------------------------------------
 *
 * endpoint.h
 *		Where external sinks are: foreign servers and user mappings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_ENDPOINT_H
#define INVENTORY_ENDPOINT_H

#include "nodes/pg_list.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

/* Settings. */
extern char *endpoint_http_allow;
extern char *endpoint_secret_dir;
extern bool endpoint_check_http_allow(char **value, void **extra, GucSource source);
extern void endpoint_assign(const char *value, void *extra);

/* Whose the server is; an error unless the user has USAGE on it. */
extern Oid	endpoint_owner(const char *server, Oid user);

/*
 * The options of a sink as it gets them, a List of SinkOption (sink/sink.h): of
 * the server, of the user's mapping or the one of PUBLIC, and of the
 * subscription, in this order; secrets read from their files; defaults filled
 * in.  Durations are milliseconds, booleans "on" or "off".
 *
 * Raises an error if the user may not use the server (any more).
 */
extern List *endpoint_options(const char *server, Oid user, Jsonb *options);

/* For subscribe(): whether the user may use the server, everything required is
 * there, and the subscription's options are what the sink takes. */
extern void endpoint_check(Oid server, Oid user, Jsonb *options);

/* The part of the library's name: "http", "rabbitmq", "redis", "kafka". */
extern const char *endpoint_sink(const char *server);

/* Goes up when any server, user mapping or setting may have changed. */
extern uint64 endpoint_changes(void);

#endif							/* INVENTORY_ENDPOINT_H */
