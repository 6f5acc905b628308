/*-------------------------------------------------------------------------
 *
 * command.h
 *		Stock operations that are handed in, and executed by a worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_COMMAND_H
#define INVENTORY_COMMAND_H

#include "message.h"

/* Setting: milliseconds after which a pending command is overdue. */
extern int	command_overdue;

/* What becomes of a command that is due now or later. */
typedef enum CommandOutcome
{
	COMMAND_DONE,				/* executed now, or already, or cancelled */
	COMMAND_LATER,				/* its time has not come: see *due_at */
} CommandOutcome;

/*
 * Executes a command, in a subtransaction of the caller's that is rolled back
 * when this raises an error.  Sets event_actor, which the caller resets.
 */
extern CommandOutcome command_execute(const Message *message, TimestampTz *due_at);

/* An error that comes again however often the command is tried. */
extern bool command_error_is_final(int sqlerrcode);

/* After how many attempts it is given up; most, as far as the subscription says. */
extern int	command_max_attempts(const Message *message, int most);

/* It has failed for the last time: its compensation is handed in, the commands
 * of its saga are compensated, inventory.command.dead is published.  False if
 * somebody is just cancelling it: to be tried again. */
extern bool command_dead(const Message *message, const char *reason, int sqlerrcode);

/* Which command the message says was cancelled; 0 if it is not about that. */
extern int64 command_cancelled(const Message *message);

/* Removes what is older than a time from some blocks of the results. */
extern int64 command_sweep(BlockNumber first, BlockNumber until, TimestampTz before);

#endif							/* INVENTORY_COMMAND_H */
