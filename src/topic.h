/*-------------------------------------------------------------------------
 *
 * topic.h
 *		Topics, and patterns of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_TOPIC_H
#define INVENTORY_TOPIC_H

/* Topics of events are these words and the type. */
#define TOPIC_EVENT_PREFIX "inventory.event."

/* Bit of everything that is not an event; those of events are 1 << EventType. */
#define TOPIC_OUTBOX (1u << 31)

/* "*" stands for one word between dots, "#" for any number of them. */
extern bool topic_matches(const char *pattern, const char *topic);

/* Raises an error if it is not a pattern. */
extern void topic_check_pattern(const char *pattern);

/* What can match one of the patterns. */
extern uint32 topic_interest(char **patterns, int count);

#endif							/* INVENTORY_TOPIC_H */
