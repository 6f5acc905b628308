/*-------------------------------------------------------------------------
 *
 * http_address.h
 *		Where a webhook may go.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_HTTP_ADDRESS_H
#define INVENTORY_HTTP_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

/* Allowed: names and networks, separated by commas or spaces. */
extern bool http_host_is_allowed(const char *allow, const char *host);
extern bool http_address_is_allowed(const char *allow, const struct sockaddr *address);

/* Whether it is an address of the internet, that anybody may be reached at. */
extern bool http_address_is_public(const struct sockaddr *address);

#endif							/* INVENTORY_HTTP_ADDRESS_H */
