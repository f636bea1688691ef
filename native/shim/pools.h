/* pools.h - memory that the driver keeps in stock: pools, the graph memory of a device, and blocks
 * that are freed in stream order. Charged by what is kept, not by what is handed out. */
#ifndef CGPU_SHIM_POOLS_H
#define CGPU_SHIM_POOLS_H

#include "memory.h"

#define CG_UNCHARGED_GPU 255 /* of a pool whose memory is the host's, or another process's */

/* The stream's device is made current for as long as this lives; null streams: the current one. */
struct cg_stream_scope {
  CUcontext pushed; /* to be popped again; null: nothing */
};
void cg_stream_enter(struct cg_stream_scope *scope, CUstream stream);
void cg_stream_leave(struct cg_stream_scope *scope);

bool cg_capturing(CUstream stream);

/* Waits until the stream has come to what was put into it, or for a second; false: it cannot be known. */
bool cg_stream_wait(CUstream stream);

/* Takes note of a pool; gpu as in cg_gpu_of_device, or CG_UNCHARGED_GPU. */
void cg_pool_note(CUmemoryPool pool, int gpu);
/* The GPU row whose quota a pool is charged to; -1: it is not charged. */
int cg_pool_gpu(CUmemoryPool pool);
/* The next pool of a GPU after *cursor places of the table; null at its end. */
CUmemoryPool cg_pool_next(int gpu, size_t *cursor);
/* Sets the charge of a pool to what it holds now, `spare_bytes` having been reserved for its growth. */
void cg_pool_settle(CUmemoryPool pool, int gpu, uint64_t spare_bytes);
/* What a pool is likely to grow by when it must grow for a block. */
uint64_t cg_pool_growth(CUmemoryPool pool, uint64_t bytes);
/* The pool handed out a block; a call to free it succeeded (block: CG_KIND_STOCKED, already taken). */
void cg_pool_gave(CUmemoryPool pool, CUdeviceptr pointer, uint64_t bytes);
void cg_pool_took(const struct cg_block *block, CUstream stream);
/* Whether the pool holds more than it has handed out, perhaps because no stream has come to the frees. */
bool cg_pool_keeps(CUmemoryPool pool);
/* Before the call that destroys a pool, and after it with what the former returned. */
uint64_t cg_pool_destroying(CUmemoryPool pool);
void cg_pool_destroyed(CUmemoryPool pool, uint64_t name, CUresult result);
/* It was exported, or imported, as the digest. */
void cg_pool_shared(CUmemoryPool pool, uint64_t digest);

/* The block was freed on the stream; its charge is returned when the stream has come to it. */
void cg_free_deferred(const struct cg_block *block, CUstream stream);

/* hooks_graph.c */
void cg_graph_settle(int gpu, uint64_t spare_bytes);
bool cg_graph_trim(int gpu);

#endif
