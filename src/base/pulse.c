#include "base/pulse.h"

#include <stdatomic.h>
#include <stdlib.h>

struct sl_pulse {
    atomic_ulong n_done;
    atomic_int n_begun, layer, is_busy;
    _Atomic(const char *) name;
};

sl_status sl_pulse_open(sl_pulse **out) {
    sl_pulse *p = calloc(1, sizeof *p);
    if (!p) return SL_FAIL(SL_ERR_NOMEM, "pulse: out of host memory");
    *out = p;
    return SL_OK;
}

void sl_pulse_close(sl_pulse *p) {
    free(p);
}

/* Nothing is handed over by these values, so no order among them is needed. */

void sl_pulse_begin(sl_pulse *p, const char *name, int layer) {
    if (!p) return;
    atomic_store_explicit(&p->name, name, memory_order_relaxed);
    atomic_store_explicit(&p->layer, layer, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->n_begun, 1, memory_order_relaxed);
}

void sl_pulse_end(sl_pulse *p) {
    if (!p) return;
    atomic_fetch_sub_explicit(&p->n_begun, 1, memory_order_relaxed);
    sl_pulse_count(p);
}

void sl_pulse_count(sl_pulse *p) {
    if (p) atomic_fetch_add_explicit(&p->n_done, 1, memory_order_relaxed);
}

void sl_pulse_set_busy(sl_pulse *p, int is_busy) {
    if (p) atomic_store_explicit(&p->is_busy, is_busy, memory_order_relaxed);
}

void sl_pulse_look(const sl_pulse *p, sl_pulse_view *out) {
    *out = (sl_pulse_view){
        .n_done = atomic_load_explicit(&p->n_done, memory_order_relaxed),
        .n_begun = atomic_load_explicit(&p->n_begun, memory_order_relaxed),
        .name = atomic_load_explicit(&p->name, memory_order_relaxed),
        .layer = atomic_load_explicit(&p->layer, memory_order_relaxed),
        .is_busy = atomic_load_explicit(&p->is_busy, memory_order_relaxed),
    };
}
