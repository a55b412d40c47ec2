#include "store/pinned.h"

sl_status sl_pinned_take(const sl_pinned_from *from, size_t bytes, const char *what, void **out) {
    void *memory = NULL;
    if (!from->device || from->hollow) return sl_tier_take(from->cpu, bytes, what, out);
    SL_TRY(sl_tier_take_touched(from->cpu, bytes, what, &memory));
    const sl_status st = from->device->pin(from->be, memory, bytes);
    if (st != SL_OK) {
        sl_tier_put(from->cpu, memory);
        return st;
    }
    *out = memory;
    return SL_OK;
}

void sl_pinned_put(const sl_pinned_from *from, void *memory) {
    if (!memory) return;
    if (from->device && !from->hollow) from->device->unpin(from->be, memory);
    sl_tier_put(from->cpu, memory);
}
