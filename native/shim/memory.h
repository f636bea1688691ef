/* memory.h - what the memory hooks have between them and the account; beyond the seams of core.h. */
#ifndef CGPU_SHIM_MEMORY_H
#define CGPU_SHIM_MEMORY_H

#include "core.h"

#define CG_GRANULE_BYTES (2ull << 20) /* what the card is given out in */
#define CG_SMALL_BYTES (1ull << 20)   /* below this the driver packs blocks into shared granules */

/* A driver older than the function; see submit.c. */
#define CG_DRIVER(name)                            \
  const struct cg_driver *driver = cg_driver();    \
  if (!driver || !driver->name) return CUDA_ERROR_NOT_FOUND

/* Up to whole granules; UINT64_MAX, which no quota fits, where that overflows. */
static inline uint64_t cg_granules(uint64_t bytes) {
  return bytes > UINT64_MAX - CG_GRANULE_BYTES ? UINT64_MAX : (bytes + CG_GRANULE_BYTES - 1) & ~(CG_GRANULE_BYTES - 1);
}

/* ---- region.c ---- */

bool cg_is_tenant(void);       /* the region is mapped; takes no slot */
bool cg_refuses_managed(void); /* CGPU_TENANT_REFUSE_MANAGED */
int cg_gpu_of_location(const CUmemLocation *location); /* the GPU row; -1: the host, or not the tenant's */

/* ---- account.c ---- */

/* As cg_reserve and cg_return, for what has no size of its own (contexts, code, heaps, padding): the
 * agent may find an estimate too high and have part of it returned early, by `surplus` in grants. */
enum cg_verdict cg_reserve_estimate(int gpu, uint64_t bytes);
void cg_return_estimate(int gpu, uint64_t bytes);

/* As cg_reserve, where a refusal is not the last word: it is counted by cg_note_oom. */
enum cg_verdict cg_try_reserve(int gpu, uint64_t bytes);
void cg_note_oom(int gpu);

/* Charges what the card holds already, whatever the quota: the truth is not refused. */
void cg_charge_truth(int gpu, uint64_t bytes);

/* From now on this process has something in stock that can be given back before a reserve is refused. */
void cg_stocks_watch(void);
/* Gives it back, with no lock held; true: use has become less. (stocks.c) */
bool cg_stocks_relieve(int gpu);

void cg_note_managed(int gpu, int64_t bytes); /* part of what is charged */
void cg_note_contexts(int gpu, int change);
void cg_note_denied(int gpu);                 /* a call refused for another reason than the quota */

/* ---- blocks.c ---- */

#define CG_MANAGED_REFERENCE 1 /* `references` of a CG_KIND_POINTER that is managed memory */

/* Kinds beyond those of core.h: what this process shares, and charges that outlive their block. Where
 * no charge is meant, the fields are used otherwise. (CG_KIND_IPC: a pointer that was exported.) */
#define CG_KIND_STOCKED ((enum cg_kind)10)  /* key: pointer that a pool gave; bytes: its size; context: the pool */
#define CG_KIND_IMPORTED ((enum cg_kind)11) /* key: address of another process's block; bytes: digest; references */
#define CG_KIND_OFFERED ((enum cg_kind)12)  /* key: digest; bytes: object; references: descriptor + 1 */
#define CG_KIND_OPENED ((enum cg_kind)13)   /* key: digest; references: how often open here */
#define CG_KIND_EXPORTED ((enum cg_kind)14) /* key: object; freed here, but others may hold it open */
#define CG_KIND_DEFERRED ((enum cg_kind)15) /* key: event; freed in stream order, the event not reached */

bool cg_block_find(enum cg_kind kind, uint64_t key, struct cg_block *found);
/* Adds to `references`, and removes the block when they become 0. The new count; -1: unknown block. */
int cg_block_count(enum cg_kind kind, uint64_t key, int change);
/* One block after another, from *cursor = 0 until 0 is returned. Blocks that come meanwhile may be missed;
 * after a removal begin again. */
uint64_t cg_block_next(enum cg_kind kind, size_t *cursor, struct cg_block *found);
/* Names the blocks of a context otherwise: of one that is being destroyed, lest its handle be reused
 * by another thread before they are dropped. */
void cg_blocks_move_context(CUcontext from, CUcontext to);

/* The granules that a small block lies on: how many of them nobody lay on before, or lies on now. */
unsigned cg_pages_enter(uint64_t address, uint64_t bytes);
unsigned cg_pages_leave(uint64_t address, uint64_t bytes);

/* Leaves a charge to cg_exports_settle: the object goes, its offers remain. False: no memory for that. */
bool cg_block_outlive(uint64_t object, int gpu, uint64_t bytes);

/* Whether a block's charge is an estimate. */
static inline bool cg_kind_estimated(enum cg_kind kind) {
  return kind == CG_KIND_CONTEXT || kind == CG_KIND_MODULE || kind == CG_KIND_LIBRARY || kind == CG_KIND_ARRAY ||
         kind == CG_KIND_MIPMAP;
}

/* Returns the charge of a block that was taken out of the table and is gone from the card. */
void cg_block_return(const struct cg_block *block);

/* Frees a block by the driver's call. It is taken out before: right after the call another thread may
 * get the same handle. */
#define CG_FREE_BLOCK(kind, handle, call)                                            \
  do {                                                                               \
    struct cg_block block_;                                                          \
    bool known_ = cg_block_take(kind, (uint64_t)(uintptr_t)(handle), &block_);       \
    CUresult result_ = call;                                                         \
    if (known_ && result_ == CUDA_SUCCESS) cg_block_return(&block_);                 \
    else if (known_) cg_block_add(&block_);                                          \
    return result_;                                                                  \
  } while (0)

/* ---- stocks.c ---- */

/* Brings the charges of this process's pools on a GPU to what the pools hold now. Cheap without pools. */
void cg_pools_refresh(int gpu);
/* For the hooks of sync: the host has waited, so what was freed on streams may be the card's again. */
void cg_stocks_synchronized(void);

#endif
