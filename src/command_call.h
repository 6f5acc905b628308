/*-------------------------------------------------------------------------
 *
 * command_call.h
 *		Calling the function of a command, with arguments from JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_COMMAND_CALL_H
#define INVENTORY_COMMAND_CALL_H

#include "utils/jsonb.h"

/*
 * Calls the function as the current user, who needs the right to.  What it returns,
 * as JSON, in the current memory context; NULL for NULL.
 */
extern Jsonb *command_call(const char *command, Jsonb *arguments);

#endif							/* INVENTORY_COMMAND_CALL_H */
