/* From logits on the device to tokens: the kernel, or the host's sampler for what it lacks. */
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "cuda/cuda_check.h"
#include "cuda/cuda_state.h"

_Static_assert((int)SL_CUDA_MAX_TOP == (int)SL_MAX_LOGPROBS, "alternatives of a choice");
_Static_assert((int)SL_CUDA_MAX_BAN == (int)SL_MAX_STOP_IDS, "banned ids of a choice");

static sl_cuda_ask ask_of(const sl_choice_ask *ask) {
    const sl_sampling *s = ask->sampling;
    sl_cuda_ask a = {.temperature = s->temperature,
                     .top_k = s->top_k,
                     .top_p = s->top_p,
                     .min_p = s->min_p,
                     .target = ask->target,
                     .n_top = s->n_logprobs > 0 ? s->n_logprobs : 0,
                     .logprobs = s->n_logprobs >= 0,
                     .n_ban = ask->target < 0 && ask->step < s->min_tokens ? s->n_ban : 0};
    if (ask->target < 0) a.unit = sl_rng_unit(sl_rng_at(s->key, (uint64_t)ask->step));
    memcpy(a.ban, s->ban, (size_t)a.n_ban * sizeof *a.ban);
    return a;
}

static sl_status answer_to(const sl_cuda_answer *a, const sl_choice_ask *ask, int vocab,
                           sl_choice *out) {
    if (a->bad >= 0)
        return SL_FAIL(SL_ERR_DEVICE, "the logit of token %d is %f: the model's output is broken",
                       (int)a->bad, (double)a->bad_value);
    if (a->bad == -2)
        return SL_FAIL(SL_ERR_DEVICE, "all %d logits are -inf: the model's output is broken",
                       vocab);
    if (a->id < 0)
        return SL_FAIL(SL_ERR_ARG, "sampler: the %d banned ids leave none of %d tokens",
                       ask->sampling->n_ban, vocab);
    sl_choice choice = {.id = a->id, .logprob = a->logprob, .n_top = a->n_top};
    for (int i = 0; i < a->n_top; i++)
        choice.top[i] = (sl_logprob){a->top_id[i], a->top_logprob[i]};
    *out = choice;
    return SL_OK;
}

/* Room for one row; grown once for a vocabulary. */
static sl_status reserve_row(sl_cuda *cuda, int vocab) {
    if (vocab <= cuda->logits_room) return SL_OK;
    free(cuda->logits_row);
    free(cuda->logits_scratch);
    cuda->logits_room = 0;
    cuda->logits_row = malloc((size_t)vocab * sizeof *cuda->logits_row);
    cuda->logits_scratch = malloc(sl_sampler_scratch_bytes(vocab));
    if (!cuda->logits_row || !cuda->logits_scratch)
        return SL_FAIL(SL_ERR_NOMEM, "cuda backend: no host memory for %d logits", vocab);
    cuda->logits_room = vocab;
    return SL_OK;
}

static sl_status choose_on_host(sl_cuda *cuda, const float *logits, int vocab,
                                const sl_choice_ask *ask, sl_choice *out) {
    SL_TRY(reserve_row(cuda, vocab));
    SL_TRY(SL_CUDA(cudaMemcpyAsync(cuda->logits_row, logits, (size_t)vocab * sizeof *logits,
                                   cudaMemcpyDeviceToHost, sl_cuda_compute(cuda)),
                   "copy a row of logits"));
    SL_TRY(SL_CUDA(cudaStreamSynchronize(sl_cuda_compute(cuda)), "compute logits"));
    return sl_sampler_choose(cuda->logits_row, vocab, ask, cuda->logits_scratch, out);
}

/* Queues the choice of n rows, and the way of what is asked and answered; `at`: of their places. */
static sl_status queue_choice(sl_cuda *cuda, float *logits, int n, int vocab,
                              const sl_choice_ask *ask, int at) {
    const cudaStream_t stream = sl_cuda_compute(cuda);
    const size_t size = (size_t)n;
    for (int i = 0; i < n; i++) {
        SL_TRY(sl_sampler_check(&ask[i], vocab));
        cuda->ask[at + i] = ask_of(&ask[i]);
        if (sl_choice_is_adjusted(&ask[i]))
            cuda->ask[at + i].n_ban = 0; /* leaves the row as it is */
    }
    SL_TRY(SL_CUDA(cudaMemcpyAsync(cuda->device_ask + at, cuda->ask + at, size * sizeof *cuda->ask,
                                   cudaMemcpyHostToDevice, stream),
                   "copy what is asked of rows"));
    SL_TRY(
        sl_cuda_choose(logits, n, vocab, cuda->device_ask + at, cuda->device_answer + at, stream));
    return SL_CUDA(cudaMemcpyAsync(cuda->answer + at, cuda->device_answer + at,
                                   size * sizeof *cuda->answer, cudaMemcpyDeviceToHost, stream),
                   "copy tokens");
}

/* Penalties and biases need the sequence's tokens: such rows are rare, and the host takes them. */
static sl_status choose_part(sl_cuda *cuda, float *logits, int n, int vocab,
                             const sl_choice_ask *ask, sl_choice *out) {
    SL_TRY(queue_choice(cuda, logits, n, vocab, ask, 0));
    SL_TRY(SL_CUDA(cudaStreamSynchronize(sl_cuda_compute(cuda)), "choose tokens"));
    for (int i = 0; i < n; i++) {
        if (sl_choice_is_adjusted(&ask[i]))
            SL_TRY(
                choose_on_host(cuda, logits + (size_t)i * (size_t)vocab, vocab, &ask[i], &out[i]));
        else
            SL_TRY(answer_to(&cuda->answer[i], &ask[i], vocab, &out[i]));
    }
    return SL_OK;
}

sl_status sl_cuda_op_choose(sl_backend *be, void *logits, int n_rows, int vocab,
                            const sl_choice_ask *ask, sl_choice *out) {
    if (n_rows < 0 || vocab < 1) return SL_FAIL(SL_ERR_ARG, "choose on [%d, %d]", n_rows, vocab);
    if (n_rows > 0 && (!logits || !ask || !out))
        return SL_FAIL(SL_ERR_ARG, "choose on a null buffer");
    for (int done = 0; done < n_rows; done += SL_CUDA_CHOOSE_ROWS) {
        const int left = n_rows - done, n = left < SL_CUDA_CHOOSE_ROWS ? left : SL_CUDA_CHOOSE_ROWS;
        SL_TRY(choose_part(sl_cuda_of(be), (float *)logits + (size_t)done * (size_t)vocab, n, vocab,
                           ask + done, out + done));
    }
    return SL_OK;
}

sl_status sl_cuda_op_choose_begin(sl_backend *be, void *logits, int n_rows, int vocab,
                                  const sl_choice_ask *ask) {
    sl_cuda *cuda = sl_cuda_of(be);
    if (n_rows < 0 || vocab < 1 || n_rows > SL_BEGUN_ROWS - cuda->n_begun)
        return SL_FAIL(SL_ERR_ARG, "choose on [%d, %d] beside %d rows, at most %d", n_rows, vocab,
                       cuda->n_begun, (int)SL_BEGUN_ROWS);
    if (n_rows > 0 && (!logits || !ask)) return SL_FAIL(SL_ERR_ARG, "choose on a null buffer");
    for (int i = 0; i < n_rows; i++)
        if (sl_choice_is_adjusted(&ask[i]))
            return SL_FAIL(SL_ERR_ARG, "row %d is for the host to choose from", i);
    SL_TRY(queue_choice(cuda, logits, n_rows, vocab, ask, SL_CUDA_CHOOSE_ROWS + cuda->n_begun));
    cuda->n_begun += n_rows;
    return SL_OK;
}

sl_status sl_cuda_op_choose_end(sl_backend *be, int n_rows, int vocab, const sl_choice_ask *ask,
                                sl_choice *out) {
    sl_cuda *cuda = sl_cuda_of(be);
    if (n_rows < 0 || n_rows > cuda->n_begun - cuda->n_ended)
        return SL_FAIL(SL_ERR_ARG, "choices of %d rows, %d are under way", n_rows,
                       cuda->n_begun - cuda->n_ended);
    if (n_rows > 0 && (!ask || !out)) return SL_FAIL(SL_ERR_ARG, "choose on a null buffer");
    const sl_cuda_answer *answer = cuda->answer + SL_CUDA_CHOOSE_ROWS + cuda->n_ended;
    cuda->n_ended += n_rows;
    if (cuda->n_ended == cuda->n_begun) cuda->n_ended = cuda->n_begun = 0;
    for (int i = 0; i < n_rows; i++) SL_TRY(answer_to(&answer[i], &ask[i], vocab, &out[i]));
    return SL_OK;
}
