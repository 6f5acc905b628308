/*-------------------------------------------------------------------------
 *
 * amqp_library.h
 *		rabbitmq-c, whose headers have moved with version 0.12.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_AMQP_LIBRARY_H
#define INVENTORY_AMQP_LIBRARY_H

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#include <rabbitmq-c/ssl_socket.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#endif

#endif							/* INVENTORY_AMQP_LIBRARY_H */
