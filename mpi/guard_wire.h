/* guard_wire.h - the short messages by which ranks watch each other: TCP connections beside MPI,
 * each rank to the first one, made and read without ever waiting long.
 *
 * Layer: mpi.  May include: src.  Thread safety: one owner per link.
 */
#ifndef SL_MPI_GUARD_WIRE_H
#define SL_MPI_GUARD_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { SL_GUARD_TEXT_BYTES = 480, SL_GUARD_KEY_BYTES = 32, SL_GUARD_MAX_PLACES = 16 };

typedef enum {
    SL_GUARD_HELLO = 0x51ce0001, /* text: the key; told once by who connects */
    SL_GUARD_WELCOME,            /* text: the key; the answer */
    SL_GUARD_BEAT,               /* a sign of life; n_done, text: of the rank's pulse */
    SL_GUARD_FAILED,             /* rank: whose failure, text: its message */
    SL_GUARD_SIGNALLED,          /* rank: who got a signal, text: which */
    SL_GUARD_END,                /* end at once and say nothing: it has been said */
    SL_GUARD_BYE,                /* the last message of a rank that ends as it should */
} sl_guard_kind;

typedef struct {
    uint32_t kind;
    int32_t rank;
    uint64_t n_done; /* beats only */
    char text[SL_GUARD_TEXT_BYTES];
} sl_guard_frame;

typedef struct {
    int fd;            /* -1: none */
    size_t n_in;       /* bytes of `in` that are there */
    sl_guard_frame in; /* coming in */
    int is_clogged;    /* 1: a message went out in part; nothing can follow it */
} sl_guard_link;

/* Where the first rank can be reached.  Plain bytes, broadcast to all ranks. */
typedef struct {
    uint8_t key[SL_GUARD_KEY_BYTES]; /* drawn anew for each run: strangers are not let in */
    int32_t family;                  /* AF_INET or AF_INET6 */
    int32_t n_places;
    uint16_t port;                          /* network order */
    uint8_t place[SL_GUARD_MAX_PLACES][16]; /* 4 or 16 bytes each, network order */
} sl_guard_address;

sl_guard_frame sl_guard_frame_of(sl_guard_kind kind, int rank, const char *text);

/* Opens a listening socket: on the loopback interface alone where all ranks share this host, else
 * on all interfaces, whose addresses are written down.  Errors: SL_ERR_COMM. */
sl_status sl_guard_listen(int is_local, int *fd_out, sl_guard_address *address_out);

/* First rank.  Takes the other ranks' connections, link[r] of rank r, for `patience_s` at most.
 *   link  [n_ranks], fd -1 everywhere
 * Returns how many ranks are connected. */
int sl_guard_accept(int listen_fd, const sl_guard_address *address, int n_ranks, double patience_s,
                    sl_guard_link *link);

/* Other ranks.  Tries all places at once, and this host itself if is_neighbour, and keeps the first
 * that answers.  Errors: SL_ERR_COMM when none does in time. */
sl_status sl_guard_connect(const sl_guard_address *address, int is_neighbour, int rank,
                           double patience_s, sl_guard_link *link);

/* Reads without waiting: 1 a whole message is in *out, 0 there is none yet, -1 the connection is
 * over. */
int sl_guard_read(sl_guard_link *link, sl_guard_frame *out);

/* Writes without waiting; what does not fit is dropped, for the peer is not reading. */
void sl_guard_write(sl_guard_link *link, const sl_guard_frame *frame);

void sl_guard_hang_up(sl_guard_link *link);

#endif
