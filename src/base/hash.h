/* hash.h - a 64-bit checksum of bytes, at the speed of memory.
 *
 * For keys and against damaged files, not against an adversary.  A change within one of
 * the words of eight bytes always changes the result.  Words are in the machine's own order.
 * Layer: base.  Thread safety: pure function.
 * Source: our own; four independent lanes of xor, odd multiplication and rotation, each of which
 * can be undone, and the SplitMix64 finaliser of rng.h.
 */
#ifndef SL_BASE_HASH_H
#define SL_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Hash of `bytes` at `data` (any alignment; NULL when there are none).  `seed` starts it: the
 * result for what came before, where several things make one key. */
uint64_t sl_hash(uint64_t seed, const void *data, size_t bytes);

#endif
