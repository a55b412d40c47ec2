/* direct.h - a transport that reaches the memory of devices, for devices whose memory is the
 * host's: what NCCL does on GPUs, without one.
 */
#ifndef SL_TESTS_DIRECT_H
#define SL_TESTS_DIRECT_H

#include "engine/transport.h"

/* Borrows `inner` until it is closed.  A transfer is carried out before the call returns, so one
 * that is queued before the peer is about to send hangs: a test sees it. */
sl_status direct_open(sl_transport *inner, sl_transport **out);

/* Bytes that this rank sent from device to device. */
size_t direct_sent_bytes(const sl_transport *t);

#endif
