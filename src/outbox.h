/*-------------------------------------------------------------------------
 *
 * outbox.h
 *		The messages that transactions publish.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_OUTBOX_H
#define INVENTORY_OUTBOX_H

#include "utils/jsonb.h"

#include "catalog.h"

/* Settings. */
extern int	outbox_segment_size;	/* kilobytes */
extern int	outbox_retention;	/* seconds */
extern int	outbox_max_message_size;	/* bytes */

/* An error if the key (or NULL) is too long, or the content too large. */
extern void outbox_check(const text *key, size_t size);

/* A message of the engine's own; returns its number, or 0 in a database with an
 * older version of the extension, which has no messages. */
extern int64 outbox_append(const char *topic, const char *key, Jsonb *payload);

/* The table of a segment, 0 to OUTBOX_SEGMENTS - 1. */
extern Oid	outbox_table(int segment);
extern Oid	outbox_xid_index(int segment);

/* Which segment takes messages. */
extern int	outbox_current_segment(void);

/* So many bytes have been added to the segment. */
extern void outbox_grown(int segment, Size bytes);

/*
 * Pieces of keeping the ring in order; 0 when there is nothing to do.  What a
 * transaction has closed is for a later one to empty: until it commits, others
 * publish into it.
 */
extern int64 outbox_empty(void);
extern int64 outbox_close(void);

#endif							/* INVENTORY_OUTBOX_H */
