/* clock.h - monotonic seconds.
 *
 * Layer: base.  Thread safety: any thread; each has its own source.
 */
#ifndef SL_BASE_CLOCK_H
#define SL_BASE_CLOCK_H

#ifdef __cplusplus
extern "C" {
#endif

/* Seconds since an arbitrary start; never goes back. */
double sl_clock_s(void);

/* Sleeps for `seconds`; returns early on a signal. */
void sl_clock_sleep(double seconds);

/* Sleeps of the calling thread, and of threads that it starts, end within a microsecond or so of
 * their time; the system's default is 50 late. */
void sl_clock_sleep_finely(void);

/* Another clock than the system's, such as that of a machine that is simulated. */
typedef struct {
    double (*now_s)(void *context);
    /* Returns once something may have happened that the caller waits for: the caller asks again. */
    void (*sleep)(void *context, double seconds);
    void *context;
} sl_clock_source;

/* What the calling thread's clock is from now on, borrowed until the next call; NULL: the system's.
 * Global by nature, but of one thread only: a simulated rank has its time, the others theirs. */
void sl_clock_set_source(const sl_clock_source *source);

#ifdef __cplusplus
}
#endif
#endif
