#include "serve_http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <microhttpd.h>

#include "base/clock.h"
#include "job/metrics.h"
#include "job/result.h"
#include "serve_auth.h"

static const double TICK_S = 0.05, CLOSE_S = 2.0;
enum { READ_BLOCK_BYTES = 32 << 10, DISCARD_FACTOR = 4, CONNECTION_MEMORY_BYTES = 64 << 10 };

struct sl_http {
    sl_http_options o;
    sl_service *service; /* NULL until start */
    struct MHD_Daemon *daemon;
    pthread_t watcher;
    int is_watched;
    int listen_fd; /* until the daemon has it, then -1 */
    atomic_int closing;
    atomic_int n_requests; /* between their first and last callback */
    char address[96];
};

typedef enum {
    ROUTE_COMPLETION,
    ROUTE_CHAT,
    ROUTE_TOKENIZE,
    ROUTE_DETOKENIZE,
    ROUTE_MODELS,
    ROUTE_HEALTH,
    ROUTE_METRICS
} route_kind;

typedef struct {
    const char *path, *method;
    route_kind kind;
} route;

static const route routes[] = {
    {"/v1/completions", "POST", ROUTE_COMPLETION},
    {"/v1/chat/completions", "POST", ROUTE_CHAT},
    {"/tokenize", "POST", ROUTE_TOKENIZE},
    {"/detokenize", "POST", ROUTE_DETOKENIZE},
    {"/v1/models", "GET", ROUTE_MODELS},
    {"/health", "GET", ROUTE_HEALTH},
    {"/metrics", "GET", ROUTE_METRICS},
};

/* One request of a connection, from its first line to the end of its answer. */
typedef struct {
    sl_http *http;
    struct MHD_Connection *connection;
    int fd;
    const route *route;
    sl_json_text body;
    int too_large; /* the rest of the body is dropped */
    size_t n_dropped;
    sl_call *call;
} exchange;

/* ---- answers ---- */

static const char type_json[] = "application/json";

static enum MHD_Result send_text(exchange *x, int status, const char *type, const char *text,
                                 size_t n_bytes) {
    struct MHD_Response *r =
        MHD_create_response_from_buffer(n_bytes, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (status == 401) MHD_add_response_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (status == 429 || status == 503)
        MHD_add_response_header(r, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    if (status == 405 && x->route)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, x->route->method);
    const enum MHD_Result sent = MHD_queue_response(x->connection, (unsigned)status, r);
    MHD_destroy_response(r);
    return sent;
}

/* Sends *text, and releases it. */
static enum MHD_Result send_json(exchange *x, int status, sl_json_text *text) {
    enum MHD_Result sent = MHD_NO;
    if (sl_json_status(text) == SL_OK)
        sent = send_text(x, status, type_json, text->data ? text->data : "", text->n_bytes);
    sl_json_free(text);
    return sent;
}

static enum MHD_Result send_error(exchange *x, int status, const char *message) {
    sl_json_text text = {0};
    sl_result_error(status, message, NULL, &text);
    return send_json(x, status, &text);
}

/* A failure of the server's own while it looked at a request. */
static enum MHD_Result send_failure(exchange *x) {
    return send_error(x, 500, "the server failed at this request");
}

/* ---- calls ---- */

static void suspend(void *user) {
    MHD_suspend_connection(((exchange *)user)->connection);
}

void sl_http_wake(void *user) {
    MHD_resume_connection(((exchange *)user)->connection);
}

/* A parked connection is suspended: nobody else reads from its socket or closes it. */
int sl_http_is_gone(void *user) {
    struct pollfd p = {.fd = ((exchange *)user)->fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

static ssize_t read_answer(void *user, uint64_t position, char *buffer, size_t room) {
    exchange *x = user;
    size_t n = 0;
    (void)position;
    switch (sl_call_read(x->call, suspend, buffer, room, &n)) {
    case SL_CALL_PARKED:
        return 0;
    case SL_CALL_GONE:
        return MHD_CONTENT_READER_END_WITH_ERROR;
    case SL_CALL_READY:
        break;
    }
    return n > 0 ? (ssize_t)n : MHD_CONTENT_READER_END_OF_STREAM;
}

static enum MHD_Result send_answer(exchange *x, int status, int is_stream) {
    const uint64_t size = is_stream ? MHD_SIZE_UNKNOWN : sl_call_size(x->call);
    struct MHD_Response *r =
        MHD_create_response_from_callback(size, READ_BLOCK_BYTES, read_answer, x, NULL);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE,
                            is_stream ? "text/event-stream; charset=utf-8" : type_json);
    if (is_stream) MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    if (status == 429 || status == 503)
        MHD_add_response_header(r, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    const enum MHD_Result sent = MHD_queue_response(x->connection, (unsigned)status, r);
    MHD_destroy_response(r);
    return sent;
}

static enum MHD_Result carry_call(exchange *x) {
    int status = 0, is_stream = 0;
    switch (sl_call_await(x->call, suspend, &status, &is_stream)) {
    case SL_CALL_PARKED:
        return MHD_YES;
    case SL_CALL_GONE:
        return MHD_NO;
    case SL_CALL_READY:
        break;
    }
    return send_answer(x, status, is_stream);
}

static enum MHD_Result begin_call(exchange *x, sl_answer_form form) {
    const sl_status st = sl_service_submit(x->http->service, form, x->body.data ? x->body.data : "",
                                           x->body.n_bytes, x, &x->call);
    sl_json_free(&x->body);
    return st == SL_OK ? carry_call(x) : send_failure(x);
}

/* ---- routes ---- */

typedef sl_status (*token_answer)(const sl_api *api, const char *body, size_t n_bytes,
                                  int *status_out, sl_json_text *out);

static enum MHD_Result answer_tokens(exchange *x, token_answer answer) {
    sl_json_text text = {0};
    int status = 0;
    if (answer(x->http->o.api, x->body.data ? x->body.data : "", x->body.n_bytes, &status, &text) ==
        SL_OK)
        return send_json(x, status, &text);
    sl_json_free(&text);
    return send_failure(x);
}

static enum MHD_Result answer_metrics(exchange *x) {
    sl_metrics metrics;
    sl_json_text text = {0};
    sl_service_metrics(x->http->service, &metrics);
    sl_metrics_write(&metrics, x->http->o.api->model_name, &text);
    const enum MHD_Result sent =
        sl_json_status(&text) == SL_OK
            ? send_text(x, 200, "text/plain; version=0.0.4; charset=utf-8", text.data, text.n_bytes)
            : MHD_NO;
    sl_json_free(&text);
    return sent;
}

static enum MHD_Result answer(exchange *x) {
    sl_json_text text = {0};
    switch (x->route->kind) {
    case ROUTE_COMPLETION:
        return begin_call(x, SL_ANSWER_COMPLETION);
    case ROUTE_CHAT:
        return begin_call(x, SL_ANSWER_CHAT);
    case ROUTE_TOKENIZE:
        return answer_tokens(x, sl_api_tokenize);
    case ROUTE_DETOKENIZE:
        return answer_tokens(x, sl_api_detokenize);
    case ROUTE_MODELS:
        sl_api_models(x->http->o.api, &text);
        return send_json(x, 200, &text);
    case ROUTE_HEALTH:
        if (!sl_service_is_open(x->http->service))
            return send_error(x, 503, "the server is stopping");
        return send_text(x, 200, type_json, "{\"status\": \"ok\"}", 16);
    case ROUTE_METRICS:
        return answer_metrics(x);
    }
    return MHD_NO;
}

/* ---- requests ---- */

/* The status that a request has earned by its head alone, 0: go on. */
static int check_head(exchange *x, const char *url, const char *method, const char **message_out) {
    const sl_http_options *o = &x->http->o;
    const char *given =
        MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    for (size_t i = 0; i < sizeof routes / sizeof routes[0] && !x->route; i++) {
        if (strcmp(url, routes[i].path) == 0) x->route = &routes[i];
    }
    const int is_open = x->route && x->route->kind == ROUTE_HEALTH;
    if (o->token && !is_open && !sl_auth_is_bearer(given, o->token)) {
        *message_out = "no valid bearer token in the Authorization header";
        return 401;
    }
    if (!x->route) {
        *message_out = "no such route";
        return 404;
    }
    if (strcmp(method, x->route->method) != 0) {
        *message_out = "the route does not have this method";
        return 405;
    }
    return 0;
}

/* The body's size is announced, and beyond what is worth reading to its end. */
static int is_hopeless(const exchange *x) {
    const char *text =
        MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    const char *expect =
        MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT);
    const unsigned long long n = text ? strtoull(text, NULL, 10) : 0;
    const size_t most = x->http->o.max_body_bytes;
    return n > most && (expect || n / DISCARD_FACTOR > most);
}

static enum MHD_Result refuse_body(exchange *x) {
    char message[96];
    snprintf(message, sizeof message, "the body is larger than %zu bytes",
             x->http->o.max_body_bytes);
    return send_error(x, 413, message);
}

/* Takes a part of the body.  What is beyond the limit is read and dropped for a while, so that the
 * client gets to read the answer. */
static enum MHD_Result take_body(exchange *x, const char *data, size_t *n_bytes) {
    const size_t most = x->http->o.max_body_bytes;
    x->too_large |= *n_bytes > most - x->body.n_bytes;
    if (!x->too_large) {
        sl_json_bytes(&x->body, data, *n_bytes);
        *n_bytes = 0;
        return x->body.failed ? MHD_NO : MHD_YES;
    }
    if (x->body.data) sl_json_free(&x->body);
    x->n_dropped += *n_bytes;
    *n_bytes = 0;
    return x->n_dropped / DISCARD_FACTOR > most ? MHD_NO : MHD_YES;
}

static exchange *open_exchange(sl_http *http, struct MHD_Connection *connection) {
    exchange *x = calloc(1, sizeof *x);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (!x) return NULL;
    x->http = http;
    x->connection = connection;
    x->fd = info ? info->connect_fd : -1;
    atomic_fetch_add(&http->n_requests, 1);
    return x;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *n_bytes, void **state) {
    exchange *x = *state;
    (void)version;
    if (!x) {
        const char *message = NULL;
        x = open_exchange(user, connection);
        if (!x) return MHD_NO;
        *state = x;
        const int status = check_head(x, url, method, &message);
        if (status) return send_error(x, status, message);
        return is_hopeless(x) ? refuse_body(x) : MHD_YES;
    }
    if (*n_bytes) return take_body(x, data, n_bytes);
    if (x->call) return carry_call(x);
    return x->too_large ? refuse_body(x) : answer(x);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why) {
    exchange *x = *state;
    (void)user, (void)connection, (void)why;
    if (!x) return;
    *state = NULL;
    sl_call_release(x->call);
    sl_json_free(&x->body);
    atomic_fetch_sub(&x->http->n_requests, 1);
    free(x);
}

/* ---- opening and closing ---- */

static void *watch(void *user) {
    sl_http *http = user;
    while (!atomic_load(&http->closing)) {
        if (atomic_load(http->o.stop)) sl_service_stop(http->service);
        sl_service_tick(http->service);
        sl_clock_sleep(TICK_S);
    }
    return NULL;
}

/* A socket that listens, or -1 with errno set. */
static int listen_on(const struct sockaddr *address, socklen_t n_bytes) {
    const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, address, n_bytes) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
    const int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static sl_status open_socket(sl_http *http, int *fd_out) {
    const sl_http_options *o = &http->o;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)o->port)};
    const char *host = strcmp(o->host, "localhost") == 0 ? "127.0.0.1" : o->host;
    const int is_v4 = inet_pton(AF_INET, host, &v4.sin_addr) == 1;
    if (!is_v4 && inet_pton(AF_INET6, host, &v6.sin6_addr) != 1)
        return SL_FAIL(SL_ERR_ARG, "--host: found \"%s\", expected a numeric address or localhost",
                       o->host);
    const int fd = is_v4 ? listen_on((const struct sockaddr *)&v4, sizeof v4)
                         : listen_on((const struct sockaddr *)&v6, sizeof v6);
    if (fd < 0)
        return SL_FAIL(SL_ERR_IO, "listen on %s port %d: %s", o->host, o->port, strerror(errno));
    struct sockaddr_in6 bound = {0}; /* the port is at the same place in both families */
    socklen_t n = sizeof bound;
    getsockname(fd, (struct sockaddr *)&bound, &n);
    snprintf(http->address, sizeof http->address, is_v4 ? "%s:%d" : "[%s]:%d", host,
             ntohs(bound.sin6_port));
    *fd_out = fd;
    return SL_OK;
}

/* As many files as there may be connections, and some for the rest of the program. */
static void raise_file_limit(int n_connections) {
    struct rlimit limit;
    const rlim_t wanted = (rlim_t)n_connections + 256;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    (void)setrlimit(RLIMIT_NOFILE, &limit); /* with fewer, connections wait for each other */
}

sl_status sl_http_open(const sl_http_options *o, sl_http **out) {
    int fd = -1;
    sl_http *http = calloc(1, sizeof *http);
    if (!http) return SL_FAIL(SL_ERR_NOMEM, "server: out of host memory");
    http->o = *o;
    const sl_status st = open_socket(http, &fd);
    if (st != SL_OK) {
        free(http);
        return st;
    }
    raise_file_limit(o->max_connections);
    http->listen_fd = fd;
    *out = http;
    return SL_OK;
}

const char *sl_http_address(const sl_http *http) {
    return http->address;
}

sl_status sl_http_start(sl_http *http, sl_service *service) {
    http->service = service;
    http->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
        on_request, http, MHD_OPTION_LISTEN_SOCKET, http->listen_fd, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, NULL, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)http->o.idle_timeout_s,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)http->o.max_connections,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY_BYTES, MHD_OPTION_END);
    if (!http->daemon)
        return SL_FAIL(SL_ERR_IO, "serve on %s: libmicrohttpd does not start", http->address);
    http->listen_fd = -1; /* the daemon's now */
    if (pthread_create(&http->watcher, NULL, watch, http) != 0)
        return SL_FAIL(SL_ERR_NOMEM, "serve on %s: no thread", http->address);
    http->is_watched = 1;
    return SL_OK;
}

/* All calls are answered; their answers have a moment to leave. */
static void drain(sl_http *http) {
    const double start_s = sl_clock_s();
    while (atomic_load(&http->n_requests) > 0 && sl_clock_s() - start_s < CLOSE_S)
        sl_clock_sleep(0.01);
}

void sl_http_close(sl_http *http) {
    if (!http) return;
    if (http->daemon) {
        const MHD_socket fd = MHD_quiesce_daemon(http->daemon);
        if (fd != MHD_INVALID_SOCKET) close(fd);
        drain(http);
    }
    atomic_store(&http->closing, 1);
    if (http->is_watched) pthread_join(http->watcher, NULL);
    if (http->daemon) MHD_stop_daemon(http->daemon);
    if (http->listen_fd >= 0) close(http->listen_fd);
    free(http);
}
