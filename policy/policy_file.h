/* policy_file.h - the decisions of a policy as a JSON file: what a plan says, and a run takes.
 *
 *   {"policy_version": 1, "model": "opt-30b", "machine": "g16", "micro_batch": 124,
 *    "num_micro_batches": 2, "max_rows": 2048, "blocks_in_flight": 1, "max_context": 544,
 *    "weights": "q4", "cache": "q4", "weights_at": {"gpu": 0.81, "cpu": 0.19, "disk": 0},
 *    "cache_at": {...}, "hidden_at": null, "cpu_attention": 0.75}
 *
 * Shares are from 0 to 1; null leaves one to be chosen, as 0 does for the numbers of the block.
 * Model and machine are for people, and may be left out.
 * Layer: policy.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_POLICY_FILE_H
#define SL_POLICY_POLICY_FILE_H

#include <stddef.h>

#include "base/status.h"
#include "engine/engine.h"
#include "job/json_text.h"

/* Sets the decisions in *policy; its budgets, folder and parts stay as they are.  Unknown keys are
 * refused by name, missing ones too.
 *   text  [bytes], need not end with a zero;  where: names it in errors
 * Errors: SL_ERR_IO, SL_ERR_FORMAT (file, key, what was found and expected); *policy is unchanged
 * then. */
sl_status sl_policy_parse(const char *text, size_t bytes, const char *where, sl_policy *policy);
sl_status sl_policy_read(const char *path, sl_policy *policy);

/* model, machine: may be NULL. */
void sl_policy_print(const sl_policy *policy, const char *model, const char *machine,
                     sl_json_text *out);
sl_status sl_policy_write(const sl_policy *policy, const char *model, const char *machine,
                          const char *path);

#endif
