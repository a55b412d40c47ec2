/* blocks.h - how many blocks a pipeline keeps in flight.
 *
 * A rank's next block has to be there when it is done with one.  A block comes round once it has
 * been through all ranks and over all wires between them, so as many blocks as there are ranks are
 * enough where wires are fast; on slow ones more of them, or smaller ones, keep the ranks busy.
 * Layer: policy.  May include: src.  Thread safety: pure functions.
 */
#ifndef SL_POLICY_BLOCKS_H
#define SL_POLICY_BLOCKS_H

#include "search_measured.h"

enum { SL_BLOCKS_MOST_PER_RANK = 8 };

/* Puts another number of blocks, and with it perhaps smaller micro-batches, into a plan where that
 * is faster by a hundredth at least and fits; the plan's cost then counts what the ranks wait for
 * blocks in either case.  Plans for one rank stay as they are.  Errors: those of cost and memory.
 */
sl_status sl_blocks_choose(const sl_plan_problem *problem, sl_measured_plan *plan);

#endif
