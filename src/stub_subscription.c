/* Goes when subscription.c comes. */
#include "postgres.h"
#include "subscription.h"
List *subscription_all(void);
List *
subscription_all(void)
{
	return NIL;
}
