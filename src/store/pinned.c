#include "store/pinned.h"

#include <string.h>

sl_status sl_pinned_take(const sl_pinned_from *from, size_t bytes, const char *what, void **out) {
    void *memory = NULL;
    SL_TRY(sl_tier_take(from->cpu, bytes, what, &memory));
    if (from->device) {
        memset(memory, 0, bytes); /* pinned once it is there */
        const sl_status st = from->device->pin(from->be, memory, bytes);
        if (st != SL_OK) {
            sl_tier_put(from->cpu, memory);
            return st;
        }
    }
    *out = memory;
    return SL_OK;
}

void sl_pinned_put(const sl_pinned_from *from, void *memory) {
    if (!memory) return;
    if (from->device) from->device->unpin(from->be, memory);
    sl_tier_put(from->cpu, memory);
}
