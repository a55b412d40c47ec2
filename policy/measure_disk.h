/* measure_disk.h - reading and writing a folder's disk by size of request, several under way.
 *
 * Layer: policy.  May include: src.  Thread safety: that of the measure.
 */
#ifndef SL_POLICY_MEASURE_DISK_H
#define SL_POLICY_MEASURE_DISK_H

#include "measure.h"
#include "profile.h"

/* Fills disk_read_bps and disk_write_bps; without a folder they stay as they are.  The file that
 * it writes has no name and is gone at the end.
 *   engine_out  how the disk is reached (sl_disk_engine); may be NULL, set with a folder only
 * Errors: SL_ERR_IO (folder, space), SL_ERR_NOMEM. */
sl_status sl_measure_disk(sl_measure *m, sl_profile *profile, const char **engine_out);

#endif
