/* process.h - what the shim knows about this process, and must not be believed by a forked child.
 *
 * All of it lies in one piece of memory that the kernel zeroes in a child (MADV_WIPEONFORK), so a
 * child starts unregistered, with nothing charged and every lock free, however it was forked. On
 * kernels before 4.14 a pthread_atfork handler zeroes it instead.
 */
#ifndef CGPU_SHIM_PROCESS_H
#define CGPU_SHIM_PROCESS_H

#include "core.h"
#include "lock.h"
#include "table.h"

#define CG_MAX_DEVICES 64 /* CUDA ordinals whose GPU row is remembered */
#define CG_MAX_KINDS 16   /* of enum cg_kind */

/* What this process has charged on one GPU; units of CGPU_UNIT_BYTES. */
struct cg_holding {
  uint64_t units;          /* all of it: what charge of the own slot says */
  uint64_t estimate_units; /* the part of it that was estimated, less surplus given back */
  uint64_t estimate_asked; /* sum of the estimates of what is alive */
  uint64_t managed_bytes;
  uint32_t contexts;
};

struct cg_process {
  _Atomic(bool) registered; /* region below is final; the first thing that anybody reads */
  struct cg_region region;
  struct cg_lock region_lock;
  int driver_version; /* for the slot */

  struct cg_lock account_lock; /* one thread at a time charges for this process; taken before region_lock */
  uint64_t claim;              /* of the own slot, as registered */
  uint64_t lock_checked_ns;    /* when the slot's lock was last seen held */
  struct cg_holding holding[CGPU_MAX_GPUS];
  uint64_t seen_dead_ns[CGPU_MAX_SLOTS]; /* when a sibling was first seen dead; 0: not */

  struct cg_lock block_lock;
  struct cg_table blocks[CG_MAX_KINDS];
  uint64_t objects_outlived;
  struct cg_table pages; /* granules that hold small blocks; taken under block_lock */

  _Atomic(bool) stocks; /* there is, or was, something for cg_pools_refresh to look at */
  struct cg_lock pool_lock;
  _Atomic(uint64_t) pools_destroyed;
  struct cg_table pools;     /* by handle; hooks_pool.c */
  struct cg_graph_memory {
    uint64_t asked_bytes;   /* sum of what instantiated graphs allocate */
    uint64_t charged_bytes; /* for all graph memory of the GPU */
    uint64_t version;       /* changes with the two */
  } graph_memory[CGPU_MAX_GPUS];

  struct cg_lock physical_lock;
  struct cg_table physical; /* generic allocation handles */
  struct cg_table mappings; /* of them, by first address */

  struct cg_lock primary_lock;
  struct cg_primary {
    bool charged;
    CUcontext context;
    uint64_t bytes;
  } primary[CG_MAX_DEVICES];

  _Atomic(uint8_t) gpu_of_device[CG_MAX_DEVICES]; /* GPU row + 1; 0: not known */
};

/* ---- region.c ---- */

extern CG_HIDDEN _Atomic(struct cg_process *) cg_process_memory; /* null: not mapped yet */
struct cg_process *cg_process_create(void);

/* Never null. */
static inline struct cg_process *cg_process(void) {
  struct cg_process *process = atomic_load_explicit(&cg_process_memory, memory_order_acquire);
  return CG_LIKELY(process) ? process : cg_process_create();
}

#endif
