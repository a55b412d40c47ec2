/* Fuzz entry of policy files: any text.  What is accepted comes back the same when it is written
 * and read again; what is refused changes nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "policy_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_policy(const sl_policy *policy) {
    sl_json_text text = {0}, again = {0};
    sl_policy same;
    sl_policy_init(&same);
    sl_policy_print(policy, "a model", NULL, &text);
    if (sl_json_status(&text) != SL_OK) abort();
    if (sl_policy_parse(text.data, text.n_bytes, "again", &same) != SL_OK) abort();
    sl_policy_print(&same, "a model", NULL, &again);
    if (text.n_bytes != again.n_bytes || memcmp(text.data, again.data, text.n_bytes) != 0) abort();
    sl_json_free(&text);
    sl_json_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sl_policy policy, before;
    sl_policy_init(&policy);
    memcpy(&before, &policy, sizeof policy);
    if (sl_policy_parse((const char *)data, size, "policy.json", &policy) == SL_OK)
        use_policy(&policy);
    else if (memcmp(&before, &policy, sizeof policy) != 0)
        abort();
    return 0;
}
