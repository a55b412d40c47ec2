/* rng.h - seeded random numbers that do not depend on who draws first.
 *
 * sl_rng_at() is a counter-based generator: the number is a function of (key, counter), so any
 * rank, any thread and any order of work draws the same one.  sl_rng is a sequence over it.
 * Layer: base.  Thread safety: pure functions; one owner per sl_rng.
 * Source: SplitMix64 (Steele, Lea, Flood 2014).
 */
#ifndef SL_BASE_RNG_H
#define SL_BASE_RNG_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline uint64_t sl_rng_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* 64 random bits for (key, counter). */
static inline uint64_t sl_rng_at(uint64_t key, uint64_t counter) {
    /* A SplitMix64 stream whose start is the hashed key; nothing cancels for small numbers. */
    const uint64_t start = sl_rng_mix(key + 0x632be59bd9b4e019u);
    return sl_rng_mix(start + (counter + 1) * 0x9e3779b97f4a7c15u);
}

/* Uniform in [0, 1) with 53 random bits. */
static inline double sl_rng_unit(uint64_t bits) {
    return (double)(bits >> 11) * 0x1p-53;
}

typedef struct {
    uint64_t key;
    uint64_t counter;
} sl_rng;

static inline uint64_t sl_rng_next(sl_rng *rng) {
    return sl_rng_at(rng->key, rng->counter++);
}

__extension__ typedef unsigned __int128 sl_uint128;

/* Uniform integer in [0, n), n >= 1; the bias (below n / 2^64) is of no account here. */
static inline uint64_t sl_rng_below(sl_rng *rng, uint64_t n) {
    return (uint64_t)(((sl_uint128)sl_rng_next(rng) * n) >> 64);
}

/* FNV-1a of a text: keys from names. */
static inline uint64_t sl_rng_hash(const char *text) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

#ifdef __cplusplus
}
#endif
#endif
