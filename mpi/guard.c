#include "guard.h"

#include <errno.h>
#include <mpi.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "guard_wire.h"
#include "mpi_check.h"
#include "stall.h"

enum { TICK_MS = 100 };

static const double MEET_S = 5.0;    /* for the connections to be made */
static const double BEAT_S = 0.5;    /* between signs of life, at most */
static const double HELD_UP_S = 1.0; /* a turn that took longer: it was us who were silent */
static const double LAST_WORD_S = 0.3, SECOND_LOOK_S = 1.0;

/* What the ranks end for. */
typedef struct {
    int is_set;
    int rank;
    double since_s;
    char text[SL_GUARD_TEXT_BYTES];
} verdict;

struct sl_guard {
    sl_guard_options opt;
    int rank, n_ranks;
    int speaks_when_dead, speaks_when_silent; /* of the first rank's end, in its place */
    int n_links;
    sl_guard_link *link; /* first rank: [n_ranks], else [1], to the first rank */
    double *heard_s;     /* [n_links] */
    unsigned char *said_bye;
    struct pollfd *wait; /* [n_links + 1] */
    int wake;            /* eventfd */
    pthread_t thread;
    int has_thread;
    atomic_int signal, closing, is_ending;
    atomic_int signalled_rank;
    sl_stall *stall;      /* first rank, if wanted */
    pthread_mutex_t lock; /* of told */
    char told[SL_GUARD_TEXT_BYTES];
    verdict why; /* the thread's own */
    double beat_s;
};

static int is_first(const sl_guard *g) {
    return g->rank == 0;
}
static int rank_of_link(const sl_guard *g, int i) {
    return is_first(g) ? i : 0;
}

static void write_all(sl_guard *g, const sl_guard_frame *f, int but) {
    for (int i = 0; i < g->n_links; i++) {
        if (i != but) sl_guard_write(&g->link[i], f);
    }
}

/* ---- the end ---- */

/* Sends a message after which nothing comes, and reads until the others have hung up: a connection
 * that is closed with messages unread would take the last word to the peer with it. */
static void give_last_word(sl_guard *g, sl_guard_kind kind) {
    const sl_guard_frame end = sl_guard_frame_of(kind, g->rank, "");
    const double until_s = sl_clock_s() + LAST_WORD_S;
    int n_open = 0;
    for (int i = 0; i < g->n_links; i++) {
        sl_guard_write(&g->link[i], &end);
        if (g->link[i].fd >= 0) shutdown(g->link[i].fd, SHUT_WR);
        n_open += g->link[i].fd >= 0;
    }
    while (n_open > 0 && sl_clock_s() < until_s) {
        n_open = 0;
        for (int i = 0; i < g->n_links; i++) {
            sl_guard_frame f;
            int got;
            while ((got = sl_guard_read(&g->link[i], &f)) > 0) {
            }
            if (got < 0) sl_guard_hang_up(&g->link[i]);
            n_open += got == 0;
        }
        if (n_open > 0) sl_clock_sleep(0.005);
    }
}

static void end_ranks(sl_guard *g, int speaks) {
    atomic_store(&g->is_ending, 1);
    if (speaks) g->opt.say(g->opt.context, g->why.rank, g->why.text);
    if (is_first(g)) give_last_word(g, SL_GUARD_END);
    g->opt.end(g->opt.context);
}

/* Keeps the first reason: what follows is its echo. */
static int note(sl_guard *g, int rank, const char *text) {
    if (g->why.is_set) return 0;
    g->why = (verdict){.is_set = 1, .rank = rank, .since_s = sl_clock_s()};
    snprintf(g->why.text, sizeof g->why.text, "%s", text);
    return 1;
}

static int lose(sl_guard *g, int i, int is_silent, const char *reason) {
    if (!is_silent) sl_guard_hang_up(&g->link[i]); /* a silent one may yet read the last word */
    note(g, rank_of_link(g, i), reason);
    end_ranks(g, is_first(g) || (is_silent ? g->speaks_when_silent : g->speaks_when_dead));
    return 1;
}

/* ---- turns of the thread; each returns 1 when the guard is over ---- */

/* A failure or a signal, of this rank or told by another. */
static void take_trouble(sl_guard *g, const sl_guard_frame *f, int from) {
    if (!note(g, f->rank, f->text)) return;
    if (is_first(g)) {
        write_all(g, f, from);
    } else if (from < 0) {
        write_all(g, f, -1);
    }
    if (f->kind != SL_GUARD_SIGNALLED) return;
    atomic_store(&g->signalled_rank, f->rank);
    if (is_first(g)) g->opt.stop(g->opt.context, f->rank, f->text);
}

static void take_own_news(sl_guard *g) {
    char told[SL_GUARD_TEXT_BYTES], text[64];
    uint64_t count;
    if (read(g->wake, &count, sizeof count) < 0 && errno != EAGAIN) return;
    pthread_mutex_lock(&g->lock);
    memcpy(told, g->told, sizeof told);
    g->told[0] = '\0';
    pthread_mutex_unlock(&g->lock);
    if (told[0]) {
        const sl_guard_frame f = sl_guard_frame_of(SL_GUARD_FAILED, g->rank, told);
        take_trouble(g, &f, -1);
    }
    const int number = atomic_exchange(&g->signal, 0);
    if (number) {
        snprintf(text, sizeof text, "stopped by signal %d (%s)", number, strsignal(number));
        const sl_guard_frame f = sl_guard_frame_of(SL_GUARD_SIGNALLED, g->rank, text);
        take_trouble(g, &f, -1);
    }
}

static int read_link(sl_guard *g, int i, double now_s) {
    sl_guard_frame f;
    int got;
    while ((got = sl_guard_read(&g->link[i], &f)) > 0) {
        g->heard_s[i] = now_s;
        if (f.kind == SL_GUARD_END) {
            note(g, rank_of_link(g, i), f.text);
            end_ranks(g, 0);
            return 1;
        }
        if (f.kind == SL_GUARD_BYE) g->said_bye[i] = 1;
        if (f.kind == SL_GUARD_BEAT && g->stall)
            sl_stall_note(g->stall, i, f.n_done, f.text, now_s);
        if (f.kind == SL_GUARD_FAILED || f.kind == SL_GUARD_SIGNALLED) take_trouble(g, &f, i);
    }
    if (got == 0) return 0;
    if (!g->said_bye[i]) return lose(g, i, 0, "died: the connection to it has closed");
    sl_guard_hang_up(&g->link[i]);
    return 0;
}

static int read_links(sl_guard *g, double now_s) {
    for (int i = 0; i < g->n_links; i++) {
        if (g->link[i].fd >= 0 && read_link(g, i, now_s)) return 1;
    }
    return 0;
}

static int check_silence(sl_guard *g, double now_s) {
    char text[160];
    for (int i = 0; i < g->n_links; i++) {
        if (g->link[i].fd < 0 || g->said_bye[i] || now_s - g->heard_s[i] <= g->opt.timeout_s)
            continue;
        snprintf(text, sizeof text,
                 "no sign of life for %.3g s (--timeout): the host or the network to it is down",
                 g->opt.timeout_s);
        return lose(g, i, 1, text);
    }
    return 0;
}

/* First rank. */
static int check_stall(sl_guard *g, double now_s, int was_held_up) {
    sl_pulse_view mine;
    char text[SL_GUARD_TEXT_BYTES];
    int rank;
    if (!g->stall || g->why.is_set) return 0;
    sl_pulse_look(g->opt.pulse, &mine);
    sl_stall_describe(&mine, text, sizeof text);
    sl_stall_note(g->stall, 0, mine.n_done, text, now_s);
    if (!mine.is_busy || was_held_up) sl_stall_forgive(g->stall, now_s);
    if (!sl_stall_check(g->stall, now_s, &rank, text, sizeof text)) return 0;
    note(g, rank, text);
    end_ranks(g, 1);
    return 1;
}

/* Signs of life come often enough for the bounds of silence and of standing still. */
static double beat_every_s(const sl_guard *g) {
    double s = BEAT_S;
    if (g->opt.timeout_s / 5 < s) s = g->opt.timeout_s / 5;
    if (g->opt.stall_s > 0 && g->opt.stall_s / 5 < s) s = g->opt.stall_s / 5;
    return s;
}

static void beat(sl_guard *g, double now_s) {
    sl_pulse_view mine;
    if (now_s - g->beat_s < beat_every_s(g)) return;
    sl_guard_frame f = sl_guard_frame_of(SL_GUARD_BEAT, g->rank, "");
    if (g->opt.pulse) {
        sl_pulse_look(g->opt.pulse, &mine);
        f.n_done = mine.n_done;
        sl_stall_describe(&mine, f.text, sizeof f.text);
    }
    write_all(g, &f, -1);
    g->beat_s = now_s;
}

static void wait_for_news(sl_guard *g) {
    int tick_ms = TICK_MS;
    if (g->opt.timeout_s * 100 < tick_ms) tick_ms = (int)(g->opt.timeout_s * 100) + 1;
    g->wait[0] = (struct pollfd){.fd = g->wake, .events = POLLIN};
    for (int i = 0; i < g->n_links; i++)
        g->wait[i + 1] = (struct pollfd){.fd = g->link[i].fd, .events = POLLIN};
    poll(g->wait, (nfds_t)g->n_links + 1, tick_ms);
}

static void *watch(void *argument) {
    sl_guard *g = argument;
    double before_s = sl_clock_s();
    while (!atomic_load(&g->closing)) {
        wait_for_news(g);
        const double now_s = sl_clock_s();
        const int was_held_up = now_s - before_s > HELD_UP_S;
        for (int i = 0; was_held_up && i < g->n_links; i++) g->heard_s[i] = now_s;
        before_s = now_s;
        if (read_links(g, now_s)) return NULL; /* a dead rank comes before the signals it causes */
        take_own_news(g);
        if (check_silence(g, now_s)) return NULL;
        if (is_first(g) && g->why.is_set && now_s - g->why.since_s > g->opt.patience_s) {
            end_ranks(g, 1);
            return NULL;
        }
        if (check_stall(g, now_s, was_held_up)) return NULL;
        beat(g, now_s);
    }
    return NULL;
}

/* ---- beginning and end ---- */

static sl_status take_memory(sl_guard *g) {
    const size_t n = (size_t)g->n_links;
    g->link = calloc(n, sizeof *g->link);
    g->heard_s = calloc(n, sizeof *g->heard_s);
    g->said_bye = calloc(n, sizeof *g->said_bye);
    g->wait = calloc(n + 1, sizeof *g->wait);
    if (!g->link || !g->heard_s || !g->said_bye || !g->wait)
        return SL_FAIL(SL_ERR_NOMEM, "watch %zu ranks: out of host memory", n);
    for (size_t i = 0; i < n; i++) g->link[i].fd = -1;
    g->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (g->wake < 0)
        return SL_FAIL(SL_ERR_COMM, "watch the other ranks: eventfd: %s", strerror(errno));
    return SL_OK;
}

static int all_share_a_host(const sl_mpi_info *info) {
    for (int r = 0; r < info->n_ranks; r++) {
        if (info->place[r].host != info->place[0].host) return 0;
    }
    return 1;
}

/* Who says that the first rank is lost: the next one when it died; when it is silent, the lowest on
 * another host. */
static void choose_speaker(sl_guard *g, const sl_mpi_info *info) {
    int other = 1;
    while (other < g->n_ranks && info->place[other].host == info->place[0].host) other++;
    g->speaks_when_dead = g->rank == 1;
    g->speaks_when_silent = g->rank == (other < g->n_ranks ? other : 1);
}

/* Collective, whatever happened on this rank before. */
static sl_status meet(sl_guard *g, const sl_mpi_info *info, sl_status st, int *n_unlinked_out) {
    if (g->n_ranks == 1) { /* nobody to meet, and maybe no MPI */
        *n_unlinked_out = 0;
        return st;
    }
    sl_guard_address address = {.n_places = -1};
    int listen_fd = -1, n_linked = 0;
    if (is_first(g) && st == SL_OK)
        st = sl_guard_listen(all_share_a_host(info), &listen_fd, &address);
    if (st != SL_OK) address.n_places = -1;
    const sl_status sent =
        SL_MPI(MPI_Bcast(&address, (int)sizeof address, MPI_BYTE, 0, MPI_COMM_WORLD),
               "tell the ranks where the first one is");
    if (st == SL_OK && sent == SL_OK && address.n_places >= 0) {
        if (is_first(g))
            n_linked = sl_guard_accept(listen_fd, &address, g->n_ranks, MEET_S, g->link);
        else
            n_linked = sl_guard_connect(&address, info->place[g->rank].host == info->place[0].host,
                                        g->rank, MEET_S, g->link) == SL_OK;
    }
    if (listen_fd >= 0) close(listen_fd);
    /* The first rank knows best; a rank that thinks otherwise has been turned away. */
    int n_unlinked = g->n_ranks - 1 - n_linked;
    SL_TRY(SL_MPI(MPI_Bcast(&n_unlinked, 1, MPI_INT, 0, MPI_COMM_WORLD),
                  "count the ranks that are watched"));
    *n_unlinked_out = n_unlinked;
    return st == SL_OK ? sent : st;
}

static sl_status start_thread(sl_guard *g) {
    sigset_t all, before;
    for (int i = 0; i < g->n_links; i++) g->heard_s[i] = sl_clock_s();
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int err = pthread_create(&g->thread, NULL, watch, g);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0)
        return SL_FAIL(SL_ERR_NOMEM, "watch the other ranks: cannot start a thread: %s",
                       strerror(err));
    g->has_thread = 1;
    return SL_OK;
}

static void free_guard(sl_guard *g) {
    for (int i = 0; g->link && i < g->n_links; i++) sl_guard_hang_up(&g->link[i]);
    if (g->wake >= 0) close(g->wake);
    pthread_mutex_destroy(&g->lock);
    sl_stall_close(g->stall);
    free(g->wait);
    free(g->said_bye);
    free(g->heard_s);
    free(g->link);
    free(g);
}

sl_status sl_guard_open(const sl_mpi_info *info, const sl_guard_options *options,
                        int *n_unlinked_out, sl_guard **out) {
    sl_guard *g = calloc(1, sizeof *g);
    if (!g) return SL_FAIL(SL_ERR_NOMEM, "watch the other ranks: out of host memory");
    g->opt = *options;
    g->rank = info->rank;
    g->n_ranks = info->n_ranks;
    g->n_links = info->rank == 0 ? info->n_ranks : 1;
    g->wake = -1;
    atomic_store(&g->signalled_rank, -1);
    pthread_mutex_init(&g->lock, NULL); /* cannot fail on Linux */
    choose_speaker(g, info);
    sl_status st = meet(g, info, take_memory(g), n_unlinked_out);
    if (st == SL_OK && is_first(g) && g->opt.stall_s > 0 && g->opt.pulse && *n_unlinked_out == 0)
        st = sl_stall_open(g->n_ranks, g->opt.stall_s, sl_clock_s(), &g->stall);
    if (st == SL_OK) st = start_thread(g);
    if (st != SL_OK) {
        free_guard(g);
        return st;
    }
    *out = g;
    return SL_OK;
}

static void wake(sl_guard *g) {
    const uint64_t one = 1;
    ssize_t n = write(g->wake, &one, sizeof one); /* full: the thread is about to look anyway */
    (void)n;
}

/* Whether a rank that is lost may be what is behind an outcome. */
static int may_be_echo(sl_status outcome) {
    return outcome == SL_ERR_COMM || outcome == SL_ERR_STOPPED;
}

void sl_guard_close(sl_guard *g, sl_status outcome) {
    if (!g) return;
    const double until_s = sl_clock_s() + SECOND_LOOK_S;
    if (outcome == SL_ERR_COMM)
        while (!atomic_load(&g->is_ending) && sl_clock_s() < until_s) sl_clock_sleep(0.01);
    atomic_store(&g->closing, 1);
    wake(g);
    pthread_join(g->thread, NULL); /* never returns where the guard ends this process */
    if (may_be_echo(outcome) && !atomic_load(&g->is_ending)) read_links(g, sl_clock_s());
    if (!atomic_load(&g->is_ending)) give_last_word(g, SL_GUARD_BYE);
    free_guard(g);
}

void sl_guard_tell(sl_guard *g, const char *message) {
    if (!g) return;
    pthread_mutex_lock(&g->lock);
    snprintf(g->told, sizeof g->told, "%s", message);
    pthread_mutex_unlock(&g->lock);
    wake(g);
}

void sl_guard_signal(sl_guard *g, int number) {
    atomic_store(&g->signal, number);
    wake(g);
}

int sl_guard_signalled_rank(sl_guard *g) {
    return g ? atomic_load(&g->signalled_rank) : -1;
}
