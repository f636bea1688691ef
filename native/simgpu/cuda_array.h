/* cuda_array.h - seam between CUDA arrays (cuda_array.c) and mipmapped ones (cuda_array_mipmap.c).
 *
 * The layout is a model: rows are padded to 64 bytes and, from two dimensions on, their number to 8,
 * about what the block-linear layout of a real card takes.
 */
#ifndef CGPU_SIM_CUDA_ARRAY_H
#define CGPU_SIM_CUDA_ARRAY_H

#include "cuda_internal.h"

/* What cuArrayGetMemoryRequirements gives as the alignment of a mapping. */
#define ARRAY_ALIGNMENT_BYTES (64u << 10)

struct CUmipmappedArray_st {
  uint32_t magic;
  CUDA_ARRAY3D_DESCRIPTOR descriptor; /* of level 0 */
  unsigned count;
  struct CUarray_st *levels;
  struct sim_block *block; /* of all levels; NULL when deferred */
  uint64_t bytes;
  CUcontext context;
  struct sim_owned owned;
};

/* INVALID_VALUE for descriptors that CUDA does not allow, NOT_SUPPORTED for what is not modelled. */
CUresult array_check_descriptor(const CUDA_ARRAY3D_DESCRIPTOR *descriptor);
/* Fills in everything that follows from the descriptor, and how many bytes the array takes. */
uint64_t array_lay_out(const CUDA_ARRAY3D_DESCRIPTOR *descriptor, CUcontext context, struct CUarray_st *array);
/* Room for the data of an array, none when it is deferred. */
CUresult array_memory(CUcontext context, unsigned flags, uint64_t bytes, struct sim_block **block);

#endif
