/* The MPI session and transport on any number of ranks from 2. */
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/rng.h"
#include "engine/delayed.h"
#include "mpi_test.h"
#include "transport_mpi.h"

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

/* ---- tickets ---- */

static void ten_thousand_messages_reuse_their_places(sl_transport *t) {
    enum { N = 10000, AT_ONCE = 4 };
    uint64_t out[AT_ONCE], in[AT_ONCE];
    sl_ticket sent[AT_ONCE] = {0}, got[AT_ONCE] = {0};
    CHECK(sl_transport_mpi_n_places(t) == 0);
    for (int i = 0; i < N + AT_ONCE; i++) {
        const int k = i % AT_ONCE;
        for (int done = 0; !done;) CHECK_OK(t->ops->test(t, got[k], &done));
        if (i >= AT_ONCE)
            CHECK(in[k] == sl_rng_at((uint64_t)previous_of(t), (uint64_t)(i - AT_ONCE)));
        CHECK_OK(t->ops->wait(t, sent[k]));
        sent[k] = got[k] = 0;
        if (i >= N) continue;
        out[k] = sl_rng_at((uint64_t)t->rank, (uint64_t)i);
        CHECK_OK(t->ops->recv(t, previous_of(t), SL_CHANNEL_HIDDEN, &in[k], sizeof in[k], &got[k]));
        CHECK_OK(t->ops->send(t, next_of(t), SL_CHANNEL_HIDDEN, &out[k], sizeof out[k], &sent[k]));
    }
    CHECK_THAT(sl_transport_mpi_n_places(t) == 2 * AT_ONCE, "%d places for %d transfers at once",
               sl_transport_mpi_n_places(t), 2 * AT_ONCE);
}

static void a_done_ticket_is_not_taken_for_a_later_one(sl_transport *t) {
    int value = t->rank, got = -1, done = -1;
    sl_ticket first, second, in;
    CHECK_OK(t->ops->wait(t, 0));
    CHECK_OK(t->ops->test(t, 0, &done));
    CHECK(done == 1);
    for (int round = 0; round < 2; round++) {
        CHECK_OK(t->ops->recv(t, previous_of(t), SL_CHANNEL_HIDDEN, &got, sizeof got, &in));
        CHECK_OK(t->ops->send(t, next_of(t), SL_CHANNEL_HIDDEN, &value, sizeof value,
                              round ? &second : &first));
        if (round) CHECK(first != second);
        if (round) CHECK_FAILS(t->ops->wait(t, first), SL_ERR_ARG, "ticket");
        CHECK_OK(t->ops->wait(t, in));
        CHECK_OK(t->ops->wait(t, round ? second : first));
        CHECK(got == previous_of(t));
    }
    CHECK_FAILS(t->ops->test(t, second, &done), SL_ERR_ARG, "ticket");
    CHECK_FAILS(t->ops->wait(t, (sl_ticket)123456789), SL_ERR_ARG, "ticket");
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

/* ---- errors ---- */

static void wrong_arguments_are_named(sl_transport *t) {
    int v = 0;
    void *buf;
    size_t bytes;
    sl_ticket ticket = 99;
    CHECK_FAILS(t->ops->send(t, t->n_ranks, SL_CHANNEL_HEADER, &v, sizeof v, &ticket), SL_ERR_ARG,
                "rank");
    CHECK_FAILS(t->ops->recv(t, -1, SL_CHANNEL_HEADER, &v, sizeof v, &ticket), SL_ERR_ARG,
                "rank -1");
    CHECK_FAILS(t->ops->send(t, 0, SL_CHANNEL_COUNT, &v, sizeof v, &ticket), SL_ERR_ARG, "channel");
    CHECK_FAILS(t->ops->recv_message(t, t->n_ranks, SL_CHANNEL_HEADER, 1, &buf, &bytes), SL_ERR_ARG,
                "rank");
    CHECK_FAILS(t->ops->broadcast(t, t->n_ranks, &v, sizeof v), SL_ERR_ARG, "rank");
    CHECK_FAILS(t->ops->min_i64(t, NULL, -1), SL_ERR_ARG, "-1");
    CHECK_FAILS(t->ops->gather(t, &v, (size_t)INT_MAX + 1, NULL), SL_ERR_ARG, "2147483648");
    CHECK_FAILS(sl_transport_open_mpi_pieces(0, NULL), SL_ERR_ARG, "0 bytes");
    CHECK(ticket == 99);
}

/* Lengths that do not agree are errors on the receiver, for messages of one piece and of several;
 * `sent` is on a transport of its own, which is of no use afterwards. */
static void a_wrong_length_is_an_error(size_t sent, size_t expected, size_t piece) {
    sl_transport *t;
    unsigned char out[MAX_BYTES] = {0}, in[MAX_BYTES];
    sl_ticket to = 0, from = 0;
    CHECK_OK(sl_transport_open_mpi_pieces(piece, &t));
    if (t->rank == 0) CHECK_OK(t->ops->send(t, 1, SL_CHANNEL_HIDDEN, out, sent, &to));
    if (t->rank == 1) {
        CHECK_OK(t->ops->recv(t, 0, SL_CHANNEL_HIDDEN, in, expected, &from));
        CHECK_FAILS(t->ops->wait(t, from), SL_ERR_COMM, "receive hidden from rank 0");
        CHECK_FAILS(t->ops->wait(t, from), SL_ERR_COMM, "failed before");
    }
    sl_transport_close(t);
}

static void close_does_not_wait_for_messages_that_never_come(void) {
    static unsigned char big[1 << 20];
    sl_transport *t;
    int v;
    sl_ticket a, b;
    CHECK_OK(sl_transport_open_mpi(&t));
    CHECK_OK(t->ops->recv(t, previous_of(t), SL_CHANNEL_HEADER, &v, sizeof v, &a));
    CHECK_OK(t->ops->send(t, next_of(t), SL_CHANNEL_HIDDEN, big, sizeof big, &b));
    const double start_s = sl_clock_s();
    sl_transport_close(t);
    CHECK(sl_clock_s() - start_s < 5.0);
}

/* The time that a wait takes is the very thing under test here, hence the sleep. */
static void waiting_leaves_the_core_to_others(sl_transport *t) {
    const double late_s = 0.3;
    int v = 7;
    sl_ticket ticket;
    CHECK_OK(t->ops->agree(t, SL_OK));
    if (t->rank == 0) {
        sl_clock_sleep(late_s);
        for (int r = 1; r < t->n_ranks; r++) {
            CHECK_OK(t->ops->send(t, r, SL_CHANNEL_RESULT, &v, sizeof v, &ticket));
            CHECK_OK(t->ops->wait(t, ticket));
        }
    } else {
        const clock_t start = clock();
        CHECK_OK(t->ops->recv(t, 0, SL_CHANNEL_RESULT, &v, sizeof v, &ticket));
        CHECK_OK(t->ops->wait(t, ticket));
        const double used_s = (double)(clock() - start) / CLOCKS_PER_SEC;
        CHECK_THAT(used_s < late_s / 2, "%.3f s of processor time in a wait of %.1f s", used_s,
                   late_s);
    }
}

/* Messages that are sent together come together, each late by the delay. */
static void delayed_messages_are_late_at_once(void) {
    enum { N = 20 };
    const double delay_s = 0.1;
    sl_transport *mpi, *t;
    unsigned char out[N], in[N];
    sl_ticket sent[N], got[N];
    CHECK_OK(sl_transport_open_mpi(&mpi));
    CHECK_FAILS(sl_transport_open_delayed(mpi, -1, &t), SL_ERR_ARG, "-1");
    CHECK_OK(sl_transport_open_delayed(mpi, delay_s, &t));
    CHECK_OK(t->ops->agree(t, SL_OK));
    const double start_s = sl_clock_s();
    for (int i = 0; i < N; i++) {
        out[i] = (unsigned char)(i + t->rank);
        CHECK_OK(t->ops->recv(t, previous_of(t), SL_CHANNEL_HIDDEN, &in[i], 1, &got[i]));
        CHECK_OK(t->ops->send(t, next_of(t), SL_CHANNEL_HIDDEN, &out[i], 1, &sent[i]));
    }
    int done = 1;
    CHECK_OK(t->ops->test(t, got[0], &done));
    CHECK_THAT(!done || sl_clock_s() - start_s >= delay_s, "came without delay");
    for (int i = 0; i < N; i++) {
        if (i > 0 || !done) CHECK_OK(t->ops->wait(t, got[i]));
        CHECK_OK(t->ops->wait(t, sent[i]));
        CHECK(in[i] == (unsigned char)(i + previous_of(t)));
    }
    const double took_s = sl_clock_s() - start_s;
    CHECK_THAT(took_s >= 0.9 * delay_s && took_s < N / 2 * delay_s, "took %.3f s", took_s);
    CHECK_FAILS(t->ops->wait(t, got[0]), SL_ERR_ARG, "ticket");
    CHECK_OK(t->ops->agree(t, SL_OK));
    sl_transport_close(t);
}

static void ranks_of_one_host_are_numbered(const sl_mpi_info *info) {
    /* The test runs on one host. */
    CHECK(info->local_rank == info->rank);
    CHECK(info->n_local_ranks == info->n_ranks);
    CHECK(info->host[0] != '\0');
}

int main(int argc, char **argv) {
    sl_mpi_info info = {0};
    CHECK(sl_mpi_is_launched());
    CHECK_OK(sl_mpi_open(&argc, &argv, &info));
    mpi_test_rank = info.rank;
    CHECK_THAT(info.n_ranks >= 2, "needs 2 ranks, started with %d", info.n_ranks);
    CHECK_FAILS(sl_mpi_open(&argc, &argv, &info), SL_ERR_ARG, "already");
    ranks_of_one_host_are_numbered(&info);

    sl_transport *t, *split, *late;
    CHECK_OK(sl_transport_open_mpi(&t));
    CHECK_OK(sl_transport_open_mpi_pieces(SMALL_PIECE, &split));
    CHECK_OK(sl_transport_open_mpi(&late));
    CHECK_OK(sl_transport_open_delayed(late, 0.002, &late));
    CHECK(t->rank == info.rank && t->n_ranks == info.n_ranks);
    ten_thousand_messages_reuse_their_places(t);
    a_done_ticket_is_not_taken_for_a_later_one(t);
    sl_transport *const all[] = {t, split, late};
    for (int i = 0; i < 3; i++) {
        sl_transport *each = all[i];
        ring_keeps_order_on_every_channel(each, 1000);
        recv_message_without_wait_gives_nothing_when_there_is_nothing(each);
        unknown_lengths_arrive_whole_and_in_order(each);
        empty_messages_are_messages(each);
        all_ranks_reach_all(each);
        min_broadcast_and_gather_collect(each);
    }
    delayed_messages_are_late_at_once();
    agree_gives_all_ranks_the_failing_ranks_words(t);
    agree_names_the_lowest_of_several(t);
    agree_cuts_a_message_that_is_too_long(t);
    wrong_arguments_are_named(t);
    waiting_leaves_the_core_to_others(t);
    a_wrong_length_is_an_error(10, 20, MAX_BYTES);
    a_wrong_length_is_an_error(20, 10, MAX_BYTES);
    a_wrong_length_is_an_error(1500, 2500, SMALL_PIECE);
    a_wrong_length_is_an_error(2500, 1500, SMALL_PIECE);
    close_does_not_wait_for_messages_that_never_come();
    CHECK_OK(t->ops->agree(t, SL_OK));

    sl_transport_close(late);
    sl_transport_close(split);
    sl_transport_close(t);
    sl_mpi_info_free(&info);
    sl_mpi_close();
    sl_mpi_close(); /* nothing more to do */
    return 0;
}
