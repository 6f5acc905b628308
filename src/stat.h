/*-------------------------------------------------------------------------
 *
 * stat.h
 *		Counters in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_STAT_H
#define INVENTORY_STAT_H

typedef enum Operation
{
	OPERATION_RECEIVE,
	OPERATION_ISSUE,
	OPERATION_ADJUST,
	OPERATION_SET_ON_HAND,
	OPERATION_TRANSFER,
	OPERATION_REVERSE,
	OPERATION_POST,
	OPERATION_RESERVE,
	OPERATION_TRY_RESERVE,
	OPERATION_CONFIRM,
	OPERATION_SHIP,
	OPERATION_RELEASE,
	OPERATION_EXTEND,
	OPERATION_RELEASE_OWNER,
	OPERATION_EXPIRE_DUE,
	OPERATION_SUBMIT,
	OPERATION_SAGA,
	OPERATION_AVAILABLE,
	OPERATION_ON_HAND,
} Operation;

#define OPERATION_COUNT (OPERATION_ON_HAND + 1)

extern const char *operation_name(Operation operation);

extern Size stat_shmem_size(void);
extern void stat_shmem_init(void);
extern void stat_init(void);

/* Around every call.  A call that does not reach stat_end() has failed. */
extern void stat_begin(Operation operation);
extern void stat_end(void);

/* The present call is being refused for lack of stock. */
extern void stat_refused(void);

#endif							/* INVENTORY_STAT_H */
