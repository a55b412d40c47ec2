#include "base/hash.h"

#include <string.h>

#include "base/rng.h"

enum { N_LANES = 4, STEP_BYTES = N_LANES * 8 };

/* Odd, and without a pattern: the fractions of the square roots of 2, 3, 5 and 7. */
static const uint64_t factors[N_LANES] = {0x6a09e667f3bcc909u, 0xbb67ae8584caa73bu,
                                          0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u};

static inline void step(uint64_t lane[N_LANES], const unsigned char *bytes) {
    uint64_t word[N_LANES];
    memcpy(word, bytes, STEP_BYTES);
    for (int i = 0; i < N_LANES; i++) {
        const uint64_t v = (lane[i] ^ word[i]) * factors[i];
        lane[i] = v << 29 | v >> 35;
    }
}

uint64_t sl_hash(uint64_t seed, const void *data, size_t bytes) {
    const unsigned char *at = data;
    uint64_t lane[N_LANES];
    for (int i = 0; i < N_LANES; i++) lane[i] = seed + factors[i];
    size_t left = bytes;
    for (; left >= STEP_BYTES; left -= STEP_BYTES, at += STEP_BYTES) step(lane, at);
    if (left > 0) {
        unsigned char last[STEP_BYTES] = {0}; /* the length tells it from zeros in the data */
        memcpy(last, at, left);
        step(lane, last);
    }
    uint64_t h = sl_rng_mix(seed ^ bytes);
    for (int i = 0; i < N_LANES; i++) h = sl_rng_mix(h * factors[0] ^ lane[i]);
    return h;
}
