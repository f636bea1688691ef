/* cuda_pool.h - memory pools: seams between cuda_pool.c (handles, attributes), cuda_pool_space.c (what
 * a pool holds), cuda_pool_share.c (other processes) and the graph memory of cuda_graph_memory.c.
 *
 * A pool takes chunks of physical memory from its card and gives parts of them to stream-ordered
 * allocations. A part that was freed stays with the pool; whole chunks go back to the card when more
 * than the release threshold is held at a synchronisation, or when the pool is trimmed.
 *
 * One lock guards all pools. It is taken after a stream's lock and before the process lock.
 */
#ifndef CGPU_SIM_CUDA_POOL_H
#define CGPU_SIM_CUDA_POOL_H

#include "cuda_internal.h"

/* A pool takes memory from the card in steps of this much, or of the granules of a larger request. */
#define POOL_CHUNK_BYTES (32ull << 20)

/* Whatever cuMemFree and cuMemFreeAsync find under SIM_MEMORY_POOL begins with one of these. */
enum pool_hold_kind { POOL_HOLD_PIECE, POOL_HOLD_IMPORT, POOL_HOLD_GRAPH };
struct pool_hold {
  struct sim_block block;
  enum pool_hold_kind kind;
};

struct pool_chunk;

struct CUmemPoolHandle_st {
  uint32_t magic;
  CUmemPoolProps properties;
  CUdevice device;
  int card;
  bool is_default, imported, destroyed;
  int follow_events, opportunistic, internal_dependencies; /* reuse policies, as the user sets them */
  uint64_t release_threshold;
  uint64_t reserved, reserved_high, used, used_high; /* bytes */
  unsigned live;    /* allocations not yet freed, or freed and not yet done in stream order; imports */
  unsigned exports; /* descriptors that name the pool */
  uint32_t access;  /* bit per card that may reach the memory, beside its own */
  uint32_t read_only_access;
  uint64_t token[2]; /* the same in every process that has imported the pool */
  struct pool_chunk *chunks;
  CUmemoryPool next;
};

/* ---- cuda_pool.c ---- */
void pool_lock(void);
void pool_unlock(void);
/* The pool that a handle names; INVALID_VALUE for what is none. Call with the pool lock held. */
CUresult pool_check(CUmemoryPool handle);
/* Calls `visit` for every pool, imported ones too, with the pool lock held. */
void pool_each(void (*visit)(CUmemoryPool pool, void *argument), void *argument);
/* Ends a destroyed pool once nothing of it is in use. Call with the pool lock held. */
void pool_end_if_unused(CUmemoryPool pool);
/* A pool object of that card with the given properties; not yet visible to anybody. */
CUmemoryPool pool_new(const CUmemPoolProps *properties, int card, CUdevice device);
void pool_publish(CUmemoryPool pool);

/* ---- cuda_pool_space.c; called with the pool lock held, pool_take without ---- */

/* An allocation for work in `stream`: OUT_OF_MEMORY when neither the pool nor the card has room. */
CUresult pool_take(CUmemoryPool pool, CUstream stream, uint64_t bytes, CUdeviceptr *address);
/* Gives whole unused chunks back to the card until at most `keep_bytes` are held, as far as that goes. */
void pool_trim(CUmemoryPool pool, uint64_t keep_bytes);
/* An allocation is over (INVALID_VALUE when it was freed already), */
CUresult pool_free_now(struct pool_hold *hold);
/* or will be when the stream gets there (inside begin/end of the stream). Gives up the pool lock. */
CUresult pool_free_later(struct pool_hold *hold, CUstream stream);
/* Everything that was allocated by streams of the context is over. */
void pool_forget_context(CUmemoryPool pool, CUcontext context);

/* ---- cuda_pool_share.c: allocations of another process's pool, mapped here; same rules ---- */
CUresult pool_import_free_now(struct pool_hold *hold);
CUresult pool_import_free_later(struct pool_hold *hold, CUstream stream);
void pool_imports_forget_context(CUcontext context);

/* ---- cuda_graph_memory.c: allocations of graph nodes; same rules ---- */
CUresult graph_memory_free_now(struct pool_hold *hold);
CUresult graph_memory_free_later(struct pool_hold *hold, CUstream stream);
void graph_memory_forget_context(CUcontext context);
void graph_memory_trim(int card); /* gives back what no live allocation uses */

#endif
