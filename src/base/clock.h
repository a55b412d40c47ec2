/* clock.h - monotonic seconds.  Layer: base.  Thread safety: pure. */
#ifndef SL_BASE_CLOCK_H
#define SL_BASE_CLOCK_H

#ifdef __cplusplus
extern "C" {
#endif

/* Seconds since an arbitrary start; never goes back. */
double sl_clock_s(void);

/* Sleeps for `seconds`; returns early on a signal. */
void sl_clock_sleep(double seconds);

#ifdef __cplusplus
}
#endif
#endif
