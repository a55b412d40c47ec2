#include "job/history.h"

const char *sl_history_name(sl_history_series series) {
    static const char *const names[SL_HISTORY_COUNT] = {
        "prefill_tokens", "decode_tokens", "admitted_tokens", "shared_tokens", "requests"};
    return (unsigned)series < SL_HISTORY_COUNT ? names[series] : "?";
}

void sl_history_add(sl_history *h, double start_s, double end_s,
                    const double amount[SL_HISTORY_COUNT]) {
    if (h->axis.bin_s <= 0) sl_bins_begin(&h->axis, start_s);
    const int n_times = sl_bins_reach(&h->axis, end_s);
    for (int s = 0; s < SL_HISTORY_COUNT; s++) {
        if (n_times) sl_bins_fold(h->sum[s], n_times);
        if (amount[s] != 0) sl_bins_spread(&h->axis, start_s, end_s, amount[s], h->sum[s]);
    }
}

double sl_history_rate(const sl_history *h, sl_history_series series, int b) {
    const double width_s = sl_bins_width_s(&h->axis, b);
    return width_s > 0 ? h->sum[series][b] / width_s : 0;
}
