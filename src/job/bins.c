#include "job/bins.h"

#include <math.h>

static const double FIRST_BIN_S = 1e-3;
enum { MOST_FOLDS = 60 }; /* a clock that jumps must not keep us here */

void sl_bins_begin(sl_bin_axis *axis, double start_s) {
    *axis = (sl_bin_axis){start_s, start_s, FIRST_BIN_S};
}

int sl_bins_reach(sl_bin_axis *axis, double end_s) {
    int n_times = 0;
    if (!(end_s > axis->end_s)) return 0;
    while (end_s - axis->start_s > axis->bin_s * SL_BINS && n_times < MOST_FOLDS) {
        axis->bin_s *= 2;
        n_times++;
    }
    axis->end_s = end_s;
    return n_times;
}

void sl_bins_fold(double *sum, int n_times) {
    for (int t = 0; t < n_times; t++) {
        for (int b = 0; b < SL_BINS / 2; b++) sum[b] = sum[2 * b] + sum[2 * b + 1];
        for (int b = SL_BINS / 2; b < SL_BINS; b++) sum[b] = 0;
    }
}

static int bin_at(const sl_bin_axis *axis, double at_s) {
    const double b = floor((at_s - axis->start_s) / axis->bin_s);
    if (!(b > 0)) return 0;
    return b < SL_BINS ? (int)b : SL_BINS - 1;
}

void sl_bins_spread(const sl_bin_axis *axis, double start_s, double end_s, double amount,
                    double *sum) {
    const int first = bin_at(axis, start_s), last = bin_at(axis, end_s);
    if (first == last || !(end_s > start_s)) {
        sum[last] += amount;
        return;
    }
    for (int b = first; b <= last; b++) {
        const double from_s = b == first ? start_s : axis->start_s + b * axis->bin_s;
        const double to_s = b == last ? end_s : axis->start_s + (b + 1) * axis->bin_s;
        sum[b] += amount * fmax(0, to_s - from_s) / (end_s - start_s);
    }
}

int sl_bins_used(const sl_bin_axis *axis) {
    if (axis->bin_s <= 0 || axis->end_s <= axis->start_s) return 0;
    const double n = ceil((axis->end_s - axis->start_s) / axis->bin_s - 1e-9);
    return n < 1 ? 1 : n < SL_BINS ? (int)n : SL_BINS;
}

double sl_bins_width_s(const sl_bin_axis *axis, int b) {
    const double left_s = axis->end_s - axis->start_s - b * axis->bin_s;
    return axis->bin_s <= 0 ? 0 : fmax(0, fmin(axis->bin_s, left_s));
}
