/* cuda_green.h - the seam between green contexts and the device resources that they are made of. */
#ifndef CGPU_SIM_CUDA_GREEN_H
#define CGPU_SIM_CUDA_GREEN_H

#include "cuda_internal.h"

/* A descriptor of cuDevResourceGenerateDesc; there until the process ends. */
struct CUdevResourceDesc_st {
  int card;
  unsigned sm_count;
  struct CUdevResourceDesc_st *next;
};

/* Whether the handle is a descriptor of this process. */
bool sim_descriptor_valid(CUdevResourceDesc descriptor);

/* What a context, a view or (with sm_count 0) a whole card has of the type. */
CUresult sim_resource_get(int card, unsigned sm_count, CUdevResourceType type, CUdevResource *resource);

#endif
