#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_BYTES = 64 << 10, PATH_BYTES = 4096 };

int sl_host_processors(pid_t pid, uint8_t mask[SL_HOST_MASK_BYTES]) {
    _Alignas(cpu_set_t) unsigned char set[SL_HOST_MASK_BYTES] = {0};
    memset(mask, 0, SL_HOST_MASK_BYTES);
    if (sched_getaffinity(pid, sizeof set, (cpu_set_t *)(void *)set) != 0) return 0;
    int count = 0;
    for (int p = 0; p < SL_HOST_MASK_BYTES * 8; p++) {
        if (!CPU_ISSET_S((size_t)p, sizeof set, (cpu_set_t *)(void *)set)) continue;
        mask[p / 8] |= (uint8_t)(1u << (p % 8));
        count++;
    }
    return count;
}

/* ---- small files ---- */

/* Reads a file into buf, zero-terminated, cut to fit; 0 if it cannot be read. */
static int read_text(const char *path, char *buf, size_t buf_bytes) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    size_t n = 0;
    while (n + 1 < buf_bytes) {
        const ssize_t got = read(fd, buf + n, buf_bytes - 1 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        n += (size_t)got;
    }
    close(fd);
    buf[n] = '\0';
    return n > 0;
}

/* The number that a file begins with; 0 if there is none ("max" included). */
static int read_number(const char *dir, const char *name, unsigned long long *out) {
    char path[PATH_BYTES + 64], text[64], *end;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!read_text(path, text, sizeof text)) return 0;
    *out = strtoull(text, &end, 10);
    return end != text && text[0] != '-';
}

/* The number after `key` at the start of a line of a text; 0 if there is none. */
static int find_number(const char *text, const char *key, unsigned long long *out) {
    const size_t length = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, length) != 0) continue;
        char *end;
        *out = strtoull(line + length, &end, 10);
        return end != line + length;
    }
    return 0;
}

/* ---- control groups ---- */

/* Called for a group's folder and for each folder above it. */
typedef void (*visit_group)(const char *dir, void *context);

/* The path of this process within the hierarchy of `controller` ("": version 2). */
static int find_group(const char *groups, const char *controller, char *out, size_t out_bytes) {
    for (const char *line = groups; line && *line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        const char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path) continue;
        names++;
        for (const char *name = names; name <= path; name++) {
            const size_t length = strcspn(name, ",:");
            if (length == strlen(controller) && memcmp(name, controller, length) == 0) {
                snprintf(out, out_bytes, "%.*s", (int)strcspn(path + 1, "\n"), path + 1);
                return 1;
            }
            name += length;
        }
    }
    return 0;
}

/* Visits the groups of a version 1 controller and of version 2, innermost first.  A folder that is
 * not there is passed by: a container often sees its own group at the mount's root while the path
 * is the one outside. */
static void visit_groups(const char *root, const char *controller, visit_group visit,
                         void *context) {
    char file[PATH_BYTES], groups[TEXT_BYTES / 8], group[PATH_BYTES / 2], dir[PATH_BYTES];
    snprintf(file, sizeof file, "%s/proc/self/cgroup", root);
    if (!read_text(file, groups, sizeof groups)) return;
    for (int version = 1; version <= 2; version++) {
        if (!find_group(groups, version == 1 ? controller : "", group, sizeof group)) continue;
        for (;;) {
            snprintf(dir, sizeof dir, "%.1024s/sys/fs/cgroup%s%s%s", root, version == 1 ? "/" : "",
                     version == 1 ? controller : "", strcmp(group, "/") == 0 ? "" : group);
            visit(dir, context);
            char *slash = strrchr(group, '/');
            if (!slash || !*group) break;
            *slash = '\0';
        }
    }
}

static void visit_cpu(const char *dir, void *context) {
    double *least = context;
    char path[PATH_BYTES + 64], text[64];
    unsigned long long quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    if (read_text(path, text, sizeof text)) {
        if (sscanf(text, "%llu %llu", &quota, &period) != 2) return;
    } else if (!read_number(dir, "cpu.cfs_quota_us", &quota) ||
               !read_number(dir, "cpu.cfs_period_us", &period)) {
        return;
    }
    if (period == 0 || quota == 0) return;
    const double share = (double)quota / (double)period;
    if (*least == 0 || share < *least) *least = share;
}

double sl_host_cpu_quota(const char *root) {
    double least = 0;
    visit_groups(root, "cpu", visit_cpu, &least);
    return least;
}

typedef struct {
    int known;
    size_t bytes;
} memory_left;

static void take_less(memory_left *left, unsigned long long bytes) {
    if (left->known && bytes >= left->bytes) return;
    left->known = 1;
    left->bytes = (size_t)bytes;
}

static void visit_memory(const char *dir, void *context) {
    unsigned long long limit, used = 0, cached = 0;
    char path[PATH_BYTES + 64], stat[TEXT_BYTES / 8];
    if (read_number(dir, "memory.max", &limit)) {
        read_number(dir, "memory.current", &used);
    } else if (read_number(dir, "memory.limit_in_bytes", &limit)) {
        read_number(dir, "memory.usage_in_bytes", &used);
    } else {
        return;
    }
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    if (read_text(path, stat, sizeof stat) && !find_number(stat, "total_inactive_file ", &cached))
        find_number(stat, "inactive_file ", &cached);
    if (cached > used) cached = used;
    used -= cached;
    take_less(context, limit > used ? limit - used : 0);
}

size_t sl_host_available_bytes(const char *root) {
    char path[PATH_BYTES], text[TEXT_BYTES / 8];
    unsigned long long kib;
    memory_left left = {0};
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_text(path, text, sizeof text) && find_number(text, "MemAvailable:", &kib))
        take_less(&left, kib * 1024);
    visit_groups(root, "memory", visit_memory, &left);
    return left.bytes;
}

void sl_host_processor_name(const char *root, char *buf, size_t buf_bytes) {
    char path[PATH_BYTES], text[TEXT_BYTES / 8];
    snprintf(buf, buf_bytes, "unknown processor");
    snprintf(path, sizeof path, "%s/proc/cpuinfo", root);
    if (!read_text(path, text, sizeof text)) return;
    const char *at = strstr(text, "model name");
    if (at) at = strchr(at, ':');
    if (!at) return;
    at += 1 + strspn(at + 1, " \t");
    const size_t length = strcspn(at, "\n");
    if (length > 0) snprintf(buf, buf_bytes, "%.*s", (int)length, at);
}
