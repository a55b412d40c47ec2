/* pinned.h - host memory that a device copies from and to.
 *
 * Taken from the cpu tier, mapped and touched, then pinned once; without a device it is ordinary
 * host memory that is touched as it is used.
 * Layer: store.  May include: base.  Thread safety: that of the tier.
 */
#ifndef SL_STORE_PINNED_H
#define SL_STORE_PINNED_H

#include <stddef.h>

#include "base/status.h"
#include "store/device.h"
#include "store/hollow.h"
#include "store/tier.h"

/* Where pinned memory comes from. */
typedef struct {
    sl_tier *cpu;
    struct sl_backend *be;
    const sl_device_ops *device; /* NULL: nothing needs pinning */
    const sl_hollow_ops *hollow; /* of a backend that computes nothing: nothing is touched */
} sl_pinned_from;

/* Takes `bytes` of zeroed, page-aligned host memory.  Errors: SL_ERR_NOMEM (budget), SL_ERR_DEVICE.
 */
sl_status sl_pinned_take(const sl_pinned_from *from, size_t bytes, const char *what, void **out);
/* NULL is allowed.  No copy of it may be under way. */
void sl_pinned_put(const sl_pinned_from *from, void *memory);

#endif
