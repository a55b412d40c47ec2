/* sim_cost.h - how long a simulated machine takes for an operator or a copy that runs alone.
 *
 * Layer: kernels/sim.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_SIM_COST_H
#define SL_SIM_COST_H

#include "engine/host_attention.h"
#include "engine/rows.h"
#include "sim/sim_machine.h"
#include "sim/sim_rates.h"
#include "store/kv_format.h"
#include "store/weights.h"

/* Seconds of a product of n_rows rows with a matrix: 2 n_rows elements / gemm_flops(n_rows), or
 * the rate of its size where the machine has more than one.
 * Errors: SL_ERR_ARG when the machine cannot multiply with that format. */
sl_status sl_sim_gemm_s(const sl_sim_rates *rates, const sl_weight *w, int n_rows, double *out);

/* Seconds of causal attention in the computing tier.  Segments of one row read their pages;
 * longer ones are prompts: 4 keys width flops a row.
 *   width  n_heads * head_dim;  share: of the page bytes that are read (1: all)
 * Errors: SL_ERR_ARG when the machine has no rate for it. */
sl_status sl_sim_attend_s(const sl_sim_rates *rates, const sl_kv_format *format, int width,
                          int window, double share, const sl_rows *rows, double *out);

/* Attention on the host: host_job_s and the reading of the pages; *bytes_out: of the pages. */
sl_status sl_sim_host_attend(const sl_sim_rates *rates, const sl_host_job *job,
                             sl_sim_load *load_out, double *bytes_out);

/* Bytes that are read and written in the computing tier. */
double sl_sim_memory_s(const sl_sim_rates *rates, double bytes);

/* A copy over the link, to the device or from it; a transfer of the disk; a message. */
sl_sim_load sl_sim_copy(const sl_sim_rates *rates, int to_device, double bytes);
sl_sim_load sl_sim_transfer(const sl_sim_rates *rates, int is_write, double bytes);
sl_sim_load sl_sim_message(const sl_sim_rates *rates, double bytes);

#endif
