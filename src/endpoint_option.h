/*-------------------------------------------------------------------------
 *
 * endpoint_option.h
 *		The options that external sinks have.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_ENDPOINT_OPTION_H
#define INVENTORY_ENDPOINT_OPTION_H

#define ENDPOINT_WRAPPER_PREFIX "inventory_"

/* Where an option may be given. */
#define AT_SERVER 1
#define AT_MAPPING 2
#define AT_SUBSCRIPTION 4

typedef struct EndpointOption EndpointOption;

/* The value as a sink gets it, or an error. */
typedef char *(*EndpointOptionReader) (const EndpointOption *option,
									   const char *name, const char *value);

struct EndpointOption
{
	const char *sink;
	const char *name;			/* "header.*" stands for any header */
	int			places;
	EndpointOptionReader read;
	int64		least;			/* of a number; of a duration, in ms */
	int64		greatest;
	const char *words;			/* choices, or placeholders */
	const char *fallback;		/* what a sink gets if it is given nowhere */
	bool		required;
};

/* The options of a sink, ended by one without a name. */
extern const EndpointOption *endpoint_option_first(const char *sink);
extern const EndpointOption *endpoint_option_next(const EndpointOption *option);

/* The one that may be given there; raises an error that names those that may. */
extern const EndpointOption *endpoint_option_find(const char *sink,
												  const char *name, int place);

extern bool endpoint_option_is_header(const EndpointOption *option);

/* For password_file, "password"; NULL for what names no secret's file. */
extern char *endpoint_option_of_file(const EndpointOption *option);

#endif							/* INVENTORY_ENDPOINT_OPTION_H */
