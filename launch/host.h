/* host.h - what this process may use of its host: processors and memory.
 *
 * Linux interfaces only: the affinity mask, /proc/meminfo, and control groups version 1 and 2,
 * whose limits hold inside containers where the machine's own numbers mean nothing. Layer: launch.
 * Thread safety: pure functions over system files.
 */
#ifndef SL_LAUNCH_HOST_H
#define SL_LAUNCH_HOST_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { SL_HOST_MASK_BYTES = 512 }; /* processors 0 .. 4095 */

/* The processors that a process may run on, bit p % 8 of byte p / 8; pid 0: this one.  Returns
 * their number, 0 where it cannot be told. */
int sl_host_processors(pid_t pid, uint8_t mask[SL_HOST_MASK_BYTES]);

/* Processors' worth of time that the control groups allow, 0: no limit.
 *   root  "" for the system's own files; a folder that holds proc/ and sys/ in tests */
double sl_host_cpu_quota(const char *root);

/* Bytes that can still be taken without swapping or exceeding a control group's limit; 0 where it
 * cannot be told.  Page cache that the kernel would drop counts as available. */
size_t sl_host_available_bytes(const char *root);

/* The processors' model as /proc/cpuinfo names it, such as "AMD EPYC 7763 64-Core Processor", and
 * "unknown processor" where it does not.  Always ends with a zero. */
void sl_host_processor_name(const char *root, char *buf, size_t buf_bytes);

#endif
