/* numa.h - where in a host with several memories (NUMA nodes) a run of bytes is to lie.
 *
 * Copies between a device and the memory of the socket that it hangs on do not cross the link
 * between sockets, which is slower and shared.  Everything here is advice: where hwloc or the
 * system cannot give it, memory comes from where it would have come from anyway. Layer: store.  May
 * include: base.  Thread safety: one owner per sl_numa.
 */
#ifndef SL_STORE_NUMA_H
#define SL_STORE_NUMA_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sl_numa sl_numa;

/* The node with the system's number `node`, the caller's to close.  NULL where there is nothing to
 * choose: a negative number, a host of one node, a node that this process may not use, or no answer
 * from hwloc. */
sl_numa *sl_numa_open(int node);
void sl_numa_close(sl_numa *numa); /* NULL is allowed */

/* The node's number; -1 for NULL. */
int sl_numa_node(const sl_numa *numa);

/* Asks for the pages of [memory, memory + bytes), none of which has been touched yet, to come from
 * the node while it has any, and from another one then.  NULL: does nothing.
 * Returns whether the system agreed. */
int sl_numa_bind(sl_numa *numa, void *memory, size_t bytes);

/* The node next to the PCI device with this bus id ("0000:3B:00.0", upper or lower case), as told
 * below root/sys ("" outside tests); -1 when the system does not say. */
int sl_numa_of_pci(const char *root, const char *bus_id);

#ifdef __cplusplus
}
#endif
#endif
