/* transport_contract.h - what every transport between ranks keeps, whatever carries it. */
#ifndef SL_MPI_TRANSPORT_CONTRACT_H
#define SL_MPI_TRANSPORT_CONTRACT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "mpi/mpi_test.h"

enum {
    SMALL_PIECE = 1000, /* splits many of the messages below */
    MAX_BYTES = 5000,
    IN_FLIGHT = 12,
};

static int next_of(const sl_transport *t) {
    return (t->rank + 1) % t->n_ranks;
}

static int previous_of(const sl_transport *t) {
    return (t->rank + t->n_ranks - 1) % t->n_ranks;
}

/* Length and content of the `number`th message of a rank and channel. */
static size_t length_of(int rank, int channel, int number) {
    const uint64_t bits = sl_rng_at((uint64_t)(rank * 100 + channel), (uint64_t)number);
    if (bits % 16 == 0) return 0;
    if (bits % 16 == 1) return SMALL_PIECE * (bits >> 8 & 3); /* ends at a piece's end */
    return (bits >> 8) % MAX_BYTES;
}

static void fill(unsigned char *buf, int rank, int channel, int number) {
    const size_t n = length_of(rank, channel, number);
    for (size_t i = 0; i < n; i++)
        buf[i] =
            (unsigned char)(sl_rng_at((uint64_t)number, (uint64_t)rank * 7 + (uint64_t)channel) +
                            i * 31);
}

static void check_content(const unsigned char *buf, int rank, int channel, int number) {
    unsigned char expected[MAX_BYTES];
    fill(expected, rank, channel, number);
    CHECK_THAT(memcmp(buf, expected, length_of(rank, channel, number)) == 0,
               "message %d of channel %d from rank %d has another content", number, channel, rank);
}

/* ---- messages ---- */

typedef struct {
    unsigned char buf[MAX_BYTES];
    sl_ticket ticket;
} in_flight;

/* Every rank sends to the next one on all channels, IN_FLIGHT messages at a time on each, and
 * receives from the one before; a wrong order shows in length or content. */
static void ring_keeps_order_on_every_channel(sl_transport *t, int n_messages) {
    static in_flight out[SL_CHANNEL_COUNT][IN_FLIGHT], in[SL_CHANNEL_COUNT][IN_FLIGHT];
    memset(out, 0, sizeof out);
    memset(in, 0, sizeof in);
    for (int i = 0; i < n_messages + IN_FLIGHT; i++)
        for (int c = 0; c < SL_CHANNEL_COUNT; c++) {
            in_flight *o = &out[c][i % IN_FLIGHT], *r = &in[c][i % IN_FLIGHT];
            CHECK_OK(t->ops->wait(t, r->ticket)); /* 0, "none", in the first round */
            if (i >= IN_FLIGHT) check_content(r->buf, previous_of(t), c, i - IN_FLIGHT);
            CHECK_OK(t->ops->wait(t, o->ticket));
            r->ticket = o->ticket = 0;
            if (i >= n_messages) continue;
            fill(o->buf, t->rank, c, i);
            CHECK_OK(t->ops->recv(t, previous_of(t), (sl_channel)c, r->buf,
                                  length_of(previous_of(t), c, i), &r->ticket));
            CHECK_OK(t->ops->send(t, next_of(t), (sl_channel)c, o->buf, length_of(t->rank, c, i),
                                  &o->ticket));
            CHECK(o->ticket != 0 && r->ticket != 0 && o->ticket != r->ticket);
        }
}

static void unknown_lengths_arrive_whole_and_in_order(sl_transport *t) {
    enum { N = 200 };
    const int c = SL_CHANNEL_HEADER;
    static unsigned char out[N][MAX_BYTES];
    sl_ticket ticket[N];
    for (int i = 0; i < N; i++) {
        fill(out[i], t->rank, c, i);
        CHECK_OK(t->ops->send(t, next_of(t), c, out[i], length_of(t->rank, c, i), &ticket[i]));
    }
    for (int i = 0; i < N; i++) {
        void *buf = NULL;
        size_t bytes = 0;
        const int waits = i % 3 > 0;
        do CHECK_OK(t->ops->recv_message(t, previous_of(t), c, waits, &buf, &bytes));
        while (!waits && !buf);
        CHECK(buf != NULL);
        CHECK_THAT(bytes == length_of(previous_of(t), c, i), "message %d has %zu bytes", i, bytes);
        check_content(buf, previous_of(t), c, i);
        free(buf);
    }
    for (int i = 0; i < N; i++) CHECK_OK(t->ops->wait(t, ticket[i]));
}

static void recv_message_without_wait_gives_nothing_when_there_is_nothing(sl_transport *t) {
    void *buf = t;
    size_t bytes = 7;
    CHECK_OK(t->ops->recv_message(t, previous_of(t), SL_CHANNEL_RESULT, 0, &buf, &bytes));
    CHECK(buf == NULL && bytes == 0);
    CHECK_OK(t->ops->agree(t, SL_OK)); /* nobody sends before all have looked */
}

static void empty_messages_are_messages(sl_transport *t) {
    sl_ticket out, in;
    void *buf = NULL;
    size_t bytes = 7;
    CHECK_OK(t->ops->recv(t, previous_of(t), SL_CHANNEL_RESULT, NULL, 0, &in));
    CHECK_OK(t->ops->send(t, next_of(t), SL_CHANNEL_RESULT, NULL, 0, &out));
    CHECK_OK(t->ops->wait(t, in));
    CHECK_OK(t->ops->wait(t, out));
    CHECK_OK(t->ops->send(t, next_of(t), SL_CHANNEL_RESULT, NULL, 0, &out));
    CHECK_OK(t->ops->recv_message(t, previous_of(t), SL_CHANNEL_RESULT, 1, &buf, &bytes));
    CHECK(buf != NULL && bytes == 0);
    free(buf);
    CHECK_OK(t->ops->wait(t, out));
}

/* To and from every rank, this one included. */
static void all_ranks_reach_all(sl_transport *t) {
    int *from = calloc((size_t)t->n_ranks, sizeof *from);
    sl_ticket *tickets = calloc((size_t)t->n_ranks * 2, sizeof *tickets);
    CHECK(from && tickets);
    const int mine = 1000 + t->rank;
    for (int r = 0; r < t->n_ranks; r++) {
        CHECK_OK(t->ops->recv(t, r, SL_CHANNEL_RESULT, &from[r], sizeof mine, &tickets[2 * r]));
        CHECK_OK(t->ops->send(t, r, SL_CHANNEL_RESULT, &mine, sizeof mine, &tickets[2 * r + 1]));
    }
    for (int i = 2 * t->n_ranks; i-- > 0;) CHECK_OK(t->ops->wait(t, tickets[i]));
    for (int r = 0; r < t->n_ranks; r++) CHECK(from[r] == 1000 + r);
    free(tickets);
    free(from);
}

/* ---- collectives ---- */

static void agree_gives_all_ranks_the_failing_ranks_words(sl_transport *t) {
    char expected[64];
    CHECK_OK(t->ops->agree(t, SL_OK));
    for (int bad = 0; bad < t->n_ranks; bad++) {
        sl_status mine = SL_OK;
        sl_fail_text(SL_ERR_IO, "an old message");
        if (t->rank == bad) {
            snprintf(expected, sizeof expected, "layer %d is missing", bad);
            mine = sl_fail_text(SL_ERR_FORMAT, expected);
        }
        snprintf(expected, sizeof expected, "rank %d: layer %d is missing", bad, bad);
        sl_status st = t->ops->agree(t, mine);
        CHECK(st == SL_ERR_FORMAT);
        CHECK_THAT(strcmp(sl_error_message(), expected) == 0, "\"%s\"", sl_error_message());
        /* Passing it through another agreement changes nothing. */
        st = t->ops->agree(t, st);
        CHECK(st == SL_ERR_FORMAT);
        CHECK_THAT(strcmp(sl_error_message(), expected) == 0, "\"%s\"", sl_error_message());
        CHECK_OK(t->ops->agree(t, SL_OK));
    }
}

static void agree_names_the_lowest_of_several(sl_transport *t) {
    sl_status mine = SL_OK;
    if (t->rank > 0) {
        char text[40];
        snprintf(text, sizeof text, "trouble %d", t->rank);
        mine = sl_fail_text(t->rank == 1 ? SL_ERR_NOMEM : SL_ERR_IO, text);
    }
    CHECK(t->ops->agree(t, mine) == SL_ERR_NOMEM);
    CHECK(strcmp(sl_error_message(), "rank 1: trouble 1") == 0);
}

static void agree_cuts_a_message_that_is_too_long(sl_transport *t) {
    char text[5000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    const sl_status mine = t->rank == 0 ? sl_fail_text(SL_ERR_IO, text) : SL_OK;
    CHECK(t->ops->agree(t, mine) == SL_ERR_IO);
    CHECK(strncmp(sl_error_message(), "rank 0: xxx", 11) == 0);
    CHECK(strlen(sl_error_message()) < 1100);
}

static void min_broadcast_and_gather_collect(sl_transport *t) {
    int64_t v[3] = {t->rank, -t->rank, INT64_MAX};
    CHECK_OK(t->ops->min_i64(t, v, 3));
    CHECK(v[0] == 0 && v[1] == -(t->n_ranks - 1) && v[2] == INT64_MAX);

    unsigned char buf[MAX_BYTES];
    for (int root = 0; root < t->n_ranks; root++) {
        memset(buf, 0, sizeof buf);
        if (t->rank == root)
            for (size_t i = 0; i < sizeof buf; i++) buf[i] = (unsigned char)(i * 13 + (size_t)root);
        CHECK_OK(t->ops->broadcast(t, root, buf, sizeof buf));
        for (size_t i = 0; i < sizeof buf; i++)
            CHECK(buf[i] == (unsigned char)(i * 13 + (size_t)root));
    }
    CHECK_OK(t->ops->broadcast(t, 0, NULL, 0));

    const int64_t mine[2] = {t->rank * 10, t->rank * 10 + 1};
    int64_t *all = t->rank == 0 ? calloc((size_t)t->n_ranks, sizeof mine) : NULL;
    CHECK(t->rank != 0 || all);
    CHECK_OK(t->ops->gather(t, mine, sizeof mine, all));
    for (int r = 0; all && r < t->n_ranks; r++)
        CHECK(all[2 * r] == r * 10 && all[2 * r + 1] == r * 10 + 1);
    CHECK_OK(t->ops->gather(t, NULL, 0, NULL));
    free(all);
}

static void keeps_the_contract(sl_transport *t) {
    ring_keeps_order_on_every_channel(t, 1000);
    recv_message_without_wait_gives_nothing_when_there_is_nothing(t);
    unknown_lengths_arrive_whole_and_in_order(t);
    empty_messages_are_messages(t);
    all_ranks_reach_all(t);
    min_broadcast_and_gather_collect(t);
    agree_gives_all_ranks_the_failing_ranks_words(t);
    agree_names_the_lowest_of_several(t);
    agree_cuts_a_message_that_is_too_long(t);
}

#endif
