/*-------------------------------------------------------------------------
 *
 * option.h
 *		Options of a sink, and names made of a message.
 *
 * The validator of the foreign data wrapper has checked the options: what cannot
 * be read here has its default.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SINK_OPTION_H
#define INVENTORY_SINK_OPTION_H

#include "buffer.h"
#include "sink.h"

/* NULL when it is not given, or empty. */
extern const char *option_text(const SinkOption *options, int count, const char *name);
extern bool option_switch(const SinkOption *options, int count, const char *name, bool otherwise);
extern long option_number(const SinkOption *options, int count, const char *name, long otherwise);

/* In milliseconds; a number without a unit is one of milliseconds. */
extern long option_time(const SinkOption *options, int count, const char *name, long otherwise);

/*
 * Appends the pattern with the message's topic, key and SKU in the places of
 * {topic}, {key} and {sku}.  False if the message has no such thing.
 */
extern bool name_of_message(const char *pattern, const SinkMessage *message, Buffer *name);

/* How much of the pattern is before its first placeholder. */
extern size_t fixed_part(const char *pattern);

/* Formats an error: SINK_ERROR_LENGTH bytes, cut off where it is too long. */
extern void sink_error(char *error, const char *format, ...)
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
;

#endif							/* INVENTORY_SINK_OPTION_H */
