/* lanes.h - four floats at a time, in what GCC and Clang offer for every target.
 *
 * Sums are kept by lane and added up in a fixed order, and nothing is fused on x86-64's baseline,
 * so results do not depend on the processor.  Wider vectors are a matter of kernels/cpu.
 * Layer: base.  Thread safety: pure functions.
 */
#ifndef SL_BASE_LANES_H
#define SL_BASE_LANES_H

#include <stdint.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum { SL_LANES = 4 };
typedef float sl_lanes __attribute__((vector_size(16)));
typedef int32_t sl_lane_ints __attribute__((vector_size(16)));

static inline sl_lanes sl_lanes_all(float x) {
    return (sl_lanes){x, x, x, x};
}

/* a > b ? a : b and a < b ? a : b, so b where one is NaN. */
static inline sl_lanes sl_lanes_max(sl_lanes a, sl_lanes b) {
#if defined(__SSE2__)
    return (sl_lanes)_mm_max_ps(a, b);
#else
    const sl_lane_ints which = a > b;
    return (sl_lanes)((which & (sl_lane_ints)a) | (~which & (sl_lane_ints)b));
#endif
}

static inline sl_lanes sl_lanes_min(sl_lanes a, sl_lanes b) {
#if defined(__SSE2__)
    return (sl_lanes)_mm_min_ps(a, b);
#else
    const sl_lane_ints which = a < b;
    return (sl_lanes)((which & (sl_lane_ints)a) | (~which & (sl_lane_ints)b));
#endif
}

/* The nearest integer, ties to even; |x| < 2^22. */
static inline sl_lanes sl_lanes_round(sl_lanes x) {
    const sl_lanes rounder = sl_lanes_all(0x1.8p23f);
    return (x + rounder) - rounder;
}

static inline float sl_lanes_sum(sl_lanes x) {
    return (x[0] + x[1]) + (x[2] + x[3]);
}

#endif
