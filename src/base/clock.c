#include "base/clock.h"

#include <stddef.h>
#include <sys/prctl.h>
#include <time.h>

static _Thread_local const sl_clock_source *clock_source;

void sl_clock_set_source(const sl_clock_source *source) {
    clock_source = source;
}

double sl_clock_s(void) {
    if (clock_source) return clock_source->now_s(clock_source->context);
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void sl_clock_sleep_finely(void) {
    prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL); /* cannot fail: nanoseconds, this thread */
}

void sl_clock_sleep(double seconds) {
    if (clock_source) {
        clock_source->sleep(clock_source->context, seconds);
        return;
    }
    const time_t whole = (time_t)seconds;
    const struct timespec t = {whole, (long)((seconds - (double)whole) * 1e9)};
    nanosleep(&t, NULL);
}
