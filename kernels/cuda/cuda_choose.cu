#include "cuda/cuda_choose.h"

#include <cfloat>

#include "cuda/cuda_check.h"

/* 512 threads: a row of 50,000 logits is 100 apiece, and several rows share a multiprocessor. */
enum { WARP = 32, THREADS = 512, N_WARPS = THREADS / WARP, DIGITS = 256 };

typedef unsigned long long u64;

typedef struct {
    u64 part[N_WARPS];
    double part_f64[N_WARPS];
    u64 histogram[DIGITS];
    u64 found, rest;
    int id;
} shared_state;

/* Tokens in the order of all filters, higher logit first, ties by lower id: a larger key. */
static __device__ u64 key_of(float logit, int id) {
    const uint32_t bits = __float_as_uint(logit + 0.0f); /* -0 becomes +0 */
    const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)ordered << 32 | (0xffffffffu - (uint32_t)id);
}

static __device__ int id_of(u64 key) {
    return (int)(0xffffffffu - (uint32_t)key);
}

static __device__ u64 block_max(shared_state *s, u64 v) {
    for (int d = WARP / 2; d > 0; d /= 2) {
        const u64 other = __shfl_xor_sync(0xffffffffu, v, d);
        v = other > v ? other : v;
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0) s->part[threadIdx.x / WARP] = v;
    __syncthreads();
    v = 0;
    for (int w = 0; w < N_WARPS; w++) v = s->part[w] > v ? s->part[w] : v;
    return v;
}

static __device__ double block_sum_f64(shared_state *s, double v) {
    for (int d = WARP / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    __syncthreads();
    if (threadIdx.x % WARP == 0) s->part_f64[threadIdx.x / WARP] = v;
    __syncthreads();
    v = 0.0;
    for (int w = 0; w < N_WARPS; w++) v += s->part_f64[w];
    return v;
}

/* Sum of the values of all threads; *before gets that of the threads below this one. */
static __device__ u64 block_sum(shared_state *s, u64 v, u64 *before) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u64 inclusive = v;
    for (int d = 1; d < WARP; d *= 2) {
        const u64 other = __shfl_up_sync(0xffffffffu, inclusive, d);
        if (lane >= d) inclusive += other;
    }
    __syncthreads();
    if (lane == WARP - 1) s->part[warp] = inclusive;
    __syncthreads();
    u64 total = 0, below = 0;
    for (int w = 0; w < N_WARPS; w++) {
        if (w < warp) below += s->part[w];
        total += s->part[w];
    }
    *before = below + inclusive - v;
    return total;
}

/* Largest key below `bound`; 0 if there is none. */
static __device__ u64 best_below(shared_state *s, const float *x, int vocab, u64 bound) {
    u64 best = 0;
    for (int i = threadIdx.x; i < vocab; i += THREADS) {
        const u64 key = key_of(x[i], i);
        if (key < bound && key > best) best = key;
    }
    return block_max(s, best);
}

static __device__ double weight_of(float logit, float max, float temperature) {
    return exp(((double)logit - max) / temperature);
}

/* 2^44: 2^18 tokens still add up in 64 bits. */
static __device__ u64 units_of(double weight) {
    return (u64)(weight * 0x1p44 + 0.5);
}

/* The key at which the amounts of the tokens, in order, reach `goal` (>= 1); tokens below `floor`
 * and -inf count nothing.  An amount is 1, or the token's weight with BY_WEIGHT. */
template <bool BY_WEIGHT>
static __device__ u64 select_key(shared_state *s, const float *x, int vocab, u64 floor, u64 goal,
                                 float max, float temperature) {
    u64 prefix = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int d = threadIdx.x; d < DIGITS; d += THREADS) s->histogram[d] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < vocab; i += THREADS) {
            const u64 key = key_of(x[i], i);
            if (key < floor || x[i] == -INFINITY) continue;
            if (shift < 56 && key >> (shift + 8) != prefix) continue;
            const u64 amount = BY_WEIGHT ? units_of(weight_of(x[i], max, temperature)) : 1;
            atomicAdd(&s->histogram[key >> shift & (DIGITS - 1)], amount);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            u64 sum = 0;
            int d = DIGITS - 1;
            for (; d > 0 && sum + s->histogram[d] < goal; d--) sum += s->histogram[d];
            s->found = (u64)d;
            s->rest = goal - sum;
        }
        __syncthreads();
        prefix = prefix << 8 | s->found;
        goal = s->rest;
        __syncthreads();
    }
    return prefix;
}

/* The key of the last token that top_k, then top_p, then min_p let through. */
static __device__ u64 find_cut(shared_state *s, const float *x, int vocab, const sl_cuda_ask &ask,
                               float max, u64 best) {
    u64 cut = 0, before;
    if (ask.top_k > 0) {
        u64 n = 0;
        for (int i = threadIdx.x; i < vocab; i += THREADS) n += x[i] > -INFINITY;
        n = block_sum(s, n, &before);
        if ((u64)ask.top_k < n)
            cut = select_key<false>(s, x, vocab, 0, (u64)ask.top_k, max, ask.temperature);
    }
    u64 narrow = cut;
    if (ask.top_p < 1.0f) {
        u64 total = 0;
        for (int i = threadIdx.x; i < vocab; i += THREADS)
            if (key_of(x[i], i) >= cut) total += units_of(weight_of(x[i], max, ask.temperature));
        total = block_sum(s, total, &before);
        u64 goal = (u64)ceil((double)ask.top_p * (double)total);
        if (goal < 1) goal = 1;
        if (goal > total) goal = total;
        narrow = select_key<true>(s, x, vocab, cut, goal, max, ask.temperature);
    }
    if (ask.min_p > 0.0f) { /* the lowest key whose weight suffices, as a largest complement */
        u64 lowest = ~best;
        for (int i = threadIdx.x; i < vocab; i += THREADS) {
            const u64 key = key_of(x[i], i);
            if (weight_of(x[i], max, ask.temperature) >= ask.min_p && ~key > lowest) lowest = ~key;
        }
        lowest = ~block_max(s, lowest);
        narrow = lowest > narrow ? lowest : narrow;
    }
    return narrow;
}

/* Inverts the cumulative distribution of the tokens from `cut` up, in the order of ids. */
static __device__ int draw(shared_state *s, const float *x, int vocab, const sl_cuda_ask &ask,
                           float max, u64 best, u64 cut) {
    const int per_thread = (vocab + THREADS - 1) / THREADS, first = threadIdx.x * per_thread;
    const int last = min(vocab, first + per_thread);
    u64 mine = 0, before;
    for (int i = first; i < last; i++)
        if (key_of(x[i], i) >= cut) mine += units_of(weight_of(x[i], max, ask.temperature));
    const u64 total = block_sum(s, mine, &before);
    u64 goal = (u64)(ask.unit * (double)total);
    if (goal >= total) goal = total - 1; /* the product may round up; the best token counts 2^44 */
    if (threadIdx.x == 0) s->id = id_of(best);
    __syncthreads();
    if (before <= goal && goal < before + mine) { /* true for one thread */
        u64 sum = before;
        for (int i = first; i < last; i++) {
            if (key_of(x[i], i) < cut) continue;
            sum += units_of(weight_of(x[i], max, ask.temperature));
            if (sum <= goal) continue;
            s->id = i;
            break;
        }
    }
    __syncthreads();
    return s->id;
}

static __global__ void __launch_bounds__(THREADS)
    choose_kernel(float *logits, int vocab, const sl_cuda_ask *asks, sl_cuda_answer *answers) {
    __shared__ shared_state state;
    shared_state *s = &state;
    float *x = logits + (size_t)blockIdx.x * vocab;
    const sl_cuda_ask &ask = asks[blockIdx.x];
    sl_cuda_answer *answer = &answers[blockIdx.x];

    u64 bad = 0; /* complement of the first bad index */
    for (int i = threadIdx.x; i < vocab; i += THREADS)
        if (!(x[i] <= FLT_MAX) && ~(u64)i > bad) bad = ~(u64)i;
    bad = block_max(s, bad);
    u64 best = best_below(s, x, vocab, ~(u64)0);
    const float max = x[id_of(best)];
    if (bad != 0 || max == -INFINITY) {
        if (threadIdx.x == 0) {
            answer->bad = bad != 0 ? (int32_t)~bad : -2;
            answer->bad_value = bad != 0 ? x[(int)~bad] : max;
            answer->id = -1;
        }
        return;
    }
    double lse = 0.0;
    const bool scores = ask.target >= 0 || ask.logprobs;
    if (scores) {
        double sum = 0.0;
        for (int i = threadIdx.x; i < vocab; i += THREADS) sum += exp((double)x[i] - max);
        lse = max + log(block_sum_f64(s, sum));
    }
    int n_top = 0;
    if (ask.logprobs) {
        u64 bound = ~(u64)0;
        for (; n_top < ask.n_top && n_top < vocab; n_top++) {
            bound = n_top == 0 ? best : best_below(s, x, vocab, bound);
            if (threadIdx.x == 0) {
                answer->top_id[n_top] = id_of(bound);
                answer->top_logprob[n_top] = (float)(x[id_of(bound)] - lse);
            }
        }
    }
    int id = ask.target;
    if (id < 0) {
        if (ask.n_ban > 0) {
            __syncthreads(); /* all have read the logits as they were */
            if (threadIdx.x < ask.n_ban) x[ask.ban[threadIdx.x]] = -INFINITY;
            __syncthreads();
            best = best_below(s, x, vocab, ~(u64)0);
        }
        const float top = x[id_of(best)];
        id = top == -INFINITY ? -1 : id_of(best);
        if (id >= 0 && ask.temperature > 0.0f) {
            const bool filtered = ask.top_k > 0 || ask.top_p < 1.0f || ask.min_p > 0.0f;
            const u64 cut = filtered ? find_cut(s, x, vocab, ask, top, best) : 0;
            id = draw(s, x, vocab, ask, top, best, cut);
        }
    }
    if (threadIdx.x == 0) {
        answer->id = id;
        answer->bad = -1;
        answer->logprob = scores && id >= 0 ? (float)(x[id] - lse) : 0.0f;
        answer->n_top = n_top;
    }
}

extern "C" sl_status sl_cuda_choose(float *logits, int n_rows, int vocab, const sl_cuda_ask *ask,
                                    sl_cuda_answer *answer, cudaStream_t stream) {
    if (n_rows < 0 || vocab < 1) return SL_FAIL(SL_ERR_ARG, "choose on [%d, %d]", n_rows, vocab);
    if (vocab > 1 << 18)
        return SL_FAIL(SL_ERR_ARG, "choose: a vocabulary of %d, at most %d", vocab, 1 << 18);
    if (n_rows == 0) return SL_OK;
    choose_kernel<<<n_rows, THREADS, 0, stream>>>(logits, vocab, ask, answer);
    return SL_CUDA(cudaGetLastError(), "launch choose");
}
