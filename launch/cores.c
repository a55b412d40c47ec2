#include "cores.h"

#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

enum { MAX_PROCESSORS = SL_HOST_MASK_BYTES * 8 };

static int has(const uint8_t *mask, int p) {
    return mask[p / 8] >> (p % 8) & 1;
}
static void add(uint8_t *mask, int p) {
    mask[p / 8] |= (uint8_t)(1u << (p % 8));
}

int sl_cores_count(const uint8_t mask[SL_HOST_MASK_BYTES]) {
    int count = 0;
    for (int i = 0; i < SL_HOST_MASK_BYTES; i++) count += __builtin_popcount(mask[i]);
    return count;
}

/* The processors of a mask that are near a NUMA node (-1: any), node after node and core after
 * core.  Returns how many there are; 0 where hwloc finds nothing. */
static int list_processors(const uint8_t *mask, int node, int *out) {
    hwloc_topology_t topology;
    int n = 0;
    if (hwloc_topology_init(&topology) != 0) return 0;
    if (hwloc_topology_load(topology) == 0) {
        const hwloc_obj_t near =
            node >= 0 ? hwloc_get_numanode_obj_by_os_index(topology, (unsigned)node) : NULL;
        hwloc_obj_t pu = NULL;
        while ((pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu))) {
            const unsigned p = pu->os_index;
            if (p >= MAX_PROCESSORS || !has(mask, (int)p)) continue;
            if (node >= 0 && (!near || !hwloc_bitmap_isset(near->cpuset, p))) continue;
            out[n++] = (int)p;
        }
    }
    hwloc_topology_destroy(topology);
    return n;
}

/* Part `i` of `n` of a list. */
static void take_part(const int *list, int n_list, int i, int n, uint8_t *out) {
    memset(out, 0, SL_HOST_MASK_BYTES);
    for (int k = n_list * i / n; k < n_list * (i + 1) / n; k++) add(out, list[k]);
}

int sl_cores_divide(const sl_cores_rank *ranks, int n_ranks, int rank,
                    uint8_t out[SL_HOST_MASK_BYTES]) {
    int list[MAX_PROCESSORS], before = 0, n_near = 0, all_have_gpus = 1;
    memcpy(out, ranks[rank].mask, SL_HOST_MASK_BYTES);
    for (int r = 0; r < n_ranks; r++) {
        if (memcmp(ranks[r].mask, ranks[rank].mask, SL_HOST_MASK_BYTES) != 0) return 0;
        all_have_gpus &= ranks[r].node >= 0;
        if (ranks[r].node != ranks[rank].node) continue;
        before += r < rank;
        n_near++;
    }
    if (n_ranks < 2) return 0;
    /* All ranks come to the same choice here: parts of nodes and parts of all would overlap. */
    for (int r = 0; all_have_gpus && r < n_ranks; r++) {
        int n_sharers = 0;
        for (int s = 0; s < n_ranks; s++) n_sharers += ranks[s].node == ranks[r].node;
        if (list_processors(ranks[r].mask, ranks[r].node, list) < n_sharers) all_have_gpus = 0;
    }
    if (!all_have_gpus) {
        before = rank;
        n_near = n_ranks;
    }
    const int n = list_processors(ranks[rank].mask, all_have_gpus ? ranks[rank].node : -1, list);
    if (n < n_near) return 0;
    take_part(list, n, before, n_near, out);
    return 1;
}

int sl_cores_bind(const uint8_t mask[SL_HOST_MASK_BYTES]) {
    _Alignas(cpu_set_t) unsigned char set[SL_HOST_MASK_BYTES] = {0};
    for (int p = 0; p < MAX_PROCESSORS; p++) {
        if (has(mask, p)) CPU_SET_S((size_t)p, sizeof set, (cpu_set_t *)(void *)set);
    }
    return sched_setaffinity(0, sizeof set, (cpu_set_t *)(void *)set) == 0;
}

const char *sl_cores_format(const uint8_t mask[SL_HOST_MASK_BYTES], char *buf, size_t buf_bytes) {
    size_t used = 0;
    buf[0] = '\0';
    for (int p = 0; p < MAX_PROCESSORS; p++) {
        char range[32];
        const int first = p;
        if (!has(mask, p)) continue;
        while (p + 1 < MAX_PROCESSORS && has(mask, p + 1)) p++;
        const char *comma = used ? "," : "";
        const int n = first == p ? snprintf(range, sizeof range, "%s%d", comma, p)
                                 : snprintf(range, sizeof range, "%s%d-%d", comma, first, p);
        if (used + (size_t)n + sizeof "..." > buf_bytes) {
            snprintf(buf + used, buf_bytes - used, "...");
            return buf;
        }
        memcpy(buf + used, range, (size_t)n + 1);
        used += (size_t)n;
    }
    return buf;
}
