/* cuda_share.h - file descriptors that stand for an object of the simulated card.
 *
 * cuMemExportToShareableHandle and cuMemPoolExportToShareableHandle give the user a descriptor that
 * may be passed to other processes (SCM_RIGHTS, inheritance). As on a real driver the exported object
 * lives until the last copy of that descriptor is closed, wherever it is.
 */
#ifndef CGPU_SIM_CUDA_SHARE_H
#define CGPU_SIM_CUDA_SHARE_H

#include <stdbool.h>
#include <stdint.h>

#include "card.h"

enum sim_share_kind { SIM_SHARE_PHYSICAL = 1, SIM_SHARE_POOL };

struct sim_share { /* what the descriptor carries; the same in every process of the machine */
  uint32_t magic;
  uint32_t kind;
  int32_t card;      /* of the machine, not an ordinal of the exporter */
  sg_phys object;    /* SIM_SHARE_PHYSICAL */
  uint64_t bytes;    /* SIM_SHARE_PHYSICAL: size of the object */
  uint64_t token[2]; /* SIM_SHARE_POOL: which pool, see sim_share_token */
};

/* A descriptor (close-on-exec unset, as the real driver gives it) that carries the record. `closed` is
 * called with `argument`, on a thread of the driver, once every copy of it is closed. Returns the
 * descriptor, or -1 for want of descriptors or memory; then `closed` is never called. */
int sim_share_export(const struct sim_share *record, void (*closed)(void *argument), void *argument);

/* Reads the record without consuming it; false when the descriptor carries none of that kind. */
bool sim_share_import(int descriptor, enum sim_share_kind kind, struct sim_share *record);

/* A value that no other object of any process of this machine has, */
void sim_share_token(uint64_t token[2]);
/* and one that no other process has, whatever PID namespaces there are. */
uint64_t sim_share_process(void);

#endif
