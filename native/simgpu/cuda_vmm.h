/* cuda_vmm.h - seam between the handles (cuda_vmm.c) and the mappings (cuda_vmm_map.c) of the CUDA
 * driver API, "Virtual Memory Management". One lock guards both; it is taken before the process lock.
 */
#ifndef CGPU_SIM_CUDA_VMM_H
#define CGPU_SIM_CUDA_VMM_H

#include "cuda_internal.h"

/* Physical memory of cuMemCreate or an import. It lives until the handle is released as often as it
 * was given out, nothing maps it, and no descriptor names it. */
struct vmm_physical {
  uint32_t magic;
  sg_phys object;
  uint64_t bytes;
  int card;
  CUmemAllocationProp properties;
  unsigned handles, mappings, exports;
};

void vmm_lock(void);
void vmm_unlock(void);

/* With the lock held: the memory that a live handle names, NULL for what is none. */
struct vmm_physical *vmm_physical_of(CUmemGenericAllocationHandle handle);
static inline CUmemGenericAllocationHandle vmm_handle_of(struct vmm_physical *physical) {
  return (CUmemGenericAllocationHandle)(uintptr_t)physical;
}
/* After one of the three counts has gone down. */
void vmm_end_if_unused(struct vmm_physical *physical);

/* With the lock held: the memory that is mapped at the address, NULL when none is. */
struct vmm_physical *vmm_mapped_at(uint64_t address);

#endif
