/*-------------------------------------------------------------------------
 *
 * parked.h
 *		Messages that could not be delivered.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_PARKED_H
#define INVENTORY_PARKED_H

#include "message.h"
#include "subscription.h"

typedef enum ParkedState
{
	PARKED_RETRY,				/* failed; tried again */
	PARKED_DELAYED,				/* its time has not come; in nobody's way */
	PARKED_DEFERRED,			/* waits behind one with the same key */
	PARKED_DEAD,				/* given up */
} ParkedState;

typedef struct ParkedNote
{
	ParkedState state;
	TimestampTz due_at;			/* of retry, delayed */
	const char *error;			/* or NULL */
	bool		uncounted;		/* a retry that was not an attempt */
} ParkedNote;

/* Messages of one slice; see parked.c for what is kept in memory. */
typedef struct Parked
{
	MemoryContext context;
	struct HTAB *keys;			/* with messages waiting */
	int64		waiting;		/* messages that are to be tried again */
	TimestampTz next_due;		/* or DT_NOEND */
	int			subscription_id;
	int			slice;
} Parked;

extern Parked *parked_load(int subscription_id, int slice);
extern bool parked_blocks(const Parked *parked, const char *key);
extern int	parked_due(Parked *parked, TimestampTz now, Message *messages, int max,
					   Size max_bytes);
extern void parked_insert(Parked *parked, const Message *message, const ParkedNote *note);
extern void parked_update(Parked *parked, const Message *message, const ParkedNote *note,
						  TimestampTz now);
extern void parked_hasten(Parked *parked, int64 number, TimestampTz now);
extern void parked_delete(Parked *parked, const Message *message, TimestampTz now);

#endif							/* INVENTORY_PARKED_H */
