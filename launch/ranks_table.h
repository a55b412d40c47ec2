/* ranks_table.h - who computes what, where and with what memory: printed before a pipeline starts.
 *
 * Layer: launch.  May include: all.
 */
#ifndef SL_LAUNCH_RANKS_TABLE_H
#define SL_LAUNCH_RANKS_TABLE_H

#include <stdio.h>

#include "setup.h"

/* Collective, once the engine is open.  The first rank writes one line for each rank. */
sl_status sl_ranks_table_print(const sl_setup *setup, FILE *stream);

#endif
