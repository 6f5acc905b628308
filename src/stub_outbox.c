/* Goes when command.c comes. */
#include "postgres.h"
#include "command.h"
#include "subscription.h"
CommandOutcome
command_execute(const Message *message, TimestampTz *due_at, char **reason)
{
	return COMMAND_DONE;
}
void
command_dead(const Message *message, const char *reason)
{
}
void __attribute__((weak)) subscription_check_owner(const Subscription *subscription);
void __attribute__((weak)) subscription_check_owner(const Subscription *subscription) {}
