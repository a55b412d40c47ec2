/* The part of a report that lays what was expected beside what happened. */
#include <inttypes.h>
#include <math.h>

#include "base/bytes.h"
#include "job/report.h"

double sl_report_most_busy_s(const sl_report *report, int queue) {
    double most = 0;
    for (int r = 0; r < report->n_ranks; r++) most = fmax(most, report->ranks[r].busy_s[queue]);
    return most;
}

size_t sl_report_peak_bytes(const sl_engine_stats *rank, int tier) {
    switch (tier) {
    case SL_TIER_GPU:
        return rank->gpu_peak_bytes;
    case SL_TIER_CPU:
        return rank->cpu_peak_bytes;
    default:
        return rank->disk_peak_bytes;
    }
}

size_t sl_report_budget_bytes(const sl_engine_stats *rank, int tier) {
    switch (tier) {
    case SL_TIER_GPU:
        return rank->gpu_budget_bytes;
    case SL_TIER_CPU:
        return rank->cpu_budget_bytes;
    default:
        return rank->disk_budget_bytes;
    }
}

const char *sl_report_tier_name(int tier) {
    static const char *const names[SL_TIER_COUNT] = {"gpu", "cpu", "disk"};
    return (unsigned)tier < SL_TIER_COUNT ? names[tier] : "?";
}

static size_t most_peak(const sl_report *report, int tier) {
    size_t most = 0;
    for (int r = 0; r < report->n_ranks; r++) {
        const size_t one = sl_report_peak_bytes(&report->ranks[r], tier);
        if (one > most) most = one;
    }
    return most;
}

static void print_seconds(const char *what, double planned_s, double measured_s, FILE *stream) {
    char change[32] = "";
    if (planned_s > 0 && measured_s > 0)
        snprintf(change, sizeof change, "%+.1f %%", 100 * (measured_s / planned_s - 1));
    fprintf(stream, "        %-14s %10.2f s %10.2f s  %10s\n", what, planned_s, measured_s, change);
}

void sl_report_plan_print(const sl_report *report, FILE *stream) {
    const sl_report_plan *p = report->plan;
    static const char *const tiers[SL_TIER_COUNT] = {"gpu peak", "cpu peak", "disk peak"};
    const double tps = sl_report_total_tps(report);
    fprintf(stream,
            "plan for %s, %d requests of %.0f + %.0f tokens: %.1f tokens/s expected, %.1f reached",
            p->machine, p->n_prompts, p->prompt_len, p->gen_len, p->tokens_per_s, tps);
    if (p->tokens_per_s > 0) fprintf(stream, " (%+.1f %%)", 100 * (tps / p->tokens_per_s - 1));
    fprintf(stream, "\n                         expected     reached\n");
    print_seconds("prefill", p->prefill_s, report->pace.prefill_s, stream);
    print_seconds("decode", p->decode_s, report->pace.decode_s, stream);
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        const double busy_s = sl_report_most_busy_s(report, q);
        if (p->busy_s[q] > 0 || busy_s > 0)
            print_seconds(sl_queue_name((sl_queue)q), p->busy_s[q], busy_s, stream);
    }
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        char planned[32], reached[32];
        const size_t peak = most_peak(report, t);
        if (p->peak_bytes[t] == 0 && peak == 0) continue;
        fprintf(stream, "        %-14s %12s %12s\n", tiers[t],
                sl_bytes_format(p->peak_bytes[t], planned, sizeof planned),
                sl_bytes_format(peak, reached, sizeof reached));
    }
}

static void put_name(sl_json_text *out, const char *name, int is_first) {
    if (!is_first) sl_json_raw(out, ", ");
    sl_json_cstring(out, name);
    sl_json_raw(out, ": ");
}

static void put_real(sl_json_text *out, const char *name, double value) {
    put_name(out, name, 0);
    sl_json_double(out, value);
}

void sl_report_plan_json(const sl_report *report, sl_json_text *out) {
    const sl_report_plan *p = report->plan;
    sl_json_raw(out, "{");
    put_name(out, "machine", 1);
    sl_json_cstring(out, p->machine);
    put_name(out, "n_prompts", 0);
    sl_json_int(out, p->n_prompts);
    put_real(out, "prompt_len", p->prompt_len);
    put_real(out, "gen_len", p->gen_len);
    put_real(out, "tokens_per_s", p->tokens_per_s);
    put_real(out, "prefill_s", p->prefill_s);
    put_real(out, "decode_s", p->decode_s);
    put_name(out, "busy_s", 0);
    sl_json_raw(out, "{");
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        put_name(out, sl_queue_name((sl_queue)q), q == 0);
        sl_json_double(out, p->busy_s[q]);
    }
    sl_json_raw(out, "}");
    put_name(out, "peak_bytes", 0);
    sl_json_raw(out, "{");
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        put_name(out, sl_report_tier_name(t), t == 0);
        sl_json_int(out, (int64_t)p->peak_bytes[t]);
    }
    sl_json_raw(out, "}}");
}
