/* serve_http.h - the HTTP side of `sluice serve`, over libmicrohttpd.
 *
 * Finds the route, checks the bearer token, gathers the body, and carries a call's answer to its
 * client.  Built where libmicrohttpd is found.
 * Layer: launch.  May include: all.  Thread safety: one thread serves all connections, a second
 * looks after signals, time limits and clients that hang up.
 */
#ifndef SL_LAUNCH_SERVE_HTTP_H
#define SL_LAUNCH_SERVE_HTTP_H

#include <stdatomic.h>
#include <stddef.h>

#include "base/status.h"
#include "job/service.h"

typedef struct sl_http sl_http;

/* All pointers are borrowed until close. */
typedef struct {
    const char *host;  /* a numeric address, IPv4 or IPv6, or localhost */
    int port;          /* 0: any that is free */
    const char *token; /* clients have to bring it; NULL: none */
    size_t max_body_bytes;
    int idle_timeout_s; /* of a connection on which nothing moves while the server waits for it */
    int max_connections;
    const sl_api *api;
    const atomic_int *stop; /* becomes non-zero when the service is to stop */
} sl_http_options;

/* Listens; who connects waits until sl_http_start().
 * Errors: SL_ERR_ARG (host), SL_ERR_IO (address in use, ...). */
sl_status sl_http_open(const sl_http_options *options, sl_http **out);

/* The address as in a URL: "127.0.0.1:8000". */
const char *sl_http_address(const sl_http *http);

/* For the service's options; user is a connection of this module. */
void sl_http_wake(void *user);
int sl_http_is_gone(void *user);

/* From now on requests go to `service`, borrowed until close. */
sl_status sl_http_start(sl_http *http, sl_service *service);

/* Ends all connections; the service's run has to be over.  NULL is allowed. */
void sl_http_close(sl_http *http);

#endif
