#include "mpi_check.h"

#include <stdio.h>

#include "base/clock.h"

/* Spinning this long costs less than the wake-up after a sleep (timer slack is 50 us on Linux);
 * the longest sleep bounds what a wait adds to a block that takes tens of milliseconds. */
static const double SPIN_S = 20e-6, FIRST_SLEEP_S = 5e-6, LONGEST_SLEEP_S = 200e-6;

sl_status sl_mpi_status_at(int err, const char *what, const char *file, int line) {
    if (err == MPI_SUCCESS) return SL_OK;
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length = 0;
    if (MPI_Error_string(err, text, &length) != MPI_SUCCESS)
        snprintf(text, sizeof text, "MPI error %d", err);
    return sl_fail_at(SL_ERR_COMM, file, line, "%s: %s", what, text);
}

void sl_backoff_pause(sl_backoff *backoff) {
    const double now_s = sl_clock_s();
    if (backoff->started_s == 0.0) {
        backoff->started_s = now_s;
        backoff->sleep_s = FIRST_SLEEP_S;
    }
    if (now_s - backoff->started_s < SPIN_S) return;
    sl_clock_sleep(backoff->sleep_s);
    backoff->sleep_s *= 1.5;
    if (backoff->sleep_s > LONGEST_SLEEP_S) backoff->sleep_s = LONGEST_SLEEP_S;
}

sl_status sl_mpi_wait(MPI_Request *request, const char *what, MPI_Status *status_out) {
    sl_backoff backoff = {0};
    MPI_Status status;
    for (int done = 0;;) {
        SL_TRY(SL_MPI(MPI_Test(request, &done, &status), what));
        if (done) break;
        sl_backoff_pause(&backoff);
    }
    if (status_out) *status_out = status;
    return SL_OK;
}
