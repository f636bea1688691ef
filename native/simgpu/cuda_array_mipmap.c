/* cuda_array_mipmap.c - mipmapped arrays: a chain of arrays, each half the size of the one before, in
 * one piece of memory.
 */
#include "cuda_array.h"

#include <stdlib.h>

#include "cuda_process.h"

static void destroy_mipmap(struct sim_owned *owned) {
  struct CUmipmappedArray_st *mipmap = SIM_CONTAINER_OF(owned, struct CUmipmappedArray_st, owned);
  mipmap->magic = 0;
  for (unsigned level = 0; level < mipmap->count; level++)
    mipmap->levels[level].magic = 0;
  if (mipmap->block)
    sim_memory_free(mipmap->block);
  free(mipmap->levels);
  free(mipmap);
}

/* Extents halve down to 1; layers and faces stay. An extent of 0 (no such dimension) stays too. */
static CUDA_ARRAY3D_DESCRIPTOR level_descriptor(const CUDA_ARRAY3D_DESCRIPTOR *first, unsigned level) {
  CUDA_ARRAY3D_DESCRIPTOR descriptor = *first;
  descriptor.Width = first->Width >> level ? first->Width >> level : 1;
  if (first->Height)
    descriptor.Height = first->Height >> level ? first->Height >> level : 1;
  if (first->Depth && (first->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) == 0)
    descriptor.Depth = first->Depth >> level ? first->Depth >> level : 1;
  return descriptor;
}

static unsigned most_levels(const CUDA_ARRAY3D_DESCRIPTOR *descriptor) {
  size_t largest = descriptor->Width > descriptor->Height ? descriptor->Width : descriptor->Height;
  if ((descriptor->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) == 0 && descriptor->Depth > largest)
    largest = descriptor->Depth;
  unsigned levels = 1;
  for (; largest > 1; largest >>= 1)
    levels++;
  return levels;
}

static CUresult lay_out_levels(struct CUmipmappedArray_st *mipmap, unsigned count, CUcontext context) {
  mipmap->levels = calloc(count, sizeof *mipmap->levels);
  if (mipmap->levels == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  mipmap->count = count;
  for (unsigned level = 0; level < count; level++) {
    const CUDA_ARRAY3D_DESCRIPTOR descriptor = level_descriptor(&mipmap->descriptor, level);
    struct CUarray_st *array = &mipmap->levels[level];
    array->base_offset = mipmap->bytes;
    mipmap->bytes += array_lay_out(&descriptor, context, array);
    array->mipmap = mipmap;
  }
  return CUDA_SUCCESS;
}

/* More levels than there can be are clamped to the full chain. */
CUresult CUDAAPI cuMipmappedArrayCreate(CUmipmappedArray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                                        unsigned int numMipmapLevels) {
  CUcontext context;
  CUresult result = sim_allocating_call(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (pHandle == NULL || pMipmappedArrayDesc == NULL || numMipmapLevels == 0)
    return CUDA_ERROR_INVALID_VALUE;
  result = array_check_descriptor(pMipmappedArrayDesc);
  if (result != CUDA_SUCCESS)
    return result;
  struct CUmipmappedArray_st *mipmap = calloc(1, sizeof *mipmap);
  if (mipmap == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  const unsigned most = most_levels(pMipmappedArrayDesc);
  mipmap->magic = SIM_MAGIC_MIPMAP;
  mipmap->descriptor = *pMipmappedArrayDesc;
  mipmap->context = context;
  result = lay_out_levels(mipmap, numMipmapLevels < most ? numMipmapLevels : most, context);
  if (result == CUDA_SUCCESS)
    result = array_memory(context, mipmap->descriptor.Flags, mipmap->bytes, &mipmap->block);
  if (result != CUDA_SUCCESS) {
    free(mipmap->levels);
    free(mipmap);
    return result;
  }
  for (unsigned level = 0; level < mipmap->count; level++)
    mipmap->levels[level].block = mipmap->block;
  sim_own(context, &mipmap->owned, destroy_mipmap);
  *pHandle = mipmap;
  return CUDA_SUCCESS;
}

static CUresult check_handle(CUmipmappedArray mipmap) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  return mipmap && mipmap->magic == SIM_MAGIC_MIPMAP ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult CUDAAPI cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray) {
  CUresult result = check_handle(hMipmappedArray);
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_context_wait(hMipmappedArray->context);
  if (sim_disown(&hMipmappedArray->owned))
    destroy_mipmap(&hMipmappedArray->owned);
  return result;
}

CUresult CUDAAPI cuMipmappedArrayGetLevel(CUarray *pLevelArray, CUmipmappedArray hMipmappedArray, unsigned int level) {
  CUresult result = check_handle(hMipmappedArray);
  if (result == CUDA_SUCCESS && (pLevelArray == NULL || level >= hMipmappedArray->count))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *pLevelArray = &hMipmappedArray->levels[level];
  return result;
}

CUresult CUDAAPI cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *memoryRequirements,
                                                       CUmipmappedArray mipmap, CUdevice device) {
  int card;
  CUresult result = check_handle(mipmap);
  if (result == CUDA_SUCCESS)
    result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (memoryRequirements == NULL || (mipmap->descriptor.Flags & CUDA_ARRAY3D_DEFERRED_MAPPING) == 0)
    return CUDA_ERROR_INVALID_VALUE;
  const uint64_t step = ARRAY_ALIGNMENT_BYTES;
  *memoryRequirements =
      (CUDA_ARRAY_MEMORY_REQUIREMENTS){.size = (mipmap->bytes + step - 1) / step * step, .alignment = step};
  return CUDA_SUCCESS;
}
