#include "engine/seats.h"

/* Of `n` things in a row, how many of the first `upto` belong to a share. */
static long part(double share, long upto) {
    return (long)(share * (double)upto + 0.5 + 1e-9);
}

void sl_seats_assign(const sl_shares *cache, double host_attends, int micro_batch,
                     int n_micro_batches, sl_seat *out) {
    double sum = 0.0;
    for (int t = 0; t < SL_TIER_COUNT; t++) sum += cache->frac[t];
    const double gpu = sum > 0.0 ? cache->frac[SL_TIER_GPU] : 1.0;
    const double upper = sum > 0.0 ? gpu + cache->frac[SL_TIER_CPU] : 1.0;
    long n_lower[SL_TIER_COUNT] = {0}; /* sequences outside the gpu so far, by home */
    for (int b = 0; b < n_micro_batches; b++) {
        const long from = (long)b * micro_batch, to = from + micro_batch;
        const long end_gpu = part(gpu, to) - part(gpu, from);
        const long end_cpu = part(upper, to) - part(upper, from);
        for (int i = 0; i < micro_batch; i++) {
            sl_seat *seat = &out[from + i];
            seat->home = (unsigned char)(i < end_gpu   ? SL_TIER_GPU
                                         : i < end_cpu ? SL_TIER_CPU
                                                       : SL_TIER_DISK);
            seat->on_host = 0;
            if (seat->home == SL_TIER_GPU) continue;
            const long n = n_lower[seat->home]++;
            seat->on_host = part(host_attends, n + 1) > part(host_attends, n);
        }
    }
}

int sl_seats_row_order(const sl_seat *seat, int n_rows) {
    if (seat->home == SL_TIER_GPU) return 0;
    return (seat->home == SL_TIER_CPU ? 1 : 2) + (seat->on_host && n_rows == 1 ? 2 : 0);
}
