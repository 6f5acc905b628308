/*-------------------------------------------------------------------------
 *
 * http_address.c
 *		Where a webhook may go.
 *
 * Whoever may name a URL must not reach through the database server what only
 * it can reach: itself, its network, the cloud's metadata service.  A name says
 * nothing, since its owner decides what it resolves to; so it is the address
 * that is connected to, which is looked at.
 *
 *-------------------------------------------------------------------------
 */
#include "http_address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ENTRY_LENGTH 300

typedef struct Network
{
	int			family;
	const char *address;
	int			bits;
} Network;

/* IANA's registries of special addresses. */
static const Network special[] = {
	{AF_INET, "0.0.0.0", 8},
	{AF_INET, "10.0.0.0", 8},
	{AF_INET, "100.64.0.0", 10},	/* shared by carriers */
	{AF_INET, "127.0.0.0", 8},
	{AF_INET, "169.254.0.0", 16},	/* link-local: metadata services */
	{AF_INET, "172.16.0.0", 12},
	{AF_INET, "192.0.0.0", 24},
	{AF_INET, "192.0.2.0", 24},
	{AF_INET, "192.88.99.0", 24},
	{AF_INET, "192.168.0.0", 16},
	{AF_INET, "198.18.0.0", 15},
	{AF_INET, "198.51.100.0", 24},
	{AF_INET, "203.0.113.0", 24},
	{AF_INET, "224.0.0.0", 4},
	{AF_INET, "240.0.0.0", 4},
	{AF_INET6, "2001::", 23},
	{AF_INET6, "2001:db8::", 32},
	{AF_INET6, "2002::", 16},	/* another way to write any IPv4 address */
	{AF_INET6, "3fff::", 20},
};

/* All that has been given out so far.  What maps, translates or tunnels IPv4
 * lies outside, and so do local, unique local and multicast addresses. */
static const Network unicast = {AF_INET6, "2000::", 3};

static const unsigned char *
address_bytes(const struct sockaddr *address, int *size)
{
	switch (address->sa_family)
	{
		case AF_INET:
			*size = 4;
			return (const unsigned char *) &((const struct sockaddr_in *) address)->sin_addr;
		case AF_INET6:
			*size = 16;
			return (const unsigned char *) &((const struct sockaddr_in6 *) address)->sin6_addr;
		default:
			return NULL;
	}
}

static bool
same_prefix(const unsigned char *one, const unsigned char *other, int bits)
{
	int			rest = bits % 8;
	unsigned char mask = (unsigned char) (0xff00 >> rest);

	return memcmp(one, other, (size_t) (bits / 8)) == 0 &&
		(rest == 0 || ((one[bits / 8] ^ other[bits / 8]) & mask) == 0);
}

static bool
network_has(const Network *network, const struct sockaddr *address)
{
	unsigned char base[16];
	int			size;
	const unsigned char *bytes = address_bytes(address, &size);

	return bytes != NULL && network->family == address->sa_family &&
		network->bits >= 0 && network->bits <= size * 8 &&
		inet_pton(network->family, network->address, base) == 1 &&
		same_prefix(base, bytes, network->bits);
}

bool
http_address_is_public(const struct sockaddr *address)
{
	if (address->sa_family != AF_INET && address->sa_family != AF_INET6)
		return false;
	if (address->sa_family == AF_INET6 && !network_has(&unicast, address))
		return false;
	for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++)
	{
		if (network_has(&special[i], address))
			return false;
	}
	return true;
}

/* The next entry of the list; false at its end. */
static bool
next_entry(const char **rest, char *entry)
{
	size_t		length;

	*rest += strspn(*rest, ", \t\r\n");
	length = strcspn(*rest, ", \t\r\n");
	if (length == 0)
		return false;
	/* One that is too long for a name matches nothing. */
	if (length >= ENTRY_LENGTH)
		entry[0] = '\0';
	else
	{
		memcpy(entry, *rest, length);
		entry[length] = '\0';
	}
	*rest += length;
	return true;
}

bool
http_address_is_allowed(const char *allow, const struct sockaddr *address)
{
	char		entry[ENTRY_LENGTH];

	while (allow != NULL && next_entry(&allow, entry))
	{
		char	   *slash = strchr(entry, '/');
		Network		network = {strchr(entry, ':') != NULL ? AF_INET6 : AF_INET, entry};

		network.bits = network.family == AF_INET6 ? 128 : 32;
		if (slash != NULL)
		{
			*slash = '\0';
			network.bits = isdigit((unsigned char) slash[1]) ? atoi(slash + 1) : -1;
		}
		if (network_has(&network, address))
			return true;
	}
	return false;
}

bool
http_host_is_allowed(const char *allow, const char *host)
{
	char		entry[ENTRY_LENGTH];
	size_t		length = strlen(host);

	if (length > 0 && host[length - 1] == '.')
		length--;
	while (allow != NULL && next_entry(&allow, entry))
	{
		size_t		wanted = strlen(entry);

		if (wanted == length && strncasecmp(entry, host, length) == 0)
			return true;
		/* "*.example.com": what ends in ".example.com". */
		if (wanted > 2 && entry[0] == '*' && entry[1] == '.' && length > wanted - 1 &&
			strncasecmp(entry + 1, host + length - (wanted - 1), wanted - 1) == 0)
			return true;
	}
	return false;
}
