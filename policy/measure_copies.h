/* measure_copies.h - copies to the device that go on while something else is measured.
 *
 * Layer: policy.  May include: src.  Thread safety: that of the measure.
 */
#ifndef SL_POLICY_MEASURE_COPIES_H
#define SL_POLICY_MEASURE_COPIES_H

#include "measure.h"

enum { SL_COPIES_AT_ONCE = 4 };

/* Zeroed: there are no copies, and all calls do nothing. */
typedef struct {
    sl_measure *m;
    void *host, *device; /* [SL_COPIES_AT_ONCE * bytes] */
    size_t bytes;        /* of one; 0: no copies */
    sl_event *done[SL_COPIES_AT_ONCE];
    double copied_bytes; /* so far */
} sl_copies;

/* Queues SL_COPIES_AT_ONCE copies of 16 MiB, less where memory is scarce; they last for a
 * millisecond or so.  Needs a device.  *out is to be closed after errors, too.
 * Errors: SL_ERR_NOMEM, SL_ERR_DEVICE. */
sl_status sl_copies_open(sl_measure *m, sl_copies *out);

/* Queues again what is done: to be called more often than a copy takes.  Errors: SL_ERR_DEVICE. */
sl_status sl_copies_poll(sl_copies *copies);

/* Waits for what is queued on the device. */
void sl_copies_close(sl_copies *copies);

#endif
