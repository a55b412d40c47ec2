/* signals.h - signals that ask for an early end: SIGINT and SIGTERM.
 *
 * A process has one set of signal handlers, so what they note is kept here for all.
 * Layer: launch.  May include: all.  Thread safety: any thread may look.
 */
#ifndef SL_LAUNCH_SIGNALS_H
#define SL_LAUNCH_SIGNALS_H

#include <signal.h>
#include <stdatomic.h>

#include "guard.h"

/* From now on a signal is noted, and a second one ends the process at once.  Call it from the main
 * thread, which is the one whose waiting is cut short, unless `restarts`.
 *   patience_s  time from a signal until this process ends whatever it does, for one without a
 *               guard; 0: any */
void sl_signals_catch(int restarts, int patience_s);

/* The number of the first signal, 0: none yet.  For the main thread, and for any. */
const volatile sig_atomic_t *sl_signals_stop(void);
atomic_int *sl_signals_stop_anywhere(void);

/* Has signals told to the other ranks as well; a second one then does not end the process, for
 * launchers send several.  NULL: no longer. */
void sl_signals_set_guard(sl_guard *guard);

/* Makes the main thread get one, from another thread. */
void sl_signals_raise(int number);

#endif
