/* tier.h - one level of the memory hierarchy under a byte budget.
 *
 * Every tensor byte is taken from a tier, so that budgets hold and peaks are known.
 * Layer: store.  May include: base.  Thread safety: one thread per tier.
 */
#ifndef SL_STORE_TIER_H
#define SL_STORE_TIER_H

#include <stddef.h>

#include "base/status.h"
#include "store/device.h"

typedef enum { SL_TIER_GPU, SL_TIER_CPU, SL_TIER_DISK, SL_TIER_COUNT } sl_tier_kind;

typedef struct sl_tier sl_tier;

const char *sl_tier_name(sl_tier_kind kind); /* "gpu", "cpu", "disk" */

/* Opens the host-memory tier.  The budget is a promise to the caller, memory is mapped as it is
 * asked for.  Errors: SL_ERR_ARG (zero budget), SL_ERR_NOMEM. */
sl_status sl_tier_open_cpu(size_t budget_bytes, sl_tier **out);

/* Opens the gpu tier over a device's pool; the budget is what the backend itself has left of it.
 * Memory is not zeroed. */
sl_status sl_tier_open_device(struct sl_backend *be, const sl_device_ops *device, sl_tier **out);
void sl_tier_close(sl_tier *tier); /* releases all memory that the tier still holds */

/* Takes `bytes` of memory (host: zeroed, page-aligned); `what` names it in the error.  Untouched
 * pages take no memory from the system.  The pointer is valid until sl_tier_put() or
 * sl_tier_close(). Errors: SL_ERR_NOMEM with what, the bytes wanted, in use and allowed. */
sl_status sl_tier_take(sl_tier *tier, size_t bytes, const char *what, void **out);
/* The same, with every page of host memory resident when it returns (store/host_memory.h): for what
 * is pinned.  Of the gpu tier all memory is there anyway. */
sl_status sl_tier_take_touched(sl_tier *tier, size_t bytes, const char *what, void **out);
void sl_tier_put(sl_tier *tier, void *memory);

/* Host memory that is taken from now on is to lie on this NUMA node, where the host has several;
 * a negative number: anywhere. */
void sl_tier_set_node(sl_tier *tier, int node);

sl_tier_kind sl_tier_get_kind(const sl_tier *tier);
size_t sl_tier_budget_bytes(const sl_tier *tier);
size_t sl_tier_used_bytes(const sl_tier *tier);
size_t sl_tier_peak_bytes(const sl_tier *tier);
/* Calls of sl_tier_take() so far: constant in steady state. */
size_t sl_tier_n_taken(const sl_tier *tier);

#endif
