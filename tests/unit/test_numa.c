/* Unit tests of src/store/numa.c, on machines that hwloc makes up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "store/host_memory.h"
#include "store/numa.h"
#include "support/files.h"

static int no_machine(void **state) {
    (void)state;
    return unsetenv("HWLOC_SYNTHETIC");
}

static void a_node_of_several_is_found_by_its_number(void **state) {
    (void)state;
    assert_int_equal(setenv("HWLOC_SYNTHETIC", "pack:2 [numa] pu:4", 1), 0);
    for (int node = 0; node < 2; node++) {
        sl_numa *numa = sl_numa_open(node);
        assert_non_null(numa);
        assert_int_equal(sl_numa_node(numa), node);
        void *memory = NULL;
        assert_int_equal(sl_host_memory_map(1 << 20, numa, "a test", &memory), SL_OK);
        sl_host_memory_touch(memory, 1 << 20, 0);
        sl_host_memory_unmap(memory, 1 << 20);
        sl_numa_close(numa);
    }
}

static void there_is_nothing_to_choose_without_such_a_node(void **state) {
    (void)state;
    assert_int_equal(setenv("HWLOC_SYNTHETIC", "pack:2 [numa] pu:4", 1), 0);
    assert_null(sl_numa_open(2));
    assert_null(sl_numa_open(-1));
    assert_int_equal(setenv("HWLOC_SYNTHETIC", "pack:1 [numa] pu:4", 1), 0);
    assert_null(sl_numa_open(0)); /* the only one */
    assert_int_equal(sl_numa_node(NULL), -1);
    assert_int_equal(sl_numa_bind(NULL, NULL, 0), 0);
    sl_numa_close(NULL);
}

/* Whatever this machine is, memory comes from it. */
static void any_node_of_this_machine_may_be_asked_for(void **state) {
    (void)state;
    for (int node = -1; node < 4; node++) {
        sl_numa *numa = sl_numa_open(node);
        void *memory = NULL;
        assert_int_equal(sl_host_memory_map(4 << 20, numa, "a test", &memory), SL_OK);
        sl_host_memory_touch(memory, 4 << 20, 0);
        assert_int_equal(((unsigned char *)memory)[(4 << 20) - 1], 0);
        sl_host_memory_unmap(memory, 4 << 20);
        sl_numa_close(numa);
    }
}

static void write_node(const char *root, const char *id, const char *text) {
    char path[4096];
    const char *const folders[] = {"sys", "sys/bus", "sys/bus/pci", "sys/bus/pci/devices"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        (void)mkdir(path_in(root, folders[i], path), 0700);
    snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s", root, id);
    REQUIRE(mkdir(path, 0700) == 0);
    snprintf(path, sizeof path, "%s/sys/bus/pci/devices/%s/numa_node", root, id);
    write_bytes(path, text, strlen(text));
}

static void the_node_of_a_pci_device_is_read_from_the_system(void **state) {
    write_node(*state, "0000:3b:00.0", "1\n");
    write_node(*state, "0000:00:06.0", "-1\n");
    write_node(*state, "0000:00:07.0", "");
    assert_int_equal(sl_numa_of_pci(*state, "0000:3B:00.0"), 1); /* as CUDA writes it */
    assert_int_equal(sl_numa_of_pci(*state, "0000:3b:00.0"), 1);
    assert_int_equal(sl_numa_of_pci(*state, "0000:00:06.0"), -1);
    assert_int_equal(sl_numa_of_pci(*state, "0000:00:07.0"), -1);
    assert_int_equal(sl_numa_of_pci(*state, "0000:99:00.0"), -1);
    assert_int_equal(sl_numa_of_pci(*state, ""), -1);
    assert_int_equal(sl_numa_of_pci("", "a bus id that is longer than any that exists"), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_node_of_several_is_found_by_its_number, no_machine),
        cmocka_unit_test_teardown(there_is_nothing_to_choose_without_such_a_node, no_machine),
        cmocka_unit_test(any_node_of_this_machine_may_be_asked_for),
        cmocka_unit_test_setup_teardown(the_node_of_a_pci_device_is_read_from_the_system, make_dir,
                                        remove_dir),
    };
    return cmocka_run_group_tests_name("numa", tests, NULL, NULL);
}
