/*-------------------------------------------------------------------------
 *
 * cursor.h
 *		How far each subscription has come: an append-only journal.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_CURSOR_H
#define INVENTORY_CURSOR_H

#include "access/transam.h"
#include "datatype/timestamp.h"

#include "tick.h"

/*
 * Positions: the epoch, and a number without gaps.  No epoch is begun twice in a
 * database, each slice has its own: so positions are unique in a subscription,
 * and go up also when one of the same name is made again.
 */
#define CURSOR_EPOCH_SHIFT 40

/* Before all transactions, restored ones too, and yet an id that pg_snapshot
 * takes.  sql/restore.sql knows it. */
#define CURSOR_BEGINNING (XID_FIRST + FirstNormalTransactionId)

typedef struct Cursor
{
	int			subscription_id;
	int			slice;
	int64		cursor_no;
	Boundary	after;
	bool		window;			/* whether "upto" is set: a window is open */
	Boundary	upto;
	int64		last_number;	/* within the window; PG_INT64_MIN at its start */
	int64		position;		/* of the last message */
	int			epoch;
	int			timeline;
	TimestampTz since;			/* or DT_NOBEGIN */
	TimestampTz until;			/* or DT_NOEND */
} Cursor;

/* False if there is none.  Allocates the boundaries in the current context. */
extern bool cursor_read(int subscription_id, int slice, Cursor *cursor);

/* Positions begin anew, after all that there have been. */
extern void cursor_begin_epoch(Cursor *cursor);

/* Writes the cursor as cursor_no + 1 and counts it up. */
extern void cursor_write(Cursor *cursor);

/* A piece of keeping the journal short; 0 when there is nothing to do. */
extern int64 cursor_maintain(void);

#endif							/* INVENTORY_CURSOR_H */
