/* cpu_simd.h - what the vector kernels of all instruction sets share.
 *
 * Layer: kernels/cpu.  Only for cpu_kernels_*.c.
 */
#ifndef SL_CPU_SIMD_H
#define SL_CPU_SIMD_H

/* Full unrolling keeps arrays of accumulators in registers. */
#ifdef __clang__
#define SL_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SL_UNROLL _Pragma("GCC unroll 16")
#endif

/* exp(x) = 2^n exp(r), n = round(x log2 e), |r| <= ln(2)/2: the series to r^7 is exact to 6e-9. */
#define SL_LOG2_E   1.44269504088896341f
#define SL_LN2_HIGH 0.693359375f /* 9 bits: n times it is exact */
#define SL_LN2_LOW  (-2.12194440054690583e-4f)
#define SL_EXP_TERMS                                                                               \
    { 1.0f, 1.0f, 1.0f / 2, 1.0f / 6, 1.0f / 24, 1.0f / 120, 1.0f / 720, 1.0f / 5040 }

#endif
