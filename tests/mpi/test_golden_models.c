/* Tiny models through a pipeline of MPI ranks: the golden values of HF transformers, and bit for
 * bit what one rank gives, ids and log-probabilities, greedy and sampled.
 *
 * Run with 2, 3 or 4 ranks; a model with fewer layers than ranks is left to the runs with fewer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/source.h"
#include "session.h"
#include "support/direct.h"
#include "support/golden_mix.h"

static const double F32_TOLERANCE = 5e-4; /* as in unit/test_golden_models.c */
static const double F16_TOLERANCE = 2e-2;

static const char *const models[] = {
    "opt",       "opt-350m",     "galactica",  "opt-flat-norms", "llama1",
    "llama-gqa", "llama-biases", "llama3",     "mistral",        "qwen2",
    "qwen3",     "gguf-llama",   "gguf-qwen2", "gguf-qwen3",     "gguf-llama3-k",
};

enum { MAX_RANKS = 8 };

typedef struct {
    int micro_batch, num_micro_batches, max_rows, blocks_in_flight;
    run_arrival arrival;
    sl_dtype cache;
    int uneven; /* the last rank gets all layers that the others leave */
    int wire;   /* how hidden states go: */
} shape;

enum {
    ON_HOST, /* the host computes */
    LOWERED, /* a device computes, they go through host memory */
    DIRECT,  /* from device to device */
    TRAVELS, /* as LOWERED, and they live in host memory between layers */
};
enum { DEVICE_BYTES = 64 << 20 };

static const shape shapes[] = {
    {1, 1, 0, 0, RUN_ALONE, SL_DTYPE_F32, 0, ON_HOST},
    {2, 2, 5, 0, RUN_TRICKLE, SL_DTYPE_F32, 1, ON_HOST},
    {3, 5, 9, 0, RUN_ALL_AT_ONCE, SL_DTYPE_F16, 0, ON_HOST},
    {1, 5, 0, 2, RUN_TRICKLE, SL_DTYPE_F16, 1, ON_HOST},
    {0, 0, 0, 0, RUN_ALL_AT_ONCE, SL_DTYPE_F16, 0, ON_HOST},
    {2, 3, 7, 5, RUN_ALL_AT_ONCE, SL_DTYPE_F32, 0, LOWERED},
    {2, 3, 7, 5, RUN_TRICKLE, SL_DTYPE_F16, 1, DIRECT},
    {1, 4, 5, 9, RUN_ALL_AT_ONCE, SL_DTYPE_F16, 0, DIRECT},
    {3, 2, 6, 3, RUN_ALL_AT_ONCE, SL_DTYPE_F32, 0, TRAVELS},
};

typedef struct {
    golden_set set;
    golden_mix mix;
    run_result piped[GOLDEN_MIX_MAX], single[GOLDEN_MIX_MAX];
} workspace;

static void set_policy(const shape *s, sl_policy *policy) {
    sl_policy_init(policy);
    policy->micro_batch = s->micro_batch;
    policy->num_micro_batches = s->num_micro_batches;
    policy->max_rows = s->max_rows;
    policy->blocks_in_flight = s->blocks_in_flight;
    policy->max_context = 128;
    policy->cache_dtype = s->cache;
}

/* Collective.  Returns the differences that this rank saw; all are seen by the first. */
static int run_shape(const char *name, int n_layers, const shape *s, sl_transport *mpi,
                     sl_transport *loopback, workspace *w) {
    const int first = sl_transport_is_first(mpi);
    int layers[MAX_RANKS];
    char label[256];
    int n_bad = 0;
    snprintf(label, sizeof label, "%s, %d ranks, %s pages, %d x %d sequences, %d rows%s, wire %d",
             name, mpi->n_ranks, s->cache == SL_DTYPE_F16 ? "f16" : "f32", s->num_micro_batches,
             s->micro_batch, s->max_rows, s->uneven ? ", uneven" : "", s->wire);
    for (int r = 0; r < mpi->n_ranks; r++) layers[r] = 1;
    layers[mpi->n_ranks - 1] = n_layers - (mpi->n_ranks - 1);

    run_options options = {.model = w->set.model, .n_threads = 1, .arrival = s->arrival};
    if (first) {
        /* Another shape and other company in time: the results must not know. */
        set_policy(&(shape){3, 1, 16, 1, RUN_ALL_AT_ONCE, s->cache, 0, ON_HOST}, &options.policy);
        if (run_engine(&options, loopback, w->mix.requests, w->mix.n, w->single, NULL) != SL_OK) {
            fprintf(stderr, "%s, one rank: %s\n", label, sl_error_message());
            n_bad++;
        }
    }
    set_policy(s, &options.policy);
    if (s->uneven) options.policy.layers_per_rank = layers;
    if (s->wire != ON_HOST) options.device_bytes = DEVICE_BYTES;
    if (s->wire == TRAVELS) options.policy.hidden.frac[SL_TIER_CPU] = 1.0;
    sl_engine_stats stats = {0};
    sl_transport *wire = mpi;
    if (s->wire == DIRECT && direct_open(mpi, &wire) != SL_OK) abort();
    const sl_status ran = run_engine(&options, wire, first ? w->mix.requests : NULL,
                                     first ? w->mix.n : 0, first ? w->piped : NULL, &stats);
    if (s->wire == DIRECT) {
        const int sends = !sl_transport_is_last(mpi);
        if (ran == SL_OK && (direct_sent_bytes(wire) > 0) != sends) {
            fprintf(stderr, "%s: rank %d sent %zu bytes from its device\n", label, mpi->rank,
                    direct_sent_bytes(wire));
            n_bad++;
        }
        sl_transport_close(wire);
    }
    if (ran != SL_OK) {
        fprintf(stderr, "%s, rank %d: %s\n", label, mpi->rank, sl_error_message());
        n_bad++;
    } else if (s->uneven && stats.last_layer - stats.first_layer != layers[mpi->rank]) {
        fprintf(stderr, "%s: rank %d has layers [%d, %d)\n", label, mpi->rank, stats.first_layer,
                stats.last_layer);
        n_bad++;
    } else if (stats.n_steady_allocs != 0) {
        fprintf(stderr, "%s: rank %d: %llu allocations after warm-up\n", label, mpi->rank,
                (unsigned long long)stats.n_steady_allocs);
        n_bad++;
    }
    if (first && n_bad == 0) {
        n_bad += golden_mix_compare(
            &w->mix, w->piped, s->cache == SL_DTYPE_F16 ? F16_TOLERANCE : F32_TOLERANCE, label);
        for (int i = 0; i < w->mix.n; i++)
            n_bad += run_results_differ(&w->piped[i], &w->single[i], label);
    }
    if (first) {
        run_results_free(w->piped, w->mix.n);
        run_results_free(w->single, w->mix.n);
    }
    return n_bad;
}

/* The ways of hidden states do not depend on the model: every fourth tries them all. */
static int run_model(const char *name, int tries_all, sl_transport *mpi, sl_transport *loopback,
                     workspace *w) {
    char folder[4096];
    sl_source *source = NULL;
    int n_bad = 0;
    snprintf(folder, sizeof folder, "%s/golden/models/%s", SL_TESTS_DIR, name);
    if (golden_load(folder, &w->set) != SL_OK ||
        sl_source_open(w->set.model, 1, &source) != SL_OK) {
        fprintf(stderr, "%s\n", sl_error_message()); /* on every rank alike: the files are shared */
        golden_free(&w->set);
        return 1;
    }
    const int n_layers = sl_source_config(source)->n_layers;
    golden_mix_make(&w->set, 1, sl_source_config(source)->vocab, &w->mix);
    sl_source_close(source);
    if (n_layers >= mpi->n_ranks)
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
            if (tries_all || shapes[i].wire == ON_HOST)
                n_bad += run_shape(name, n_layers, &shapes[i], mpi, loopback, w);
    golden_free(&w->set);
    return n_bad;
}

int main(int argc, char **argv) {
    sl_mpi_info info;
    sl_transport *mpi = NULL, *loopback = NULL;
    int n_bad = 0;
    if (sl_mpi_open(&argc, &argv, &info) != SL_OK || sl_transport_open_mpi(&mpi) != SL_OK ||
        sl_transport_open_loopback(&loopback) != SL_OK || info.n_ranks > MAX_RANKS) {
        fprintf(stderr, "start of %d ranks: %s\n", MAX_RANKS, sl_error_message());
        return EXIT_FAILURE;
    }
    workspace *w = calloc(1, sizeof *w);
    if (!w) return EXIT_FAILURE;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
        n_bad += run_model(models[i], i % 4 == 0, mpi, loopback, w);
    free(w);
    sl_transport_close(loopback);
    sl_transport_close(mpi);
    sl_mpi_info_free(&info);
    sl_mpi_close();
    return n_bad == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
