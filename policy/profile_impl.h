/* profile_impl.h - the keys of a machine profile: what the parts of policy/profile share.
 *
 * Layer: policy.  May include: src.  Thread safety: constant data.
 */
#ifndef SL_POLICY_PROFILE_IMPL_H
#define SL_POLICY_PROFILE_IMPL_H

#include "profile.h"

typedef enum {
    SL_KEY_TEXT,   /* char[] */
    SL_KEY_COUNT,  /* int */
    SL_KEY_NUMBER, /* double */
    SL_KEY_CURVE,  /* sl_curve */
    SL_KEY_CURVES, /* sl_curve[SL_PROFILE_FORMATS] */
} sl_profile_key_kind;

typedef struct {
    const char *name;
    sl_profile_key_kind kind;
    int is_optional;      /* CURVES, NUMBER: without points, or 0, it is not written */
    size_t offset, bytes; /* of the field in sl_profile */
} sl_profile_key;

enum { SL_PROFILE_N_KEYS = 28 };
extern const sl_profile_key sl_profile_keys[SL_PROFILE_N_KEYS];

#endif
