/* A long run takes no more memory than a short one: heap, descriptors and the table of transfers
 * stay as they are over a thousand blocks.  Any number of ranks from 2. */
#include <dirent.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_backend.h"
#include "engine/engine.h"
#include "mpi_test.h"
#include "transport_mpi.h"

enum { WARM_BLOCKS = 300, N_BLOCKS = 1000, MOST_GROWTH_BYTES = 16 << 10 };
enum { PROMPT = 40, GENERATE = 12, N_REQUESTS = 24 };

static const char model[] = SL_TESTS_DIR "/golden/models/qwen2";

/* Sanitizers have allocators of their own. */
size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t heap_bytes(void) {
    if (__sanitizer_get_current_allocated_bytes) return __sanitizer_get_current_allocated_bytes();
    return mallinfo2().uordblks + mallinfo2().hblkhd;
}

static int count_descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;
    CHECK(dir != NULL);
    while (readdir(dir)) n++;
    closedir(dir);
    return n;
}

static void submit_all(sl_engine *e) {
    for (int i = 0; i < N_REQUESTS; i++) {
        int32_t prompt[PROMPT];
        for (int j = 0; j < PROMPT; j++) prompt[j] = (i * 31 + j * 7) % 97;
        const sl_engine_request r = {.prompt = prompt,
                                     .n_prompt = PROMPT - i,
                                     .max_tokens = 1 + i % GENERATE,
                                     .n = 1 + i % 2,
                                     .sampling = {.top_p = 1, .repetition_penalty = 1}};
        uint64_t id;
        CHECK_OK(sl_engine_submit(e, &r, &id));
    }
}

/* What a rank has taken, at moments that are alike: the first rank between two rounds of requests,
 * the others between blocks. */
typedef struct {
    size_t heap_bytes;
    int n_descriptors, n_places;
    uint64_t n_blocks;
} snapshot;

static snapshot look(const sl_engine *e, const sl_transport *t) {
    sl_engine_stats s;
    sl_engine_get_stats(e, &s);
    return (snapshot){heap_bytes(), count_descriptors(), sl_transport_mpi_n_places(t), s.n_blocks};
}

static void run(sl_engine *e, const sl_transport *t, snapshot *warm, snapshot *last) {
    const int is_first = t->rank == 0;
    int done = 0, n_open = 0;
    memset(warm, 0, sizeof *warm);
    while (!done) {
        if (is_first && n_open == 0) {
            *last = look(e, t);
            if (warm->n_blocks == 0 && last->n_blocks >= WARM_BLOCKS) *warm = *last;
            if (warm->n_blocks > 0 && last->n_blocks >= warm->n_blocks + N_BLOCKS) {
                sl_engine_finish(e);
            } else {
                submit_all(e);
                n_open = N_REQUESTS;
            }
        }
        CHECK_OK(sl_engine_step(e, &done));
        const sl_engine_result *res = NULL;
        while (is_first && sl_engine_take(e, &res) == SL_OK && res) {
            n_open--;
            sl_engine_release(e, res);
        }
        if (is_first || done) continue;
        *last = look(e, t);
        if (warm->n_blocks == 0 && last->n_blocks >= WARM_BLOCKS) *warm = *last;
    }
}

int main(int argc, char **argv) {
    sl_mpi_info info;
    sl_source *source = NULL;
    sl_transport *t = NULL;
    sl_backend *be = NULL;
    sl_engine *e = NULL;
    const sl_cpu_options options = {.n_threads = 2};
    CHECK_OK(sl_mpi_open(&argc, &argv, &info));
    mpi_test_rank = info.rank;
    CHECK_OK(sl_source_open(model, 0, &source));
    if (info.n_ranks > sl_source_config(source)->n_layers) {
        if (info.rank == 0) printf("skipped: %d ranks are more than layers\n", info.n_ranks);
        sl_source_close(source);
        sl_mpi_info_free(&info);
        sl_mpi_close();
        return 77;
    }
    CHECK_OK(sl_transport_open_mpi(&t));
    CHECK_OK(sl_cpu_backend_open(&options, &be));
    sl_policy policy;
    sl_policy_init(&policy);
    policy.cpu_budget_bytes = 64 << 20;
    policy.micro_batch = 2;
    policy.num_micro_batches = 2;
    policy.max_rows = 16;
    CHECK_OK(sl_engine_open(source, be, t, &policy, NULL, &e));
    sl_source_close(source);

    snapshot warm, last;
    run(e, t, &warm, &last);
    printf("rank %d: %zu bytes after %llu blocks, %zu after %llu\n", info.rank, warm.heap_bytes,
           (unsigned long long)warm.n_blocks, last.heap_bytes, (unsigned long long)last.n_blocks);
    CHECK_THAT(last.n_blocks >= warm.n_blocks + N_BLOCKS && warm.n_blocks >= WARM_BLOCKS,
               "only %llu blocks", (unsigned long long)last.n_blocks);
    CHECK_THAT(last.heap_bytes <= warm.heap_bytes + MOST_GROWTH_BYTES,
               "%zu bytes of heap after %llu blocks, %zu after %llu", warm.heap_bytes,
               (unsigned long long)warm.n_blocks, last.heap_bytes,
               (unsigned long long)last.n_blocks);
    CHECK_THAT(last.n_descriptors == warm.n_descriptors, "%d descriptors, then %d",
               warm.n_descriptors, last.n_descriptors);
    CHECK_THAT(last.n_places <= warm.n_places + 4, "%d transfers at once, then %d", warm.n_places,
               last.n_places);

    sl_engine_close(e);
    sl_backend_close(be);
    sl_transport_close(t);
    sl_mpi_info_free(&info);
    sl_mpi_close();
    return 0;
}
