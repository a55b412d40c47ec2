#include "store/numa.h"

#include <ctype.h>
#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>

struct sl_numa {
    hwloc_topology_t topology;
    hwloc_obj_t node; /* belongs to the topology */
};

/* Nodes and processors only: caches and devices take longer to find and are not asked for. */
static int load_topology(hwloc_topology_t *out) {
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) return 0;
    if (hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE) != 0 ||
        hwloc_topology_load(topology) != 0) {
        hwloc_topology_destroy(topology);
        return 0;
    }
    *out = topology;
    return 1;
}

sl_numa *sl_numa_open(int node) {
    sl_numa *numa = node >= 0 ? calloc(1, sizeof *numa) : NULL;
    if (!numa) return NULL;
    if (!load_topology(&numa->topology)) {
        free(numa);
        return NULL;
    }
    if (hwloc_get_nbobjs_by_type(numa->topology, HWLOC_OBJ_NUMANODE) > 1)
        numa->node = hwloc_get_numanode_obj_by_os_index(numa->topology, (unsigned)node);
    if (!numa->node) {
        sl_numa_close(numa);
        return NULL;
    }
    return numa;
}

void sl_numa_close(sl_numa *numa) {
    if (!numa) return;
    hwloc_topology_destroy(numa->topology);
    free(numa);
}

int sl_numa_node(const sl_numa *numa) {
    return numa ? (int)numa->node->os_index : -1;
}

int sl_numa_bind(sl_numa *numa, void *memory, size_t bytes) {
    if (!numa) return 0;
    /* Without HWLOC_MEMBIND_STRICT the node is preferred: a full one is no failure. */
    return hwloc_set_area_membind(numa->topology, memory, bytes, numa->node->nodeset,
                                  HWLOC_MEMBIND_BIND, HWLOC_MEMBIND_BYNODESET) == 0;
}

int sl_numa_of_pci(const char *root, const char *bus_id) {
    char path[512], id[32];
    size_t n = 0;
    for (; bus_id[n] && n < sizeof id - 1; n++) id[n] = (char)tolower((unsigned char)bus_id[n]);
    id[n] = '\0';
    const int length = snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s/numa_node", root, id);
    FILE *file = length > 0 && (size_t)length < sizeof path ? fopen(path, "r") : NULL;
    int node = -1;
    if (!file) return -1;
    if (fscanf(file, "%d", &node) != 1 || node < 0) node = -1;
    fclose(file);
    return node;
}
