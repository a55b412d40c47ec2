/* The MPI session and transport on any number of ranks from 2. */
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "engine/delayed.h"
#include "mpi/transport_contract.h"
#include "transport_mpi.h"

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
    keeps_the_contract(t);
    keeps_the_contract(split);
    keeps_the_contract(late);
    delayed_messages_are_late_at_once();
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
