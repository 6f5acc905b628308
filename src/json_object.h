/*-------------------------------------------------------------------------
 *
 * json_object.h
 *		Writing a JSON object, name by name.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_JSON_OBJECT_H
#define INVENTORY_JSON_OBJECT_H

#include "utils/jsonb.h"

typedef struct JsonObject
{
	JsonbParseState *state;
} JsonObject;

extern void json_object_begin(JsonObject *object);
extern void json_object_number(JsonObject *object, const char *name, int64 number);

/* These leave the name out when there is nothing. */
extern void json_object_string(JsonObject *object, const char *name,
							   const char *string);
extern void json_object_text(JsonObject *object, const char *name,
							 const text *string);
extern void json_object_json(JsonObject *object, const char *name, Jsonb *json);

extern Jsonb *json_object_end(JsonObject *object);

#endif							/* INVENTORY_JSON_OBJECT_H */
