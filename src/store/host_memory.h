/* host_memory.h - large runs of host memory: mapped zeroed, on huge pages, touched by many threads.
 *
 * The system gives a page when it is first touched, zeroes it then, and pins pages one by one:
 * memory that a device copies from is therefore touched by all processors, in huge pages, before it
 * is pinned. Layer: store.  May include: base.  Thread safety: any thread; one owner per run.
 */
#ifndef SL_STORE_HOST_MEMORY_H
#define SL_STORE_HOST_MEMORY_H

#include <stddef.h>

#include "base/status.h"
#include "store/numa.h"

enum { SL_HOST_PAGE = 4096, SL_HOST_HUGE_PAGE = 2 << 20 };

/* Maps zeroed memory, which takes nothing from the system until it is touched.
 *   bytes  a multiple of SL_HOST_PAGE, not 0
 *   numa   where its pages are to come from; NULL: anywhere.  Borrowed for the call.
 *   what   names the memory in the error
 * *out is page-aligned, and aligned to a huge page when there is room for one; the caller unmaps
 * it. Errors: SL_ERR_ARG (bytes), SL_ERR_NOMEM with what, the bytes and the system's reason. */
sl_status sl_host_memory_map(size_t bytes, sl_numa *numa, const char *what, void **out);

/* Makes every page resident, in up to n_threads threads (0: as many as this process may run on).
 * The memory is as sl_host_memory_map() gave it, and stays zeroed.  Blocks, about as long as the
 * memory takes to be written once. */
void sl_host_memory_touch(void *memory, size_t bytes, int n_threads);

/* Gives the memory back; the bytes are those that were mapped.  NULL is allowed. */
void sl_host_memory_unmap(void *memory, size_t bytes);

#endif
