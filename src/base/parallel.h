/* parallel.h - a loop whose items are worked on by several threads, for loading.
 *
 * Layer: base.  Thread safety: any thread may call; calls do not share anything.
 */
#ifndef SL_BASE_PARALLEL_H
#define SL_BASE_PARALLEL_H

#include "base/status.h"

/* Works on one item; runs in any of the threads. */
typedef sl_status sl_parallel_item(void *context, int item);

/* Calls work(context, i) for i in [0, n_items), each once, in up to n_threads threads (0: as many
 * as this process may run on), the calling one included.  After a failure no new item is started.
 * Returns when all threads are done, with the status and message of the failed item of lowest
 * number among those that ran.  Blocks. */
sl_status sl_parallel_for(int n_threads, int n_items, sl_parallel_item *work, void *context);

#endif
