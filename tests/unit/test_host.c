/* Unit tests of launch/host.c: processors and memory under control groups, from made-up trees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "host.c"

static char root[64];

static int make_root(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/sl-test-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

/* Writes a file below the root, making its folders. */
static void put(const char *path, const char *text) {
    char full[512];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *slash = strchr(full + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(full, 0755);
        *slash = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void memory_without_groups_is_what_the_kernel_says(void **state) {
    (void)state;
    put("proc/meminfo", "MemTotal:       1000 kB\nMemFree: 100 kB\nMemAvailable:    700 kB\n");
    assert_int_equal(sl_host_available_bytes(root), 700 * 1024);
}

static void memory_limit_of_an_outer_group_version_2_counts(void **state) {
    (void)state;
    put("proc/meminfo", "MemAvailable:    700 kB\n");
    put("proc/self/cgroup", "0::/outer/inner\n");
    put("sys/fs/cgroup/outer/inner/memory.max", "max\n");
    put("sys/fs/cgroup/outer/memory.max", "500000\n");
    put("sys/fs/cgroup/outer/memory.current", "200000\n");
    put("sys/fs/cgroup/outer/memory.stat", "anon 150000\ninactive_file 50000\n");
    assert_int_equal(sl_host_available_bytes(root), 350000);
}

static void memory_limit_version_1_counts_where_the_path_is_the_hosts(void **state) {
    (void)state;
    put("proc/meminfo", "MemAvailable:    700 kB\n");
    put("proc/self/cgroup", "5:devices:/x\n4:memory:/docker/abc\n0::/\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n");
    assert_int_equal(sl_host_available_bytes(root), 300000);
}

static void full_group_leaves_nothing(void **state) {
    (void)state;
    put("proc/meminfo", "MemAvailable:    700 kB\n");
    put("proc/self/cgroup", "0::/g\n");
    put("sys/fs/cgroup/g/memory.max", "1000\n");
    put("sys/fs/cgroup/g/memory.current", "2000\n");
    assert_int_equal(sl_host_available_bytes(root), 0);
}

static void memory_of_an_unknown_system_is_zero(void **state) {
    (void)state;
    assert_int_equal(sl_host_available_bytes(root), 0);
}

static void quota_is_the_least_of_all_groups(void **state) {
    (void)state;
    assert_true(sl_host_cpu_quota(root) == 0);
    put("proc/self/cgroup", "0::/a/b\n");
    put("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    assert_true(sl_host_cpu_quota(root) == 0);
    put("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
    assert_true(sl_host_cpu_quota(root) == 1.5);
}

static void quota_of_version_1_counts_and_minus_one_is_none(void **state) {
    (void)state;
    put("proc/self/cgroup", "3:cpu,cpuacct:/a\n");
    put("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
    assert_true(sl_host_cpu_quota(root) == 0);
    put("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "400000\n");
    assert_true(sl_host_cpu_quota(root) == 4);
}

static void processors_of_this_process_are_counted(void **state) {
    (void)state;
    uint8_t mask[SL_HOST_MASK_BYTES];
    const int n = sl_host_processors(0, mask);
    int bits = 0;
    for (int i = 0; i < SL_HOST_MASK_BYTES; i++) bits += __builtin_popcount(mask[i]);
    assert_true(n >= 1);
    assert_int_equal(bits, n);
}

static void processor_name_is_what_the_kernel_says(void **state) {
    (void)state;
    char name[64], few[8];
    sl_host_processor_name(root, name, sizeof name);
    assert_string_equal(name, "unknown processor");
    put("proc/cpuinfo", "processor\t: 0\nmodel name\t: A Processor 9000\nmodel name\t: B\n");
    sl_host_processor_name(root, name, sizeof name);
    assert_string_equal(name, "A Processor 9000");
    sl_host_processor_name(root, few, sizeof few);
    assert_string_equal(few, "A Proce");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(memory_without_groups_is_what_the_kernel_says, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(memory_limit_of_an_outer_group_version_2_counts, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(memory_limit_version_1_counts_where_the_path_is_the_hosts,
                                        make_root, remove_root),
        cmocka_unit_test_setup_teardown(full_group_leaves_nothing, make_root, remove_root),
        cmocka_unit_test_setup_teardown(memory_of_an_unknown_system_is_zero, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(quota_is_the_least_of_all_groups, make_root, remove_root),
        cmocka_unit_test_setup_teardown(quota_of_version_1_counts_and_minus_one_is_none, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(processor_name_is_what_the_kernel_says, make_root,
                                        remove_root),
        cmocka_unit_test(processors_of_this_process_are_counted),
    };
    return cmocka_run_group_tests_name("host", tests, NULL, NULL);
}
