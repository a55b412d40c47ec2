#include "watch.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guard.h"
#include "signals.h"

enum { EXIT_FORCED = 1 };

struct sl_watch {
    const sl_launch *launch;
    sl_guard *guard;
};

static atomic_int signalled_rank; /* outlives the watch: main.c names it */

int sl_watch_signalled_rank(void) {
    return atomic_load(&signalled_rank);
}

void sl_watch_name_rank(const sl_launch *launch, int culprit, const char *message, char *out,
                        size_t out_bytes) {
    const sl_mpi_info *info = &launch->info;
    int named = 0, length = 0, rank = culprit;
    if (sscanf(message, "rank %d: %n", &named, &length) == 1 && length > 0 && named >= 0 &&
        named < info->n_ranks) {
        if (culprit < 0) rank = named;
        message += length;
    }
    if (info->n_ranks > 1 && info->place && rank >= 0)
        snprintf(out, out_bytes, "rank %d on %s: %s", rank, info->place[rank].name, message);
    else
        snprintf(out, out_bytes, "%s", message);
}

/* ---- called by the guard's thread ---- */

static void say(void *context, int rank, const char *reason) {
    const sl_watch *watch = context;
    char text[1024];
    /* A failure that was agreed on says itself whose it is. */
    const int names_itself = strncmp(reason, "rank ", 5) == 0;
    sl_watch_name_rank(watch->launch, names_itself ? -1 : rank, reason, text, sizeof text);
    /* The line that shows progress is somebody else's, who may be in the middle of it. */
    fprintf(stderr, "%ssluice: %s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "", text);
}

/* Without handlers and destructors: the main thread may be anywhere, in MPI or in a kernel. */
static void end(void *context) {
    (void)context;
    _exit(EXIT_FORCED);
}

static void stop(void *context, int rank, const char *reason) {
    (void)context, (void)reason;
    atomic_store(&signalled_rank, rank);
    if (atomic_load(sl_signals_stop_anywhere()) == 0) sl_signals_raise(SIGTERM);
}

/* ---- */

sl_status sl_watch_open(const sl_launch *launch, const sl_watch_options *o, sl_watch **out) {
    *out = NULL;
    if (launch->simulated || (!launch->is_mpi && o->stall_s <= 0)) return SL_OK;
    sl_watch *watch = calloc(1, sizeof *watch);
    const sl_guard_options options = {.timeout_s = o->timeout_s,
                                      .patience_s = o->patience_s,
                                      .stall_s = o->stall_s,
                                      .pulse = o->pulse,
                                      .say = say,
                                      .end = end,
                                      .stop = stop,
                                      .context = watch};
    if (!watch) return SL_FAIL(SL_ERR_NOMEM, "watch the other ranks: out of host memory");
    int n_unlinked = 0;
    watch->launch = launch;
    if (launch->is_mpi) sl_signals_catch(0, 0);
    const sl_status st = sl_guard_open(&launch->info, &options, &n_unlinked, &watch->guard);
    if (st != SL_OK) {
        free(watch);
        return st;
    }
    if (launch->is_mpi) sl_signals_set_guard(watch->guard);
    if (n_unlinked > 0 && sl_launch_is_first(launch) && !o->quiet)
        fprintf(
            stderr,
            "sluice: note: %d of %d ranks cannot reach the first one over TCP; if their hosts "
            "vanish, it is only noticed by MPI, and nobody notices when the work stands still\n",
            n_unlinked, launch->info.n_ranks);
    *out = watch;
    return SL_OK;
}

/* A rank without MPI has nobody to tell, and ends its own way. */
void sl_watch_tell(void *context, const char *message) {
    sl_watch *watch = context;
    if (watch && watch->launch->is_mpi) sl_guard_tell(watch->guard, message);
}

void sl_watch_close(sl_watch *watch, sl_status outcome) {
    if (!watch) return;
    sl_guard *guard = watch->guard;
    if (watch->launch->is_mpi) sl_signals_set_guard(NULL);
    sl_guard_close(guard, outcome);
    free(watch);
}
