#include "profile_machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "capacity.h"
#include "cpu/cpu_backend.h"
#include "cpu/cpu_host_attention.h"
#ifdef SL_CUDA
#include "cuda/cuda_backend.h"
#endif
#include "host.h"
#include "setup.h"
#include "version.h"

/* Measuring takes no more than this, so that rates do not follow from how much is free. */
static const size_t MOST_ROOM = (size_t)4 << 30;

/* ---- what it is ---- */

/* Collective.  The hosts' names, ours and that of the rank that we send to. */
static sl_status find_hosts(const sl_profile_ask *ask, sl_machine *m) {
    sl_transport *t = ask->transport;
    sl_status st = SL_OK;
    const size_t each = sizeof m->host;
    char *hosts = calloc((size_t)t->n_ranks, each);
    if (!hosts) st = SL_FAIL(SL_ERR_NOMEM, "%d ranks: out of host memory", t->n_ranks);
    SL_GO(t->ops->agree(t, st));
    if (gethostname(m->host, each - 1) != 0) snprintf(m->host, each, "unknown host");
    SL_GO(t->ops->gather(t, m->host, each, hosts));
    SL_GO(t->ops->broadcast(t, 0, hosts, (size_t)t->n_ranks * each));
    if (!sl_transport_is_last(t)) memcpy(m->next_host, hosts + (size_t)(t->rank + 1) * each, each);

fail:
    free(hosts);
    return st;
}

#ifdef SL_CUDA
/* The kernel module's version, where the system tells it: CUDA itself tells its interface's. */
static void find_module(char *buf, size_t buf_bytes) {
    FILE *file = fopen("/proc/driver/nvidia/version", "r");
    if (!file || !fgets(buf, (int)buf_bytes, file)) buf[0] = '\0';
    buf[strcspn(buf, "\n")] = '\0';
    if (file) fclose(file);
}

static sl_status find_gpu(const sl_profile_ask *ask, int n_devices, sl_machine *m) {
    const sl_capacity_gpu gpu = sl_capacity_gpu_of(ask->launch, n_devices);
    sl_cuda_identity identity;
    char module[160];
    size_t free_bytes;
    SL_TRY(sl_cuda_identify(gpu.device, &identity));
    SL_TRY(sl_cuda_free_bytes(gpu.device, &free_bytes));
    m->gpu = gpu.device;
    m->gpu_bytes = sl_capacity_gpu_bytes(&gpu, free_bytes);
    if (ask->gpu_mem_bytes > free_bytes) {
        char wanted[32], is_free[32];
        return SL_FAIL(SL_ERR_ARG, "--gpu-mem: found %s, expected at most the %s that are free",
                       sl_bytes_format(ask->gpu_mem_bytes, wanted, sizeof wanted),
                       sl_bytes_format(free_bytes, is_free, sizeof is_free));
    }
    if (ask->gpu_mem_bytes) m->gpu_bytes = ask->gpu_mem_bytes;
    snprintf(m->device, sizeof m->device, "%s", identity.name);
    find_module(module, sizeof module);
    snprintf(m->driver, sizeof m->driver, "CUDA %d, driver %d, %s, shared by %d", identity.runtime,
             identity.driver, module, gpu.n_sharing);
    return SL_OK;
}
#endif

static sl_status find_device(const sl_profile_ask *ask, sl_machine *m) {
    const char *wanted = sl_setup_backends[ask->backend];
    m->gpu = -1;
#ifdef SL_CUDA
    const int n_devices = strcmp(wanted, "cpu") == 0 ? 0 : sl_cuda_device_count();
    if (strcmp(wanted, "cuda") == 0 && n_devices == 0)
        return SL_FAIL(SL_ERR_DEVICE, "--backend cuda: no CUDA device is found");
    if (n_devices > 0) return find_gpu(ask, n_devices, m);
#else
    if (strcmp(wanted, "cuda") == 0)
        return SL_FAIL(SL_ERR_ARG, "--backend cuda: this program was built without CUDA");
#endif
    if (ask->gpu_mem_bytes) {
        snprintf(m->device, sizeof m->device, "stand-in in host memory");
        m->gpu_bytes = ask->gpu_mem_bytes;
    }
    return SL_OK;
}

static sl_status find_capacities(const sl_profile_ask *ask, sl_machine *m) {
    m->cpu_bytes = ask->cpu_mem_bytes;
    if (m->cpu_bytes == 0) SL_TRY(sl_capacity_cpu(ask->launch, &m->cpu_bytes));
    if (!ask->disk_dir) return SL_OK;
    SL_TRY(sl_capacity_disk(ask->launch, ask->disk_dir, &m->disk_bytes));
    if (ask->disk_mem_bytes) m->disk_bytes = ask->disk_mem_bytes;
    return SL_OK;
}

sl_status sl_machine_find(const sl_profile_ask *ask, sl_machine *out) {
    sl_machine m = {.n_threads = ask->n_threads};
    SL_TRY(find_hosts(ask, &m));
    if (m.n_threads == 0)
        SL_TRY(sl_capacity_threads(
            ask->launch, ask->transport,
            sl_capacity_gpu_node(ask->launch, strcmp(sl_setup_backends[ask->backend], "cpu") == 0),
            ask->quiet, &m.n_threads));
    sl_host_processor_name("", m.processor, sizeof m.processor);
    sl_status st = find_device(ask, &m);
    if (st == SL_OK) st = find_capacities(ask, &m);
    SL_TRY(ask->transport->ops->agree(ask->transport, st));
    m.n_host_threads = m.device[0] && m.n_threads > 1 ? m.n_threads - 1 : m.n_threads;
    *out = m;
    return SL_OK;
}

/* ---- what rates depend on ---- */

/* A power of two: what is free changes a little from run to run. */
static size_t room_of(size_t bytes) {
    size_t room = MOST_ROOM;
    while (room > bytes && room > 1) room /= 2;
    return room;
}

size_t sl_machine_device_room(const sl_machine *m) {
    return room_of(m->gpu_bytes);
}

size_t sl_machine_host_room(const sl_machine *m) {
    return room_of(m->cpu_bytes);
}

void sl_machine_key(const sl_machine *m, const sl_profile_ask *ask,
                    char key[SL_MACHINE_KEY_BYTES]) {
    struct stat dir = {0};
    if (ask->disk_dir && stat(ask->disk_dir, &dir) != 0) dir.st_dev = 0;
    const int n_local = ask->launch->info.n_local_ranks;
    snprintf(key, SL_MACHINE_KEY_BYTES,
             "sluice %s %s, products of three sizes, layers of a busy GPU, %d threads of %d "
             "ranks\nhost %s, %s\nnext %s "
             "by %s\ngpu %s, %s\n"
             "room %zu, %zu\ndisk %d, device %llu\nsample %g\n",
             SL_VERSION, SL_SANITIZERS, m->n_threads, n_local, m->host, m->processor, m->next_host,
             ask->transport->ops->name, m->device, m->driver, sl_machine_device_room(m),
             sl_machine_host_room(m), ask->disk_dir != NULL, (unsigned long long)dir.st_dev,
             ask->sample_s);
}

/* ---- what computes ---- */

static sl_status open_backend(const sl_machine *m, sl_backend **out) {
#ifdef SL_CUDA
    if (m->gpu >= 0) {
        const sl_cuda_options cuda = {.device = m->gpu,
                                      .memory_bytes = sl_machine_device_room(m),
                                      .n_bound = SL_BOUND_PER_BATCH * SL_MEASURE_MICRO_BATCHES};
        return sl_cuda_backend_open(&cuda, out);
    }
#endif
    const sl_cpu_options cpu = {.n_threads = m->n_threads,
                                .device_bytes = m->device[0] ? sl_machine_device_room(m) : 0};
    return sl_cpu_backend_open(&cpu, out);
}

sl_status sl_machine_open(const sl_machine *m, sl_backend **backend_out,
                          sl_host_attention **host_attention_out) {
    const sl_cpu_host_options host = {.n_threads = m->n_host_threads};
    SL_TRY(open_backend(m, backend_out));
    return sl_cpu_host_attention_open(&host, host_attention_out);
}
