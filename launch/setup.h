/* setup.h - what `run` and `bench` have in common: options, model, backend, transport, engine.
 *
 * Layer: launch.  May include: all.  Every function is collective under MPI, and every rank comes
 * to the same outcome.
 */
#ifndef SL_LAUNCH_SETUP_H
#define SL_LAUNCH_SETUP_H

#include <stddef.h>
#include <stdint.h>

#include "base/pulse.h"
#include "base/status.h"
#include "commands.h"
#include "engine/engine.h"
#include "job/pace.h"
#include "job/report.h"
#include "job/trace.h"
#include "model/source.h"
#include "model/tokenizer.h"
#include "options.h"
#include "partition_measured.h"
#include "profile.h"
#include "watch.h"
#include "workload.h"

/* Values of the options that SL_SETUP_OPTIONS describes. */
typedef struct {
    const char *model;
    int micro_batch, num_micro_batches, max_rows, blocks_in_flight, max_context;
    int weights; /* index into sl_setup_weights */
    int cache;   /* index into sl_setup_caches */
    size_t cpu_mem_bytes, gpu_mem_bytes, disk_mem_bytes;
    const char *disk_dir;
    sl_option_ints weights_at;
    int backend;             /* index into sl_setup_backends */
    int transport;           /* index into sl_setup_transports */
    sl_option_texts cluster; /* files of machine profiles, for sim */
    int sim_ranks;
    int n_threads;
    uint64_t seed;
    sl_option_ints layers;
    sl_option_ints cache_at, hidden_at, percent;
    int cpu_attention; /* percent */
    double attn_sparsity;
    int no_overlap, no_sharing, two_phase;
    const char *policy_path, *profile_path;
    int plan;    /* sl_setup_wish */
    int quality; /* index into sl_setup_qualities */
    double max_latency_s;
    const char *metrics_path, *report_path, *trace_path;
    double timeout_s; /* silence after which a rank counts as lost */
    double stall_s;   /* in which no rank gets anything done until all are ended; 0: any */
    int quiet;
    /* What a plan expects of the job; set by the command, no options. */
    int expected_prompt_len, expected_gen_len, expected_prompts;
    double patience_s; /* from a failure or a signal until ranks are made to end; set likewise */
} sl_setup_options;

/* In the order of sl_setup_weights and sl_setup_caches. */
enum {
    SL_SETUP_WEIGHTS_STORED,
    SL_SETUP_WEIGHTS_F32,
    SL_SETUP_WEIGHTS_F16,
    SL_SETUP_WEIGHTS_Q8,
    SL_SETUP_WEIGHTS_Q4,
    SL_SETUP_WEIGHTS_AUTO
};
enum {
    SL_SETUP_CACHE_F16,
    SL_SETUP_CACHE_F32,
    SL_SETUP_CACHE_Q8,
    SL_SETUP_CACHE_Q4,
    SL_SETUP_CACHE_AUTO
};

/* Whether the policy is planned where the options leave it open. */
typedef enum { SL_SETUP_PLAN_AUTO, SL_SETUP_PLAN_ALWAYS, SL_SETUP_PLAN_NEVER } sl_setup_wish;

extern const char *const sl_setup_wishes[];    /* "auto", "always", "never" */
extern const char *const sl_setup_qualities[]; /* "f16", "q8", "q4" */

/* Together with what launchers take of their own, the end comes within ten seconds. */
#define SL_SETUP_TIMEOUT_S  5.0
#define SL_SETUP_PATIENCE_S 6.0

/* One layer of a huge model takes minutes on a slow processor or from a slow disk. */
#define SL_SETUP_STALL_S       600.0
#define SL_SETUP_LEAST_STALL_S 1.0

extern const char *const sl_setup_weights[];    /* "stored", "f32", "f16", "q8", "q4", "auto" */
extern const char *const sl_setup_caches[];     /* "f16", "f32", "q8", "q4", "auto" */
extern const char *const sl_setup_backends[];   /* "auto", "cpu", "cuda", "sim" */
extern const char *const sl_setup_transports[]; /* "auto", "mpi", "nccl" */

/* Rows of an option table, for a sl_setup_options called `o`. */
#define SL_SETUP_MODEL_OPTIONS(o)                                                                  \
    {                                                                                              \
        "model", 'm', SL_OPTION_TEXT, &(o).model, "MODEL",                                         \
            "The model: a folder as on the Hugging Face hub, a .gguf file, or dummy:NAME for "     \
            "random "                                                                              \
            "weights of a published size (dummy:opt-30b) or of a config.json (dummy:PATH). "       \
            "Required.",                                                                           \
            0, 0, NULL, NULL                                                                       \
    }

#define SL_SETUP_POLICY_OPTIONS(o)                                                                 \
    {                                                                                              \
        "", 0, SL_OPTION_FLAG, NULL, NULL, "Policy (what is not given is chosen):",                \
        0,  0, NULL,           NULL},                                                              \
        {"policy",                                                                                 \
         0,                                                                                        \
         SL_OPTION_TEXT,                                                                           \
         &(o).policy_path,                                                                         \
         "FILE",                                                                                   \
         "The decisions below from FILE, as sluice plan --save writes them; options that are "     \
         "given come before them.",                                                                \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"profile",                                                                                \
         0,                                                                                        \
         SL_OPTION_TEXT,                                                                           \
         &(o).profile_path,                                                                        \
         "FILE",                                                                                   \
         "Plan the decisions below for the machine of FILE, as sluice profile writes it.",         \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"plan",                                                                                   \
         0,                                                                                        \
         SL_OPTION_CHOICE,                                                                         \
         &(o).plan,                                                                                \
         "auto|always|never",                                                                      \
         "Whether the decisions below are planned when none of them is given. auto: unless the "   \
         "job is small or fits into the fastest memory with room; what this machine can do is "    \
         "measured once for it, which takes half a minute. never: the engine's own choice. "       \
         "Default auto.",                                                                          \
         0,                                                                                        \
         0,                                                                                        \
         sl_setup_wishes,                                                                          \
         NULL},                                                                                    \
        {"max-latency",                                                                            \
         0,                                                                                        \
         SL_OPTION_REAL,                                                                           \
         &(o).max_latency_s,                                                                       \
         "SECONDS",                                                                                \
         "Longest time that a plan may let pass from a request's start to its end, waiting in "    \
         "the "                                                                                    \
         "queue apart. Default: any.",                                                             \
         1e-3,                                                                                     \
         1e9,                                                                                      \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"micro-batch",                                                                            \
         0,                                                                                        \
         SL_OPTION_INT,                                                                            \
         &(o).micro_batch,                                                                         \
         "N",                                                                                      \
         "Sequences that are computed together.",                                                  \
         1,                                                                                        \
         65536,                                                                                    \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"num-micro-batches",                                                                      \
         0,                                                                                        \
         SL_OPTION_INT,                                                                            \
         &(o).num_micro_batches,                                                                   \
         "K",                                                                                      \
         "Micro-batches of a block, which share one reading of the weights.",                      \
         1,                                                                                        \
         4096,                                                                                     \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"max-rows",                                                                               \
         0,                                                                                        \
         SL_OPTION_INT,                                                                            \
         &(o).max_rows,                                                                            \
         "R",                                                                                      \
         "Tokens of a micro-batch: bounds the pieces in which prompts are computed.",              \
         1,                                                                                        \
         1 << 20,                                                                                  \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"blocks-in-flight",                                                                       \
         0,                                                                                        \
         SL_OPTION_INT,                                                                            \
         &(o).blocks_in_flight,                                                                    \
         "B",                                                                                      \
         "Blocks under way; as many as ranks keep a pipeline full.",                               \
         1,                                                                                        \
         1024,                                                                                     \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"max-context",                                                                            \
         0,                                                                                        \
         SL_OPTION_INT,                                                                            \
         &(o).max_context,                                                                         \
         "N",                                                                                      \
         "Longest prompt and output together, in tokens; at most the model's.",                    \
         1,                                                                                        \
         1 << 30,                                                                                  \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"weights",                                                                                \
         0,                                                                                        \
         SL_OPTION_CHOICE,                                                                         \
         &(o).weights,                                                                             \
         "stored|f32|f16|q8|q4|auto",                                                              \
         "Precision of the matrices, converted while they are read; stored keeps that of the "     \
         "checkpoint, q8 and q4 are groups of 64 with a step and a minimum, auto is the "          \
         "plan's choice. Default stored.",                                                         \
         0,                                                                                        \
         0,                                                                                        \
         sl_setup_weights,                                                                         \
         NULL},                                                                                    \
        {"cache",                                                                                  \
         0,                                                                                        \
         SL_OPTION_CHOICE,                                                                         \
         &(o).cache,                                                                               \
         "f16|f32|q8|q4|auto",                                                                     \
         "Precision of the keys and values that are kept; q8 and q4 as above. Default f16.",       \
         0,                                                                                        \
         0,                                                                                        \
         sl_setup_caches,                                                                          \
         NULL},                                                                                    \
        {"quality",                                                                                \
         0,                                                                                        \
         SL_OPTION_CHOICE,                                                                         \
         &(o).quality,                                                                             \
         "f16|q8|q4",                                                                              \
         "Lowest precision that a plan may choose where weights or cache are auto. Default f16.",  \
         0,                                                                                        \
         0,                                                                                        \
         sl_setup_qualities,                                                                       \
         NULL},                                                                                    \
        {"cpu-mem",                                                                                \
         0,                                                                                        \
         SL_OPTION_BYTES,                                                                          \
         &(o).cpu_mem_bytes,                                                                       \
         "SIZE",                                                                                   \
         "Host memory that each rank may use for weights, cache and buffers, such as 16GiB. "      \
         "Default: "                                                                               \
         "80 % of what is available, shared by the ranks of a host.",                              \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"disk-dir",                                                                               \
         0,                                                                                        \
         SL_OPTION_TEXT,                                                                           \
         &(o).disk_dir,                                                                            \
         "DIR",                                                                                    \
         "Folder for weights that do not fit in memory: they are packed into a file there once, "  \
         "which later runs use again, and streamed from it.",                                      \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"disk-mem",                                                                               \
         0,                                                                                        \
         SL_OPTION_BYTES,                                                                          \
         &(o).disk_mem_bytes,                                                                      \
         "SIZE",                                                                                   \
         "Disk space that each rank may use there. Default: 80 % of what is free, shared by the "  \
         "ranks of a host.",                                                                       \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"gpu-mem",                                                                                \
         0,                                                                                        \
         SL_OPTION_BYTES,                                                                          \
         &(o).gpu_mem_bytes,                                                                       \
         "SIZE",                                                                                   \
         "Memory that each rank may use of its GPU, taken whole at the start. Default: 90 % of "   \
         "what is free. With the cpu backend: a part of host memory that stands in for a GPU's, "  \
         "to try placements.",                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"weights-at",                                                                             \
         0,                                                                                        \
         SL_OPTION_INTS,                                                                           \
         &(o).weights_at,                                                                          \
         "GPU,CPU",                                                                                \
         "Percent of the layers' weights that live on the GPU and in host memory, the rest on "    \
         "disk, such as 20,80. Default: as high as they fit.",                                     \
         0,                                                                                        \
         100,                                                                                      \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"cache-at",                                                                               \
         0,                                                                                        \
         SL_OPTION_INTS,                                                                           \
         &(o).cache_at,                                                                            \
         "GPU,CPU",                                                                                \
         "Percent of the sequences whose keys and values live on the GPU and in host memory, the " \
         "rest on disk. Default: all where it is computed.",                                       \
         0,                                                                                        \
         100,                                                                                      \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"hidden-at",                                                                              \
         0,                                                                                        \
         SL_OPTION_INTS,                                                                           \
         &(o).hidden_at,                                                                           \
         "GPU,CPU",                                                                                \
         "The same for hidden states between layers.",                                             \
         0,                                                                                        \
         100,                                                                                      \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"percent",                                                                                \
         0,                                                                                        \
         SL_OPTION_INTS,                                                                           \
         &(o).percent,                                                                             \
         "WG,WC,CG,CC,HG,HC",                                                                      \
         "The three at once, as FlexGen's --percent: weights, cache and hidden states, of each "   \
         "the percent on the GPU and in host memory.",                                             \
         0,                                                                                        \
         100,                                                                                      \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"cpu-attention",                                                                          \
         0,                                                                                        \
         SL_OPTION_INT,                                                                            \
         &(o).cpu_attention,                                                                       \
         "PERCENT",                                                                                \
         "Of the sequences whose cache does not live on the GPU, those whose attention the "       \
         "processors compute while decoding; the cache of the others is copied to the GPU. "       \
         "Default 100.",                                                                           \
         0,                                                                                        \
         100,                                                                                      \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"attn-sparsity",                                                                          \
         0,                                                                                        \
         SL_OPTION_REAL,                                                                           \
         &(o).attn_sparsity,                                                                       \
         "F",                                                                                      \
         "While decoding, take only the values of this share of the keys, those with the largest " \
         "weights of each head: an approximation. Default: all.",                                  \
         1e-6,                                                                                     \
         1,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"no-overlap",                                                                             \
         0,                                                                                        \
         SL_OPTION_FLAG,                                                                           \
         &(o).no_overlap,                                                                          \
         NULL,                                                                                     \
         "Do one thing at a time instead of computing while data moves: for comparison.",          \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"no-prefix-sharing",                                                                      \
         0,                                                                                        \
         SL_OPTION_FLAG,                                                                           \
         &(o).no_sharing,                                                                          \
         NULL,                                                                                     \
         "Compute every prompt as a whole, even where others begin in the same way.",              \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"two-phase",                                                                              \
         0,                                                                                        \
         SL_OPTION_FLAG,                                                                           \
         &(o).two_phase,                                                                           \
         NULL,                                                                                     \
         "Start the sequences of a block together, compute all of their prompts before any "       \
         "generated token, and begin the next block after the last one: for comparison.",          \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"backend",                                                                                \
         0,                                                                                        \
         SL_OPTION_CHOICE,                                                                         \
         &(o).backend,                                                                             \
         "auto|cpu|cuda|sim",                                                                      \
         "What computes: auto takes a GPU where there is one and the program was built with "      \
         "CUDA; sim computes nothing and shows how long the machines of --cluster would take. "    \
         "Default auto.",                                                                          \
         0,                                                                                        \
         0,                                                                                        \
         sl_setup_backends,                                                                        \
         NULL},                                                                                    \
        {"transport",                                                                              \
         0,                                                                                        \
         SL_OPTION_CHOICE,                                                                         \
         &(o).transport,                                                                           \
         "auto|mpi|nccl",                                                                          \
         "Under MPI, how ranks hand on hidden states: nccl from GPU to GPU, where every rank has " \
         "one of its own; mpi through host memory. Default auto: nccl where it can.",              \
         0,                                                                                        \
         0,                                                                                        \
         sl_setup_transports,                                                                      \
         NULL},                                                                                    \
        {"cluster",                                                                                \
         0,                                                                                        \
         SL_OPTION_TEXTS,                                                                          \
         &(o).cluster,                                                                             \
         "FILE",                                                                                   \
         "The profile of a machine (cluster/*.json) to plan for instead of this one's own, and "   \
         "with --backend sim to simulate. Given several times: those of the first rank, the "      \
         "second, ...",                                                                            \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"sim-ranks",                                                                              \
         0,                                                                                        \
         SL_OPTION_INT,                                                                            \
         &(o).sim_ranks,                                                                           \
         "N",                                                                                      \
         "With --backend sim: ranks; the last --cluster stands for those that have none of their " \
         "own. Default: as many as --cluster is given, under mpirun its ranks.",                   \
         1,                                                                                        \
         1024,                                                                                     \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"threads",                                                                                \
         0,                                                                                        \
         SL_OPTION_INT,                                                                            \
         &(o).n_threads,                                                                           \
         "N",                                                                                      \
         "Threads of each rank. Default: the processors that it may run on, divided among the "    \
         "ranks "                                                                                  \
         "that share them.",                                                                       \
         1,                                                                                        \
         4096,                                                                                     \
         NULL,                                                                                     \
         NULL},                                                                                    \
    {                                                                                              \
        "layers", 0, SL_OPTION_INTS, &(o).layers, "A,B,...",                                       \
            "Layers of each rank, in rank order. Default: split evenly by cost.", 1, 1 << 20,      \
            NULL, NULL                                                                             \
    }

#define SL_SETUP_REPORT_OPTIONS(o)                                                                 \
    {"seed",                                                                                       \
     0,                                                                                            \
     SL_OPTION_U64,                                                                                \
     &(o).seed,                                                                                    \
     "S",                                                                                          \
     "Seed of all random choices (of requests without one of their own, and of dummy weights). "   \
     "Default 0.",                                                                                 \
     0,                                                                                            \
     0,                                                                                            \
     NULL,                                                                                         \
     NULL},                                                                                        \
        {"metrics-json",                                                                           \
         0,                                                                                        \
         SL_OPTION_TEXT,                                                                           \
         &(o).metrics_path,                                                                        \
         "FILE",                                                                                   \
         "Write the numbers of the report to FILE as JSON.",                                       \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"report",                                                                                 \
         0,                                                                                        \
         SL_OPTION_TEXT,                                                                           \
         &(o).report_path,                                                                         \
         "FILE.html",                                                                              \
         "Write the report to FILE.html as one page with drawings, for any browser.",              \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"trace",                                                                                  \
         0,                                                                                        \
         SL_OPTION_TEXT,                                                                           \
         &(o).trace_path,                                                                          \
         "FILE",                                                                                   \
         "Write what every queue of every rank was busy with, and when, to FILE, for "             \
         "https://ui.perfetto.dev or chrome://tracing.",                                           \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"timeout",                                                                                \
         0,                                                                                        \
         SL_OPTION_REAL,                                                                           \
         &(o).timeout_s,                                                                           \
         "S",                                                                                      \
         "Under MPI: seconds without a sign of life after which a rank counts as lost, and all "   \
         "end. Default 5.",                                                                        \
         0.2,                                                                                      \
         1e6,                                                                                      \
         NULL,                                                                                     \
         NULL},                                                                                    \
        {"stall-timeout",                                                                          \
         0,                                                                                        \
         SL_OPTION_REAL,                                                                           \
         &(o).stall_s,                                                                             \
         "S",                                                                                      \
         "Seconds in which no rank gets anything done, although all are alive and there is work, " \
         "after which all end; 0: never. It has to be more than one layer takes, to compute or "   \
         "to read. Default 600.",                                                                  \
         0,                                                                                        \
         1e6,                                                                                      \
         NULL,                                                                                     \
         NULL},                                                                                    \
    {                                                                                              \
        "quiet", 'q', SL_OPTION_FLAG, &(o).quiet, NULL, "No progress and no report.", 0, 0, NULL,  \
            NULL                                                                                   \
    }

/* What the first rank knows of each of them. */
typedef struct {
    sl_profile profile;
    double budget_bytes[SL_TIER_COUNT];
} sl_setup_rank;

/* What a run needs; all handles start as NULL. */
typedef struct sl_setup {
    const sl_launch *launch;
    const sl_setup_options *options;
    sl_transport *transport;
    sl_pulse *pulse;         /* of this rank's work */
    sl_watch *watch;         /* NULL: nothing is watched */
    size_t wire_bytes;       /* what it takes of this rank's GPU */
    sl_source *source;       /* closed once the engine is open */
    sl_model_config config;  /* copy of the source's */
    sl_tokenizer *tokenizer; /* first rank only, if wanted and the model has one */
    /* First rank, may be NULL: says what to expect of the job, once the model is known. */
    sl_status (*expect)(const void *user, const struct sl_setup *setup, sl_workload *workload);
    const void *expect_user;
    sl_backend *backend;
    sl_host_attention *host_attention; /* beside a device */
    sl_trace *trace;                   /* NULL: none was asked for */
    sl_timeline *timeline;             /* NULL: neither page nor metrics were asked for */
    sl_report_links *links;            /* first rank, [n_ranks], of the report */
    sl_timeline_rank *timelines;       /* likewise */
    sl_engine *engine;
    char device_name[112]; /* of the GPU, with its place; "" without one */
    sl_policy policy;      /* as chosen */
    sl_workload workload;  /* what a plan expects; the command may set it before sl_setup_open() */
    sl_profile profile;    /* of this rank's machine */
    int has_profile;       /* 1: on all ranks */
    sl_setup_rank *ranks;  /* [n_ranks] first rank, with a profile; owned */
    int is_split;          /* 1: a plan gave layers and weights to unequal ranks */
    int layers[SL_PARTITION_MAX_RANKS];
    sl_shares weights[SL_PARTITION_MAX_RANKS];
    sl_report_plan predicted; /* first rank, with a profile; is_there 0: none */
    char backend_name[80];
    int n_threads;
    double open_s;
} sl_setup;

/* Defaults of the options. */
void sl_setup_options_init(sl_setup_options *options);

/* Opens the transport, and expects the job that the options say; the other parts follow with
 * sl_setup_open(). */
sl_status sl_setup_begin(const sl_launch *launch, const sl_setup_options *options, sl_setup *out);

/* All ranks get SL_OK, or the first failing rank's status and message. */
sl_status sl_setup_agree(const sl_setup *setup, sl_status mine);

/* Opens model, backend and engine, and starts the trace if there is to be one.  with_tokenizer 0: a
 * job of token ids. */
sl_status sl_setup_open(sl_setup *setup, int with_tokenizer, sl_token_callback on_token);

/* Releases everything; legal on a half-open setup. */
void sl_setup_close(sl_setup *setup, sl_status outcome);

/* Fills in the parts of a report that follow from the setup and gathers the ranks' counters, which
 * the caller frees (*ranks_out, first rank only); the rest is valid until close. */
sl_status sl_setup_report(sl_setup *setup, sl_report *report, sl_engine_stats **ranks_out);

/* First rank: writes the report to the metrics file and as a page, as far as asked for. */
sl_status sl_setup_write_report(const sl_setup *setup, const sl_report *report);

/* Writes the trace of all ranks, if there is to be one. */
sl_status sl_setup_write_trace(const sl_setup *setup);

#endif
