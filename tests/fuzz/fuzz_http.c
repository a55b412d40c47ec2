/* Fuzz entry: what a client sends to `sluice serve`, byte for byte, heads and bodies.
 *
 * The server is a whole one, with sockets, service and a tiny engine; it is started once.  Bit 0 of
 * the first byte picks the server that asks for a token, the other bits the size of the pieces in
 * which the rest is sent.  Whatever comes back has to be HTTP, and its JSON has to be JSON;
 * whatever was sent, the server answers the next one, and keeps no call of a client that has left.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "base/clock.h"
#include "cpu/cpu_backend.h"
#include "engine/engine.h"
#include "job/service.h"
#include "serve_http.h"
#include "tiny_tokenizer.h"

enum { MAX_BODY = 4096, ROOM = 1 << 20, ALIVE_EVERY = 64 };

typedef struct {
    sl_api api;
    sl_model_config config;
    sl_service *service;
    sl_http *http[2]; /* open to all; with a token */
    atomic_int stop;
} server;

static void require(int condition, const char *what, const char *text) {
    if (condition) return;
    fprintf(stderr, "%s: %.2000s\n", what, text ? text : "(none)");
    abort();
}

/* ---- the server ---- */

static void *run(void *user) {
    int engine_failed;
    const sl_status st = sl_service_run(user, &engine_failed);
    require(st == SL_OK, "the service ended", sl_error_message());
    return NULL;
}

static sl_engine *open_engine(server *s) {
    sl_source *source = NULL;
    sl_backend *backend = NULL;
    sl_transport *transport = NULL;
    sl_engine *engine = NULL;
    sl_policy policy;
    const sl_cpu_options cpu = {.n_threads = 1};
    sl_policy_init(&policy);
    policy.micro_batch = 8;
    policy.num_micro_batches = 1;
    policy.max_context = 64;
    policy.cpu_budget_bytes = 16 << 20;
    require(sl_source_open("dummy:" SL_TESTS_DIR "/golden/dummy/config.json", 1, &source) ==
                    SL_OK &&
                sl_cpu_backend_open(&cpu, &backend) == SL_OK &&
                sl_transport_open_loopback(&transport) == SL_OK &&
                sl_engine_open(source, backend, transport, &policy, sl_service_on_token, &engine) ==
                    SL_OK,
            "engine", sl_error_message());
    s->config = *sl_source_config(source);
    sl_source_close(source);
    return engine;
}

/* Never closed: the process ends with it. */
static server *start_server(void) {
    static server s;
    static sl_tokenizer *tokenizer;
    pthread_t thread;
    require(tiny_tokenizer_open(&tokenizer) == SL_OK, "tokenizer", sl_error_message());
    sl_api_init(tokenizer, &s.api);
    s.api.model_name = s.api.model_path = "m";
    s.api.max_context = 64;
    s.api.has_chat = 1;
    s.api.chat = (sl_chat_template){.family = SL_CHAT_CHATML};
    const sl_service_options options = {.engine = open_engine(&s),
                                        .config = &s.config,
                                        .api = &s.api,
                                        .max_queue = 64,
                                        .timeout_s = 5,
                                        .drain_s = 1,
                                        .wake = sl_http_wake,
                                        .is_gone = sl_http_is_gone};
    require(sl_service_open(&options, &s.service) == SL_OK, "service", sl_error_message());
    for (int i = 0; i < 2; i++) {
        const sl_http_options http = {.host = "127.0.0.1",
                                      .token = i ? "secret" : NULL,
                                      .max_body_bytes = MAX_BODY,
                                      .idle_timeout_s = 1,
                                      .max_connections = 64,
                                      .api = &s.api,
                                      .stop = &s.stop};
        require(sl_http_open(&http, &s.http[i]) == SL_OK &&
                    sl_http_start(s.http[i], s.service) == SL_OK,
                "http", sl_error_message());
    }
    require(pthread_create(&thread, NULL, run, s.service) == 0, "thread", NULL);
    return &s;
}

/* ---- the client ---- */

static int connect_to(const sl_http *http) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    const char *port = strrchr(sl_http_address(http), ':') + 1;
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)atoi(port)),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    require(fd >= 0 && connect(fd, (const struct sockaddr *)&to, sizeof to) == 0, "connect",
            strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* As much as the server takes. */
static void send_pieces(int fd, const uint8_t *data, size_t size, size_t piece) {
    for (size_t sent = 0; sent < size;) {
        const size_t n = size - sent < piece ? size - sent : piece;
        const ssize_t got = send(fd, data + sent, n, MSG_NOSIGNAL);
        if (got < 0) return; /* it has had enough */
        sent += (size_t)got;
    }
}

/* Reads until the server is silent, says then that no more comes, and reads to the end. */
static size_t read_all(int fd, char *text) {
    enum { SILENCE_MS = 4, END_MS = 8000 };
    size_t n = 0;
    int is_shut = 0;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        const int ready = poll(&p, 1, is_shut ? END_MS : SILENCE_MS);
        if (ready == 0) {
            require(!is_shut, "the server keeps the connection", text);
            shutdown(fd, SHUT_WR);
            is_shut = 1;
            continue;
        }
        const ssize_t got = recv(fd, text + n, ROOM - 1 - n, 0);
        if (got <= 0 || n + (size_t)got == ROOM - 1) break;
        n += (size_t)got;
        text[n] = '\0';
    }
    text[n] = '\0';
    return n;
}

/* ---- what comes back ---- */

/* The value of a header of the first answer, or NULL; `head` ends with an empty line. */
static const char *header_of(const char *head, const char *end, const char *name) {
    const size_t n = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line && line < end;
         line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, n) == 0 && line[2 + n] == ':') return line + 3 + n;
    return NULL;
}

static void check_first_answer(const char *text, size_t n_bytes, int has_body) {
    require(strncmp(text, "HTTP/1.1 ", 9) == 0 || strncmp(text, "HTTP/1.0 ", 9) == 0, "not HTTP",
            text);
    const int status = atoi(text + 9);
    require(status == 100 || (status >= 200 && status < 600), "status", text);
    const char *end = strstr(text, "\r\n\r\n");
    if (!end || status == 100) return; /* cut off, or another answer follows */
    const char *length = header_of(text, end, "Content-Length");
    const char *type = header_of(text, end, "Content-Type");
    if (!has_body || !length || !type || strncmp(type, " application/json", 17) != 0) return;
    const size_t size = (size_t)strtoull(length, NULL, 10), head = (size_t)(end + 4 - text);
    if (head + size > n_bytes) return; /* the client has hung up on it */
    json_t *root = json_loadb(end + 4, size, JSON_ALLOW_NUL, NULL);
    require(root != NULL, "no valid JSON", text);
    if (status >= 400) require(json_is_object(json_object_get(root, "error")), "no error", text);
    require(status != 500, "the server failed", text);
    json_decref(root);
}

static void exchange(const sl_http *http, const uint8_t *data, size_t size, size_t piece,
                     char *text) {
    const int fd = connect_to(http);
    send_pieces(fd, data, size, piece);
    const size_t n = read_all(fd, text);
    close(fd);
    const int is_head = size >= 4 && strncasecmp((const char *)data, "HEAD", 4) == 0;
    if (n > 0) check_first_answer(text, n, !is_head);
}

/* Everybody has left: so have their calls, within the time that a look at them takes. */
static void check_alive(server *s, char *text) {
    static const char ask[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                              "Content-Length: 32\r\n\r\n{\"prompt\": [1], \"max_tokens\": 1} ";
    sl_metrics m;
    const double start_s = sl_clock_s();
    do {
        exchange(s->http[0], (const uint8_t *)ask, sizeof ask - 1, sizeof ask, text);
        sl_service_metrics(s->service, &m);
        require(sl_clock_s() - start_s < 20, "calls of clients that have left stay", NULL);
    } while (strncmp(text, "HTTP/1.1 200", 12) != 0 || m.n_running > 0 || m.n_waiting > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const size_t pieces[] = {1 << 20, 1, 7, 64};
    static server *s;
    static char *text;
    static int n;
    if (!s) {
        s = start_server();
        text = malloc(ROOM);
        require(text != NULL, "memory", NULL);
    }
    if (size < 1) return 0;
    exchange(s->http[data[0] & 1], data + 1, size - 1, pieces[data[0] >> 1 & 3], text);
    if (++n % ALIVE_EVERY == 0) check_alive(s, text);
    return 0;
}
