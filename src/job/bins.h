/* bins.h - sums over equal pieces of time, so many that a chart of them stays readable.
 *
 * A run may take a second or a week: pieces begin short, and whenever time has outgrown them, each
 * two neighbours become one.  So at least half of the pieces are in use, whatever the run's length,
 * and the memory is fixed.
 *     sl_bins_reach()   for each thing that happened, with its end
 *     sl_bins_fold()    of every array, where reach says so
 *     sl_bins_spread()  of what happened
 * Layer: job.  May include: nothing.  Thread safety: plain data, one owner.
 */
#ifndef SL_JOB_BINS_H
#define SL_JOB_BINS_H

enum { SL_BINS = 128 };

/* All zero at first. */
typedef struct {
    double start_s, end_s; /* a clock's readings; end: of the latest thing */
    double bin_s;          /* 0: nothing has happened */
} sl_bin_axis;

/* Time begins at start_s.  Has to be called once, first. */
void sl_bins_begin(sl_bin_axis *axis, double start_s);

/* Makes room up to end_s.  Returns how many times every array has to be folded. */
int sl_bins_reach(sl_bin_axis *axis, double end_s);

/* Each two neighbours become one, n_times. */
void sl_bins_fold(double *sum, int n_times);

/* Adds an amount that came evenly from start_s to end_s, which has been reached. */
void sl_bins_spread(const sl_bin_axis *axis, double start_s, double end_s, double amount,
                    double *sum);

/* Bins that have begun, and the seconds of bin b that are over; both 0 before anything happened. */
int sl_bins_used(const sl_bin_axis *axis);
double sl_bins_width_s(const sl_bin_axis *axis, int b);

#endif
