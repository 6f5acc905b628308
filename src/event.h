/*-------------------------------------------------------------------------
 *
 * event.h
 *		Appending events, and the rule that every event is held to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_EVENT_H
#define INVENTORY_EVENT_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "compat.h"
#include "level.h"
#include "row.h"

/* In the order of the labels of inventory.event_type. */
typedef enum EventType
{
	EVENT_RECEIVE,
	EVENT_ISSUE,
	EVENT_ADJUST,
	EVENT_COUNT,
	EVENT_TRANSFER_OUT,
	EVENT_TRANSFER_IN,
	EVENT_RESERVE,
	EVENT_CONFIRM,
	EVENT_SHIP,
	EVENT_RELEASE,
	EVENT_EXPIRE,
	EVENT_REVERSE,
	EVENT_REBUILD,
} EventType;

#define EVENT_TYPES (EVENT_REBUILD + 1)

/* What the caller says about a change, beside what changes. */
typedef struct EventNote
{
	text	   *request_id;
	text	   *reference;
	text	   *reason;
	Jsonb	   *metadata;
	bool		has_effective_at;
	TimestampTz effective_at;
} EventNote;

typedef struct Event
{
	int64		event_id;
	int64		stock_id;
	EventType	type;
	int64		on_hand_delta;
	int64		reserved_delta;
	int64		committed_delta;
	int64		reservation_id; /* or 0 */
	int64		reverses;		/* or 0 */
	const EventNote *note;
} Event;

/* A call's writing. */
typedef struct EventWriter
{
	RowInserter *inserter;
	RowTarget  *target;
	text	   *actor;
} EventWriter;

/* In a delivery process: the role that it works for.  Reset it also after an
 * error. */
extern Oid	event_actor;

extern void event_init(void);
extern const char *event_type_name(EventType type);
extern EventType event_type_from_oid(Oid label);
extern Oid	event_type_oid(EventType type);

extern void event_prepare(void);
extern int64 event_next_id(void);
extern int64 event_last_id(void);
extern void event_writer_begin(EventWriter *writer);
extern void event_write(EventWriter *writer, const Event *event);
extern void event_write_many(EventWriter *writer, const Event *events, int count);
extern void event_writer_end(EventWriter *writer);

pg_noreturn extern void event_raise_insufficient(const char *subject,
												 int64 requested,
												 int64 available,
												 int64 on_hand);

#endif							/* INVENTORY_EVENT_H */
