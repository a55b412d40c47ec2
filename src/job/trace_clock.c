#include "job/trace_clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

sl_status sl_trace_clock_read(sl_transport *transport, sl_trace_clock *all) {
    sl_trace_clock mine = {{0}, {0}};
    (void)gethostname(mine.host, sizeof mine.host - 1);
    for (int i = 0; i < SL_TRACE_CLOCK_ROUNDS; i++) {
        SL_TRY(transport->ops->agree(transport, SL_OK));
        mine.at_s[i] = sl_clock_s();
    }
    return transport->ops->gather(transport, &mine, sizeof mine, all);
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double sl_trace_clock_ahead_s(const sl_trace_clock *first, const sl_trace_clock *clock) {
    double apart_s[SL_TRACE_CLOCK_ROUNDS];
    for (int i = 0; i < SL_TRACE_CLOCK_ROUNDS; i++) apart_s[i] = clock->at_s[i] - first->at_s[i];
    qsort(apart_s, SL_TRACE_CLOCK_ROUNDS, sizeof *apart_s, compare);
    const double median_s = apart_s[SL_TRACE_CLOCK_ROUNDS / 2];
    /* Two machines may have one name, but hardly have been started in the same tenth of a second.
     */
    const int is_same = strcmp(first->host, clock->host) == 0 && fabs(median_s) < 0.1;
    return is_same ? 0 : median_s;
}
