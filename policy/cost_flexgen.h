/* cost_flexgen.h - the published FlexGen cost model: what a placement costs, and the best one.
 *
 * Given a block shape (micro_batch sequences computed together, num_micro_batches of them per
 * reading of the weights), every time and every memory peak is an affine function of nine shares:
 * which part of weights, cache and hidden states lives in which tier.  The least time under the
 * memory budgets is a linear program.
 * Layer: policy.  May include: src, glpk.  Thread safety: pure functions.
 * Source: FlexGen (arXiv:2303.06865) section 4.3 and appendix A.3, in the form of the authors'
 * published program, which differs from the appendix; deviations are noted beside the formulas.
 */
#ifndef SL_POLICY_COST_FLEXGEN_H
#define SL_POLICY_COST_FLEXGEN_H

#include "base/status.h"
#include "lp.h"
#include "store/tier.h"

/* Rates that the program was fitted to.  Bytes/s and flop/s. */
typedef struct {
    const char *name;
    double cpu_to_gpu_bps;                            /* ctog_bdw */
    double gpu_to_cpu_cache_bps;                      /* gtoc_bdw_cache */
    double gpu_to_cpu_hidden_bps;                     /* gtoc_bdw_hidden */
    double disk_to_cpu_bps;                           /* dtoc_bdw */
    double cpu_to_disk_cache_bps;                     /* ctod_bdw_cache_p, prefill */
    double cpu_to_disk_hidden_bps;                    /* ctod_bdw_hidden_p, prefill */
    double cpu_to_disk_decode_bps;                    /* ctod_bdw_g */
    double matmul_prefill_flops, matmul_decode_flops; /* mm_flops_p, mm_flops_g */
    double bmm_prefill_flops, bmm_decode_flops;       /* bmm_flops_p, bmm_flops_g: attention */
    double cpu_flops;                                 /* attention on the CPU, at its best */
    double c1, c2, c3; /* how cpu_flops falls for small micro-batches and narrow models */
} sl_flexgen_machine;

/* Google Cloud n1-standard-48 with an NVIDIA T4, 1.5 TB of NVMe: the published constants. */
extern const sl_flexgen_machine sl_flexgen_t4;

typedef enum {
    SL_FLEXGEN_WEIGHTS,
    SL_FLEXGEN_CACHE,
    SL_FLEXGEN_HIDDEN,
    SL_FLEXGEN_N_KINDS
} sl_flexgen_kind;

enum { SL_FLEXGEN_N_SHARES = SL_FLEXGEN_N_KINDS * SL_TIER_COUNT };

/* Everything but the block shape. */
typedef struct {
    const sl_flexgen_machine *machine;   /* borrowed */
    int n_layers, hidden, ffn, n_heads;  /* l, h1, h2, nh */
    int prompt_len, gen_len;             /* s, n */
    double budget_bytes[SL_TIER_COUNT];  /* gmem, cmem, nmem, each times its alpha */
    int compress_weights;                /* 1: weights take a quarter of their f16 bytes */
    int is_fixed;                        /* 1: the shares of `fixed` are given, not free */
    double fixed[SL_FLEXGEN_N_KINDS][2]; /* 0..1 on the gpu and the cpu, the rest on disk */
} sl_flexgen_problem;

/* Times per layer and per layer and decode step, seconds. */
typedef enum {
    SL_FLEXGEN_CTOG_P,
    SL_FLEXGEN_GTOC_P,
    SL_FLEXGEN_DTOC_P,
    SL_FLEXGEN_CTOD_P,
    SL_FLEXGEN_COMP_P,
    SL_FLEXGEN_CTOG_G,
    SL_FLEXGEN_GTOC_G,
    SL_FLEXGEN_DTOC_G,
    SL_FLEXGEN_CTOD_G,
    SL_FLEXGEN_COMP_G,
    SL_FLEXGEN_N_TIMES
} sl_flexgen_time;

/* Memory peaks, bytes; the disk's is that of the whole run. */
typedef enum {
    SL_FLEXGEN_GPU_P,
    SL_FLEXGEN_GPU_G,
    SL_FLEXGEN_CPU_P,
    SL_FLEXGEN_CPU_G,
    SL_FLEXGEN_DISK,
    SL_FLEXGEN_N_PEAKS
} sl_flexgen_peak;

sl_tier_kind sl_cost_flexgen_tier(sl_flexgen_peak peak);

typedef struct {
    int is_feasible; /* 0: no shares keep the budgets; then only the block shape is set beside it */
    int micro_batch, num_micro_batches;
    double share[SL_FLEXGEN_N_KINDS][SL_TIER_COUNT]; /* 0..1, each row sums to 1 */
    double time_s[SL_FLEXGEN_N_TIMES];
    double prefill_layer_s, decode_layer_s; /* Tpre, Tgen */
    double total_s;                         /* T, of a block */
    double objective_s;                     /* T / bls, per sequence */
    double tokens_per_s;                    /* bls * n / T */
    double peak_bytes[SL_FLEXGEN_N_PEAKS];
} sl_flexgen_plan;

/* The fastest shares for a block shape.
 * Errors: SL_ERR_ARG (a size below 1, a rate or budget that is no number, fixed shares outside of
 * 0..1 or above 1 together, hidden states on disk), SL_ERR_NOMEM.  A block that does not fit is no
 * error: plan->is_feasible is 0. */
sl_status sl_cost_flexgen(const sl_flexgen_problem *problem, int micro_batch, int num_micro_batches,
                          sl_flexgen_plan *out);

/* What given shares cost, whether or not they keep the budgets; out->is_feasible says.
 *   share  [SL_FLEXGEN_N_KINDS, SL_TIER_COUNT], each row sums to 1
 * Errors: SL_ERR_ARG as above. */
sl_status sl_cost_flexgen_evaluate(const sl_flexgen_problem *problem, int micro_batch,
                                   int num_micro_batches, const double *share,
                                   sl_flexgen_plan *out);

/* The linear program itself.  Columns: share[kind][tier] at SL_TIER_COUNT * kind + tier, then Tpre
 * and Tgen, each in a unit in which it is near 1.  Rows: what the shares sum to, the times, and
 * from row SL_FLEXGEN_ROW_PEAKS on one for each peak, in GiB.  The caller closes *out. Errors: as
 * above. */
enum { SL_FLEXGEN_ROW_PEAKS = 11, SL_FLEXGEN_N_ROWS = SL_FLEXGEN_ROW_PEAKS + SL_FLEXGEN_N_PEAKS };
enum { SL_FLEXGEN_N_COLS = SL_FLEXGEN_N_SHARES + 2 };
sl_status sl_cost_flexgen_program(const sl_flexgen_problem *problem, int micro_batch,
                                  int num_micro_batches, sl_lp **out);

#endif
