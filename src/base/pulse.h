/* pulse.h - whether this rank gets anything done, for a thread that watches the one that works.
 *
 * The thread that works counts what is over, and says what it begins; both cost next to nothing.
 * Layer: base.  Thread safety: any thread; what it shows belongs together only nearly.
 */
#ifndef SL_BASE_PULSE_H
#define SL_BASE_PULSE_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" { /* headers that .cu files include know it */
#endif

typedef struct sl_pulse sl_pulse;

typedef struct {
    unsigned long n_done; /* things that are over */
    int n_begun;          /* begun and not over; 0: the rank waits for others, or has no work */
    const char *name;     /* of what was begun last, NULL: nothing yet */
    int layer;            /* likewise; -1: of none */
    int is_busy;          /* there is work that has to get on */
} sl_pulse_view;

/* Errors: SL_ERR_NOMEM. */
sl_status sl_pulse_open(sl_pulse **out);
void sl_pulse_close(sl_pulse *pulse); /* NULL is allowed, as in all below but sl_pulse_look() */

/* `name` is a constant text. */
void sl_pulse_begin(sl_pulse *pulse, const char *name, int layer);
/* Something that was begun is over. */
void sl_pulse_end(sl_pulse *pulse);
/* Something is over that was not said to begin: a part of it, or what others had to do. */
void sl_pulse_count(sl_pulse *pulse);

void sl_pulse_set_busy(sl_pulse *pulse, int is_busy);

void sl_pulse_look(const sl_pulse *pulse, sl_pulse_view *out);

#ifdef __cplusplus
}
#endif
#endif
