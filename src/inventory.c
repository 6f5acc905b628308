/*-------------------------------------------------------------------------
 *
 * inventory.c
 *		Loading: settings, shared memory, and what holds for every call.
 *
 * Nothing here fails when the library is loaded without preloading: LOAD,
 * pg_upgrade --check and dump restore into a plain server must go through.
 * The functions refuse to run then, with a hint.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/parallel.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "catalog.h"
#include "clock.h"
#include "command.h"
#include "compat.h"
#include "delivery_slot.h"
#include "drop.h"
#include "endpoint.h"
#include "event.h"
#include "expiry.h"
#include "inventory.h"
#include "level.h"
#include "maintenance.h"
#include "outbox.h"
#include "partition.h"
#include "progress.h"
#include "projection.h"
#include "slot.h"
#include "stat.h"
#include "tail.h"
#include "worker.h"

COMPAT_MODULE_MAGIC;

bool		inventory_restoring = false;

static shmem_request_hook_type previous_shmem_request_hook = NULL;
static shmem_startup_hook_type previous_shmem_startup_hook = NULL;
static bool attached = false;

PG_FUNCTION_INFO_V1(inventory_version);

void		_PG_init(void);

static void
inventory_shmem_request(void)
{
	if (previous_shmem_request_hook)
		previous_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(clock_shmem_size()) +
						   MAXALIGN(catalog_shmem_size()) +
						   MAXALIGN(stat_shmem_size()) +
						   MAXALIGN(partition_shmem_size()) +
						   MAXALIGN(progress_shmem_size()) +
						   MAXALIGN(slot_shmem_size()) +
						   MAXALIGN(delivery_shmem_size()) +
						   level_shmem_size());
	level_shmem_request_locks();
	slot_shmem_request_locks();
	delivery_shmem_request_locks();
}

static void
inventory_shmem_startup(void)
{
	if (previous_shmem_startup_hook)
		previous_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	clock_shmem_init();
	catalog_shmem_init();
	stat_shmem_init();
	partition_shmem_init();
	progress_shmem_init();
	slot_shmem_init();
	delivery_shmem_init();
	level_shmem_init();
	LWLockRelease(AddinShmemInitLock);
	attached = true;
}

/* These are there without preloading, too: a dump may be loaded that way. */
static void
inventory_define_early_settings(void)
{
	DefineCustomBoolVariable("inventory.restoring",
							 "Lets a dump be loaded: rows are not checked, stock does not move.",
							 "Set it for the database before loading and end it with inventory.post_restore().",
							 &inventory_restoring,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("inventory.allow_drop",
							 "Allows dropping the extension, or a partition, with the events in it.",
							 NULL,
							 &drop_allowed,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
}

void
_PG_init(void)
{
	inventory_define_early_settings();
	if (!process_shared_preload_libraries_in_progress)
		return;

	DefineCustomIntVariable("inventory.max_levels",
							"Sets how many stock items have their level in shared memory at a time.",
							"Others are loaded when they are touched, in place of the least used.",
							&level_capacity,
							131072, 64, INT_MAX / 256,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.partitions_ahead",
							"Sets how many months ahead event partitions are made.",
							NULL,
							&partition_months_ahead,
							3, 1, 120,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.tick_events",
							"Sets how many events the projection adds in one transaction.",
							"A transaction with more events is still added as a whole.",
							&projection_tick_events,
							10000, 100, INT_MAX,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.snapshot_events",
							"Sets after how many events a stock item has a snapshot for its history.",
							NULL,
							&projection_snapshot_events,
							1000, 10, INT_MAX,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomStringVariable("inventory.hash_key",
							   "Sets the key of the hash chain over the events.",
							   "Empty for no key.",
							   &projection_hash_key,
							   "",
							   PGC_SUSET, GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.request_retention",
							"Sets how many days request ids are remembered.",
							"-1 keeps them for ever.",
							&maintenance_request_retention,
							30, -1, 36500,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("inventory.workers",
							 "Runs a background worker in every database with the extension.",
							 NULL,
							 &worker_enabled,
							 true,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.max_databases",
							"Sets how many databases can have a background worker.",
							NULL,
							&worker_max_databases,
							32, 1, 10000,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.tick_interval",
							"Sets the time between two ticks while events are written.",
							NULL,
							&worker_tick_interval,
							1000, 10, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.max_deliveries",
							"Sets how many processes deliver messages, in all databases.",
							"Each takes one of max_worker_processes.",
							&delivery_max,
							64, 1, 10000,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.outbox_retention",
							"Sets how long messages are kept after all subscriptions have had them.",
							"seek() and replay() go back no further.",
							&outbox_retention,
							24 * 3600, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.outbox_segment_size",
							"Sets how large a table of the ring of messages becomes.",
							"There are eight of them; one is emptied as a whole.",
							&outbox_segment_size,
							256 * 1024, 64, INT_MAX,
							PGC_SUSET, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.max_message_size",
							"Sets how large the payload and the headers of a message can be.",
							NULL,
							&outbox_max_message_size,
							1024 * 1024, 1024, 128 * 1024 * 1024,
							PGC_SUSET, GUC_UNIT_BYTE,
							NULL, NULL, NULL);
	DefineCustomIntVariable("inventory.command_overdue",
							"Sets after what time a command that is not finished is overdue.",
							NULL,
							&command_overdue,
							300000, 1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomStringVariable("inventory.http_allow",
							   "Sets the hosts and networks that webhooks may go to although they are private, or without TLS.",
							   "Separated by commas: names, names beginning with *., addresses and networks.",
							   &endpoint_http_allow,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   endpoint_check_http_allow, endpoint_assign, NULL);
	DefineCustomStringVariable("inventory.secret_dir",
							   "Sets the directory with the files that user mappings name secrets by.",
							   "Empty for none.",
							   &endpoint_secret_dir,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, endpoint_assign, NULL);
	MarkGUCPrefixReserved("inventory");

	previous_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = inventory_shmem_request;
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = inventory_shmem_startup;

	stat_init();
	level_init();
	catalog_init();
	event_init();
	expiry_init();
	progress_init();
	tail_init();
	drop_init();
	delivery_slot_init();
	lifecycle_init();
	launcher_register();
}

void
inventory_check_loaded(void)
{
	if (!attached)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("inventory must be loaded via shared_preload_libraries"),
				 errhint("Add \"inventory\" to shared_preload_libraries in postgresql.conf and restart the server.")));
}

void
inventory_check_not_restoring(void)
{
	if (inventory_restoring)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a dump is being loaded into this database: inventory.restoring is on"),
				 errhint("When it is loaded: SELECT inventory.post_restore();")));
}

void
inventory_check_writable(const char *operation)
{
	char		name[NAMEDATALEN];

	inventory_check_loaded();
	if (unlikely(inventory_restoring))
		inventory_check_not_restoring();
	if (likely(!XactReadOnly && !IsInParallelMode()))
		return;
	snprintf(name, sizeof(name), "%s()", operation);
	PreventCommandDuringRecovery(name);
	PreventCommandIfReadOnly(name);
	PreventCommandIfParallelMode(name);
}

Datum
inventory_version(PG_FUNCTION_ARGS)
{
	if (!inventory_restoring)
		inventory_check_loaded();
	PG_RETURN_TEXT_P(cstring_to_text(INVENTORY_VERSION));
}
