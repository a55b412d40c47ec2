/* setup_policy.h - the policy of a run: from options, from a file, or searched for.
 *
 * Layer: launch.  May include: all.
 */
#ifndef SL_LAUNCH_SETUP_POLICY_H
#define SL_LAUNCH_SETUP_POLICY_H

#include "base/status.h"
#include "setup.h"

/* Fills in setup->policy: with --policy the file's, with decisions among the options theirs, else
 * planned (setup_plan.h) unless --plan or the job say that it need not be; options that are given
 * come before all.  The source is open and the threads are chosen.
 * Collective; all ranks get the same decisions, and the same status. */
sl_status sl_setup_choose_policy(sl_setup *setup);

#endif
