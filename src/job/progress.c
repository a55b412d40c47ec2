#include "job/progress.h"

#include <inttypes.h>
#include <unistd.h>

#include "base/clock.h"

static const double TERMINAL_PERIOD_S = 0.5, PLAIN_PERIOD_S = 10.0;

void sl_progress_init(sl_progress *progress, FILE *stream, int64_t total) {
    *progress = (sl_progress){.stream = stream, .total = total};
    progress->is_terminal = stream && isatty(fileno(stream));
    progress->start_s = progress->last_s = sl_clock_s();
}

static void print_time_left(const sl_progress *progress, uint64_t n_done, double elapsed_s) {
    const int64_t n_left = progress->total - (int64_t)(progress->n_before + n_done);
    if (progress->total <= 0 || n_done == 0 || n_left < 0) return;
    const double left_s = elapsed_s * (double)n_left / (double)n_done;
    const int64_t s = (int64_t)left_s;
    if (s >= 3600) {
        fprintf(progress->stream, ", %" PRId64 ":%02d:%02d left", s / 3600, (int)(s / 60 % 60),
                (int)(s % 60));
    } else {
        fprintf(progress->stream, ", %d:%02d left", (int)(s / 60), (int)(s % 60));
    }
}

void sl_progress_update(sl_progress *progress, uint64_t n_done, uint64_t n_tokens,
                        double hits_frac) {
    if (!progress->stream) return;
    const double now_s = sl_clock_s(), since_s = now_s - progress->last_s;
    if (since_s < (progress->is_terminal ? TERMINAL_PERIOD_S : PLAIN_PERIOD_S)) return;
    const double elapsed_s = now_s - progress->start_s;
    const double now_tps = (double)(n_tokens - progress->last_tokens) / since_s;

    if (progress->is_terminal) fputc('\r', progress->stream);
    if (progress->total >= 0) {
        fprintf(progress->stream, "%" PRIu64 " of %" PRId64 " requests",
                progress->n_before + n_done, progress->total);
    } else {
        fprintf(progress->stream, "%" PRIu64 " requests", n_done);
    }
    fprintf(progress->stream, ", %.1f tokens/s now, %.1f on average", now_tps,
            (double)n_tokens / elapsed_s);
    print_time_left(progress, n_done, elapsed_s);
    if (hits_frac > 0) fprintf(progress->stream, ", %.0f %% prefix hits", 100 * hits_frac);
    fputs(progress->is_terminal ? "\033[K" : "\n", progress->stream);
    fflush(progress->stream);
    progress->line_open = progress->is_terminal;
    progress->last_s = now_s;
    progress->last_tokens = n_tokens;
}

void sl_progress_clear(sl_progress *progress) {
    if (!progress->stream || !progress->line_open) return;
    fputs("\r\033[K", progress->stream);
    fflush(progress->stream);
    progress->line_open = 0;
}
