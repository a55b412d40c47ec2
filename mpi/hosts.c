#include "hosts.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

void sl_hosts_key(char key[SL_HOST_KEY_BYTES]) {
    char host[256] = "", boot[48] = "";
    if (gethostname(host, sizeof host - 1) != 0) snprintf(host, sizeof host, "unknown");
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (f) {
        if (!fgets(boot, sizeof boot, f)) boot[0] = '\0';
        fclose(f);
    }
    boot[strcspn(boot, "\n")] = '\0';
    memset(key, 0, SL_HOST_KEY_BYTES); /* travels between ranks as a whole */
    snprintf(key, SL_HOST_KEY_BYTES, "%s/%s", host, boot);
}

void sl_hosts_local_rank(const char (*keys)[SL_HOST_KEY_BYTES], int n_ranks, int rank,
                         int *local_rank_out, int *n_local_ranks_out) {
    int local_rank = 0, n_local = 0;
    for (int r = 0; r < n_ranks; r++) {
        if (strncmp(keys[r], keys[rank], SL_HOST_KEY_BYTES) != 0) continue;
        local_rank += r < rank;
        n_local++;
    }
    *local_rank_out = local_rank;
    *n_local_ranks_out = n_local;
}
