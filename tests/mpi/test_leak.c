/* A long run takes no more memory than a short one: heap, descriptors and the table of transfers
 * stay as they are over a thousand blocks.  Any number of ranks from 2. */
#include <dirent.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_backend.h"
#include "engine/engine.h"
#include "mpi_test.h"
#include "transport_mpi.h"

enum { WARM_BLOCKS = 300, WINDOW_BLOCKS = 250, N_WINDOWS = 4 };
enum { MOST_LEAST_BYTES = 1 << 10, MOST_GROWTH_BYTES = 256 << 10 };
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

/* Notes what is taken at the first moment of each window. */
static int note(const sl_engine *e, const sl_transport *t, snapshot *at, int n) {
    const snapshot now = look(e, t);
    if (now.n_blocks >= WARM_BLOCKS + (uint64_t)n * WINDOW_BLOCKS && n <= N_WINDOWS) at[n++] = now;
    return n;
}

static int run(sl_engine *e, const sl_transport *t, snapshot at[N_WINDOWS + 1]) {
    const int is_first = t->rank == 0;
    int done = 0, n_open = 0, n = 0;
    while (!done) {
        if (is_first && n_open == 0) {
            n = note(e, t, at, n);
            if (n > N_WINDOWS) {
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
        if (!is_first && !done) n = note(e, t, at, n);
    }
    return n;
}

/* MPI may grow once for good, by a run of buffers when more messages than ever are under way; what
 * leaks grows in every window. */
static void check_growth(const snapshot *at) {
    const snapshot *last = &at[N_WINDOWS];
    size_t least = SIZE_MAX;
    for (int w = 0; w < N_WINDOWS; w++) {
        const size_t before = at[w].heap_bytes, after = at[w + 1].heap_bytes;
        const size_t growth = after > before ? after - before : 0;
        if (growth < least) least = growth;
    }
    printf("rank %d: %zu bytes after %llu blocks, %zu after %llu\n", mpi_test_rank,
           at[0].heap_bytes, (unsigned long long)at[0].n_blocks, last->heap_bytes,
           (unsigned long long)last->n_blocks);
    CHECK_THAT(least <= MOST_LEAST_BYTES, "every %d blocks take %zu bytes more", WINDOW_BLOCKS,
               least);
    CHECK_THAT(last->heap_bytes <= at[0].heap_bytes + MOST_GROWTH_BYTES,
               "%zu bytes of heap, then %zu", at[0].heap_bytes, last->heap_bytes);
    CHECK_THAT(last->n_descriptors == at[0].n_descriptors, "%d descriptors, then %d",
               at[0].n_descriptors, last->n_descriptors);
    CHECK_THAT(last->n_places <= at[0].n_places + 4, "%d transfers at once, then %d",
               at[0].n_places, last->n_places);
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

    snapshot at[N_WINDOWS + 1];
    const int n = run(e, t, at);
    CHECK_THAT(n == N_WINDOWS + 1, "%d windows of %d", n - 1, N_WINDOWS);
    check_growth(at);

    sl_engine_close(e);
    sl_backend_close(be);
    sl_transport_close(t);
    sl_mpi_info_free(&info);
    sl_mpi_close();
    return 0;
}
