/* request.h - a request on its way through the engine, and its sequences.
 *
 * Layer: engine.  May include: base.  Private to the engine.  Thread safety: one owner.
 */
#ifndef SL_ENGINE_REQUEST_H
#define SL_ENGINE_REQUEST_H

#include <stdint.h>

#include "base/status.h"
#include "engine/engine.h"
#include "engine/prefix.h"

typedef struct sl_request sl_request;

typedef enum {
    SL_SEQ_WAITING, /* not admitted yet */
    SL_SEQ_RUNNING, /* has a seat */
    SL_SEQ_DONE
} sl_sequence_state;

/* One generation of a request. */
typedef struct {
    sl_request *request;
    int choice;
    sl_sequence_state state;
    int slot;         /* seat while RUNNING */
    int n_sent;       /* tokens whose rows have been sent down the pipeline, or were taken over */
    int n_tokens;     /* tokens generated */
    sl_choice *token; /* [max_tokens], allocated on admission */
    int n_held;       /* pages that it holds, shared ones too */
    int n_reserved;   /* those reserved for it alone, those in the tree of prefixes left out */
    int sits_out;     /* 1: no page is left for its next row just now */
    sl_prefix_node *node; /* deepest page of its prompt in the tree; NULL without a tree */
    int n_own_nodes;      /* of those down to it, the ones that it computes */
    uint64_t admission;   /* order of admission: older first */
    sl_finish finish;
} sl_sequence;

struct sl_request {
    sl_engine_request ask; /* prompt and bias point to owned copies */
    uint64_t id;
    int32_t *prompt;
    sl_logit_bias *bias;
    sl_choice *score;      /* [n_prompt] or NULL */
    sl_sequence *sequence; /* [ask.n] */
    int n_sequences;       /* that are computed: 1 when nothing is generated, else ask.n */
    int n_admitted, n_done;
    sl_engine_choice *choices; /* [ask.n], filled when finished */
    sl_engine_result result;
    sl_request *next; /* in a queue */
};

/* Copies a checked request.  Errors: SL_ERR_NOMEM. */
sl_status sl_request_open(const sl_engine_request *ask, uint64_t id, sl_request **out);
void sl_request_close(sl_request *request);

/* Tokens of the prompt whose rows have to be computed: all but the last when nothing is generated,
 * none when nothing is scored either. */
int sl_request_prompt_rows(const sl_request *request);

/* Fills in request->result from its sequences. */
void sl_request_finish(sl_request *request);

/* First-in first-out queue of requests. */
typedef struct {
    sl_request *head, *tail;
    int n;
} sl_request_queue;

void sl_request_push(sl_request_queue *queue, sl_request *request);
sl_request *sl_request_pop(sl_request_queue *queue); /* NULL when empty */

/* Takes the request after `before` (NULL: the first) out of the queue. */
sl_request *sl_request_unlink(sl_request_queue *queue, sl_request *before);

/* Puts all of `from` in order of their prompts, so that those with a common beginning lie together,
 * and appends them to `queue`.  Groups keep the order of their first members. */
void sl_request_append_grouped(sl_request_queue *queue, sl_request_queue *from);

/* Takes the request `id` out of the queue, wherever it stands; NULL if it is not there. */
sl_request *sl_request_remove(sl_request_queue *queue, uint64_t id);

#endif
