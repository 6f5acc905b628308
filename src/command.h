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

/* What becomes of a command that is due now or later. */
typedef enum CommandOutcome
{
	COMMAND_DONE,				/* executed now, or already, or cancelled */
	COMMAND_LATER,				/* its time has not come: see *due_at */
	COMMAND_DEAD,				/* cannot be executed any more: see *reason */
} CommandOutcome;

/*
 * Executes a command, in a subtransaction of the caller's that is rolled back
 * when this raises an error.
 */
extern CommandOutcome command_execute(const Message *message, TimestampTz *due_at,
									  char **reason);

/* It has failed for the last time: its compensation is handed in, the commands
 * of its saga are compensated, inventory.command.dead is published. */
extern void command_dead(const Message *message, const char *reason);

#endif							/* INVENTORY_COMMAND_H */
