#include "store/tier.h"

#include <stdlib.h>

#include "base/bytes.h"
#include "store/host_memory.h"
#include "store/numa.h"

typedef struct {
    void *memory;
    size_t bytes; /* as charged: whole system pages */
} taken;

struct sl_tier {
    sl_tier_kind kind;
    struct sl_backend *be; /* GPU: whose device */
    const sl_device_ops *device;
    sl_numa *numa; /* CPU: where its memory is to lie; NULL: anywhere */
    size_t budget_bytes;
    size_t used_bytes;
    size_t peak_bytes;
    taken *all; /* [n], what is out */
    size_t n, capacity;
    size_t n_taken; /* since open */
};

const char *sl_tier_name(sl_tier_kind kind) {
    static const char *const names[SL_TIER_COUNT] = {"gpu", "cpu", "disk"};
    return (int)kind >= 0 && kind < SL_TIER_COUNT ? names[kind] : "?";
}

sl_status sl_tier_open_cpu(size_t budget_bytes, sl_tier **out) {
    if (budget_bytes == 0) return SL_FAIL(SL_ERR_ARG, "the cpu tier's budget is zero bytes");
    sl_tier *tier = calloc(1, sizeof *tier);
    if (!tier) return SL_FAIL(SL_ERR_NOMEM, "cpu tier: out of host memory");
    tier->kind = SL_TIER_CPU;
    tier->budget_bytes = budget_bytes;
    *out = tier;
    return SL_OK;
}

sl_status sl_tier_open_device(struct sl_backend *be, const sl_device_ops *device, sl_tier **out) {
    sl_tier *tier = calloc(1, sizeof *tier);
    if (!tier) return SL_FAIL(SL_ERR_NOMEM, "gpu tier: out of host memory");
    tier->kind = SL_TIER_GPU;
    tier->be = be;
    tier->device = device;
    tier->budget_bytes = device->budget_bytes(be) - device->used_bytes(be);
    *out = tier;
    return SL_OK;
}

void sl_tier_set_node(sl_tier *tier, int node) {
    if (tier->device) return;
    sl_numa_close(tier->numa);
    tier->numa = sl_numa_open(node);
}

static void give_back(sl_tier *tier, const taken *t) {
    if (tier->device)
        tier->device->put(tier->be, t->memory);
    else
        sl_host_memory_unmap(t->memory, t->bytes);
}

/* Gets the memory of one take; the list has room for it. */
static sl_status get(sl_tier *tier, size_t bytes, const char *what, void **out) {
    if (tier->device) return tier->device->take(tier->be, bytes, what, out);
    return sl_host_memory_map(bytes, tier->numa, what, out);
}

void sl_tier_close(sl_tier *tier) {
    if (!tier) return;
    for (size_t i = 0; i < tier->n; i++) give_back(tier, &tier->all[i]);
    free(tier->all);
    sl_numa_close(tier->numa);
    free(tier);
}

static sl_status over_budget(const sl_tier *tier, size_t bytes, const char *what) {
    char want[32], used[32], budget[32];
    return SL_FAIL(SL_ERR_NOMEM, "%s tier: %s needs %s, but %s of the budget of %s are in use",
                   sl_tier_name(tier->kind), what, sl_bytes_format(bytes, want, sizeof want),
                   sl_bytes_format(tier->used_bytes, used, sizeof used),
                   sl_bytes_format(tier->budget_bytes, budget, sizeof budget));
}

/* Takes the memory; *charged_out: its bytes, as whole system pages. */
static sl_status take(sl_tier *tier, size_t bytes, const char *what, void **out,
                      size_t *charged_out) {
    if (bytes == 0)
        return SL_FAIL(SL_ERR_ARG, "%s tier: %s asks for zero bytes", sl_tier_name(tier->kind),
                       what);
    size_t charged;
    SL_TRY(sl_size_add(bytes, SL_HOST_PAGE - 1, &charged));
    charged &= ~(size_t)(SL_HOST_PAGE - 1);
    if (charged > tier->budget_bytes - tier->used_bytes) return over_budget(tier, charged, what);

    if (tier->n == tier->capacity) {
        const size_t more = tier->capacity ? 2 * tier->capacity : 64;
        taken *all = realloc(tier->all, more * sizeof *all);
        if (!all)
            return SL_FAIL(SL_ERR_NOMEM, "%s tier: out of host memory for %s",
                           sl_tier_name(tier->kind), what);
        tier->all = all;
        tier->capacity = more;
    }
    void *memory;
    SL_TRY(get(tier, charged, what, &memory));
    tier->all[tier->n++] = (taken){memory, charged};
    tier->n_taken++;
    tier->used_bytes += charged;
    if (tier->used_bytes > tier->peak_bytes) tier->peak_bytes = tier->used_bytes;
    *out = memory;
    *charged_out = charged;
    return SL_OK;
}

sl_status sl_tier_take(sl_tier *tier, size_t bytes, const char *what, void **out) {
    size_t charged;
    return take(tier, bytes, what, out, &charged);
}

sl_status sl_tier_take_touched(sl_tier *tier, size_t bytes, const char *what, void **out) {
    size_t charged;
    SL_TRY(take(tier, bytes, what, out, &charged));
    if (!tier->device) sl_host_memory_touch(*out, charged, 0);
    return SL_OK;
}

void sl_tier_put(sl_tier *tier, void *memory) {
    for (size_t i = 0; memory && i < tier->n; i++) {
        if (tier->all[i].memory != memory) continue;
        give_back(tier, &tier->all[i]);
        tier->used_bytes -= tier->all[i].bytes;
        tier->all[i] = tier->all[--tier->n];
        return;
    }
}

size_t sl_tier_budget_bytes(const sl_tier *tier) {
    return tier->budget_bytes;
}
size_t sl_tier_used_bytes(const sl_tier *tier) {
    return tier->used_bytes;
}
size_t sl_tier_peak_bytes(const sl_tier *tier) {
    return tier->peak_bytes;
}
size_t sl_tier_n_taken(const sl_tier *tier) {
    return tier->n_taken;
}
sl_tier_kind sl_tier_get_kind(const sl_tier *tier) {
    return tier->kind;
}
