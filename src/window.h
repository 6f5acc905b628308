/*-------------------------------------------------------------------------
 *
 * window.h
 *		The messages between two boundaries, in order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_WINDOW_H
#define INVENTORY_WINDOW_H

#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

#include "cursor.h"
#include "message.h"
#include "subscription.h"

typedef struct WindowEntry
{
	int64		number;
	Oid			table;
	ItemPointerData tid;
	bool		event;
	bool		done;			/* for who works on the window */
} WindowEntry;

typedef struct Window
{
	MemoryContext context;		/* of the entries; the caller's */
	WindowEntry *entries;		/* ascending by number */
	int			count;
	int			allocated;
	bool		more;			/* there are others after the last entry */
} Window;

/* Finds the messages of the cursor's window after its last number that the
 * subscription wants. */
extern void window_read(Window *window, const Subscription *subscription,
						const Cursor *cursor);

/* Reading messages one after the other, in one transaction: all zeros, and to be
 * ended unless the transaction fails. */
typedef struct WindowReader
{
	Relation	relation;		/* that the last one was in */
	TupleTableSlot *slot;
} WindowReader;

extern void window_message(WindowReader *reader, const WindowEntry *entry,
						   Message *message);
extern void window_reader_end(WindowReader *reader);

#endif							/* INVENTORY_WINDOW_H */
