#include "guard_wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

_Static_assert(SL_GUARD_KEY_BYTES <= SL_GUARD_TEXT_BYTES, "a key travels as a text");

sl_guard_frame sl_guard_frame_of(sl_guard_kind kind, int rank, const char *text) {
    sl_guard_frame f = {.kind = (uint32_t)kind, .rank = rank};
    snprintf(f.text, sizeof f.text, "%s", text);
    return f;
}

static sl_guard_frame key_frame(sl_guard_kind kind, int rank, const sl_guard_address *address) {
    sl_guard_frame f = {.kind = (uint32_t)kind, .rank = rank};
    memcpy(f.text, address->key, sizeof address->key);
    return f;
}

static int has_key(const sl_guard_frame *f, sl_guard_kind kind, const sl_guard_address *address) {
    return f->kind == (uint32_t)kind && memcmp(f->text, address->key, sizeof address->key) == 0;
}

/* ---- addresses ---- */

typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} endpoint;

static endpoint endpoint_of(int family, const void *address, uint16_t port, socklen_t *length_out) {
    endpoint e;
    memset(&e, 0, sizeof e);
    e.any.sa_family = (sa_family_t)family;
    if (family == AF_INET) {
        e.v4.sin_port = port;
        memcpy(&e.v4.sin_addr, address, 4);
        *length_out = sizeof e.v4;
    } else {
        e.v6.sin6_port = port;
        memcpy(&e.v6.sin6_addr, address, 16);
        *length_out = sizeof e.v6;
    }
    return e;
}

/* Addresses of this host's interfaces that others may reach. */
static int find_places(int family, uint8_t place[SL_GUARD_MAX_PLACES][16]) {
    struct ifaddrs *all = NULL;
    int n = 0;
    if (getifaddrs(&all) != 0) return 0;
    for (const struct ifaddrs *i = all; i && n < SL_GUARD_MAX_PLACES; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != family) continue;
        if (!(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK)) continue;
        endpoint e;
        memset(&e, 0, sizeof e);
        memcpy(&e, i->ifa_addr, family == AF_INET ? sizeof e.v4 : sizeof e.v6);
        if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&e.v6.sin6_addr)) continue;
        memset(place[n], 0, sizeof place[n]);
        if (family == AF_INET)
            memcpy(place[n++], &e.v4.sin_addr, 4);
        else
            memcpy(place[n++], &e.v6.sin6_addr, 16);
    }
    freeifaddrs(all);
    return n;
}

static void make_quick(int fd) {
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static sl_status listen_at(int family, int is_local, int *fd_out, uint16_t *port_out) {
    const uint32_t loopback = htonl(INADDR_LOOPBACK);
    const uint8_t anywhere[16] = {0};
    socklen_t length;
    endpoint e = endpoint_of(family, is_local ? (const void *)&loopback : anywhere, 0, &length);
    const int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return SL_FAIL(SL_ERR_COMM, "watch the other ranks: socket: %s", strerror(errno));
    if (bind(fd, &e.any, length) != 0 || listen(fd, SOMAXCONN) != 0 ||
        getsockname(fd, &e.any, &length) != 0) {
        const sl_status st =
            SL_FAIL(SL_ERR_COMM, "watch the other ranks: listen: %s", strerror(errno));
        close(fd);
        return st;
    }
    *port_out = family == AF_INET ? e.v4.sin_port : e.v6.sin6_port;
    *fd_out = fd;
    return SL_OK;
}

sl_status sl_guard_listen(int is_local, int *fd_out, sl_guard_address *address_out) {
    sl_guard_address a = {.family = AF_INET};
    if (getrandom(a.key, sizeof a.key, 0) != (ssize_t)sizeof a.key)
        return SL_FAIL(SL_ERR_COMM, "watch the other ranks: getrandom: %s", strerror(errno));
    if (!is_local) {
        a.n_places = find_places(AF_INET, a.place);
        if (a.n_places == 0) {
            a.n_places = find_places(AF_INET6, a.place);
            if (a.n_places > 0) a.family = AF_INET6;
        }
    }
    SL_TRY(listen_at(a.family, is_local, fd_out, &a.port));
    *address_out = a;
    return SL_OK;
}

/* ---- messages ---- */

int sl_guard_read(sl_guard_link *link, sl_guard_frame *out) {
    char *to = (char *)&link->in;
    if (link->fd < 0) return -1;
    while (link->n_in < sizeof link->in) {
        const ssize_t n =
            recv(link->fd, to + link->n_in, sizeof link->in - link->n_in, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
        if (n <= 0) return -1;
        link->n_in += (size_t)n;
    }
    link->n_in = 0;
    *out = link->in;
    out->text[sizeof out->text - 1] = '\0';
    return 1;
}

void sl_guard_write(sl_guard_link *link, const sl_guard_frame *frame) {
    if (link->fd < 0 || link->is_clogged) return;
    const ssize_t n = send(link->fd, frame, sizeof *frame, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0 && (size_t)n < sizeof *frame) link->is_clogged = 1;
}

void sl_guard_hang_up(sl_guard_link *link) {
    if (link->fd >= 0) close(link->fd);
    *link = (sl_guard_link){.fd = -1};
}

/* ---- meeting ---- */

/* Milliseconds until a moment, as poll() wants them. */
static int ms_until(double when_s) {
    const double left_s = when_s - sl_clock_s();
    return left_s <= 0 ? 0 : (int)(left_s * 1e3) + 1;
}

/* Reads the greeting of a connection; 1: it belongs to rank *rank_out, 0: not yet, -1: a stranger.
 */
static int read_hello(sl_guard_link *guest, const sl_guard_address *address, int n_ranks,
                      const sl_guard_link *link, int *rank_out) {
    sl_guard_frame f;
    const int got = sl_guard_read(guest, &f);
    if (got <= 0) return got;
    if (!has_key(&f, SL_GUARD_HELLO, address) || f.rank < 1 || f.rank >= n_ranks ||
        link[f.rank].fd >= 0)
        return -1;
    *rank_out = f.rank;
    return 1;
}

int sl_guard_accept(int listen_fd, const sl_guard_address *address, int n_ranks, double patience_s,
                    sl_guard_link *link) {
    const double until_s = sl_clock_s() + patience_s;
    const size_t room = (size_t)n_ranks * 4 + 16; /* those that have not greeted */
    const sl_guard_frame welcome = key_frame(SL_GUARD_WELCOME, 0, address);
    sl_guard_link *guest = calloc(room, sizeof *guest);
    struct pollfd *wait = calloc(room + 1, sizeof *wait);
    int n_linked = 0;
    size_t n_guests = 0;
    while (guest && wait && n_linked < n_ranks - 1 && sl_clock_s() < until_s) {
        wait[0] = (struct pollfd){.fd = n_guests < room ? listen_fd : -1, .events = POLLIN};
        for (size_t i = 0; i < n_guests; i++)
            wait[i + 1] = (struct pollfd){.fd = guest[i].fd, .events = POLLIN};
        if (poll(wait, n_guests + 1, ms_until(until_s)) < 0 && errno != EINTR) break;
        for (size_t i = 0; i < n_guests;) {
            int rank = 0;
            const int got = read_hello(&guest[i], address, n_ranks, link, &rank);
            if (got > 0) {
                link[rank] = guest[i];
                sl_guard_write(&link[rank], &welcome);
                n_linked++;
            }
            if (got < 0) sl_guard_hang_up(&guest[i]);
            if (got == 0)
                i++;
            else
                guest[i] = guest[--n_guests];
        }
        if (n_guests == room) continue;
        const int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) continue;
        make_quick(fd);
        guest[n_guests++] = (sl_guard_link){.fd = fd};
    }
    for (size_t i = 0; i < n_guests; i++) sl_guard_hang_up(&guest[i]);
    free(wait);
    free(guest);
    return n_linked;
}

static int start_connecting(int family, const void *place, uint16_t port) {
    socklen_t length;
    const endpoint e = endpoint_of(family, place, port, &length);
    const int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    make_quick(fd);
    if (connect(fd, &e.any, length) == 0 || errno == EINPROGRESS) return fd;
    close(fd);
    return -1;
}

/* Looks after one attempt; 1: the first rank has answered. */
static int advance_attempt(sl_guard_link *try, int *greeted, short events,
                           const sl_guard_frame *hello, const sl_guard_address *address) {
    sl_guard_frame f;
    if (!*greeted && events) {
        int err = 0;
        socklen_t length = sizeof err;
        if (getsockopt(try->fd, SOL_SOCKET, SO_ERROR, &err, &length) != 0 || err != 0) {
            sl_guard_hang_up(try);
            return 0;
        }
        sl_guard_write(try, hello);
        *greeted = 1;
        return 0;
    }
    if (!*greeted) return 0;
    const int got = sl_guard_read(try, &f);
    if (got > 0 && has_key(&f, SL_GUARD_WELCOME, address)) return 1;
    if (got != 0) sl_guard_hang_up(try);
    return 0;
}

sl_status sl_guard_connect(const sl_guard_address *address, int is_neighbour, int rank,
                           double patience_s, sl_guard_link *link) {
    enum { MAX_TRIES = SL_GUARD_MAX_PLACES + 1 };
    const double until_s = sl_clock_s() + patience_s;
    const uint32_t loopback = htonl(INADDR_LOOPBACK);
    const sl_guard_frame hello = key_frame(SL_GUARD_HELLO, rank, address);
    sl_guard_link try[MAX_TRIES];
    int greeted[MAX_TRIES] = {0}, n = 0, found = -1;
    memset(try, 0, sizeof try);
    if (is_neighbour && address->family == AF_INET)
        try[n++].fd = start_connecting(AF_INET, &loopback, address->port);
    for (int i = 0; i < address->n_places; i++)
        try[n++].fd = start_connecting(address->family, address->place[i], address->port);

    while (found < 0 && sl_clock_s() < until_s) {
        struct pollfd wait[MAX_TRIES];
        int n_open = 0;
        for (int i = 0; i < n; i++) {
            wait[i] = (struct pollfd){.fd = try[i].fd, .events = greeted[i] ? POLLIN : POLLOUT};
            n_open += try[i].fd >= 0;
        }
        if (n_open == 0) break;
        if (poll(wait, (nfds_t)n, ms_until(until_s)) < 0 && errno != EINTR) break;
        for (int i = 0; i < n && found < 0; i++) {
            if (try[i].fd >= 0 && wait[i].revents &&
                advance_attempt(&try[i], &greeted[i], wait[i].revents, &hello, address))
                found = i;
        }
    }
    if (found >= 0) *link = try[found];
    for (int i = 0; i < n; i++) {
        if (i != found) sl_guard_hang_up(&try[i]);
    }
    if (found < 0)
        return SL_FAIL(SL_ERR_COMM, "watch the first rank: none of its %d addresses answers", n);
    return SL_OK;
}
