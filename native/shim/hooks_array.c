/* hooks_array.c - arrays and mipmapped arrays: opaque layouts, so their size is an upper bound.
 *
 * The card stores arrays in tiles of 64 bytes by 8 rows; the bound pads to tiles and then to whole
 * granules. Where the driver tells the true size, that is charged instead. Arrays that are created
 * without memory (sparse ones and those whose mapping is deferred) are charged nothing: what is
 * mapped into them has been created, and charged, by cuMemCreate.
 */
#include "memory.h"

#define TILE_BYTES 64u
#define TILE_ROWS 8u
#define WITHOUT_MEMORY (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING)

/* Bytes of one channel. Formats of packed blocks (video, BC) have fewer per element: a bound again. */
static unsigned channel_bytes(CUarray_format format) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
    case CU_AD_FORMAT_UNORM_INT8X1:
    case CU_AD_FORMAT_UNORM_INT8X2:
    case CU_AD_FORMAT_UNORM_INT8X4:
    case CU_AD_FORMAT_SNORM_INT8X1:
    case CU_AD_FORMAT_SNORM_INT8X2:
    case CU_AD_FORMAT_SNORM_INT8X4: return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
    case CU_AD_FORMAT_UNORM_INT16X1:
    case CU_AD_FORMAT_UNORM_INT16X2:
    case CU_AD_FORMAT_UNORM_INT16X4:
    case CU_AD_FORMAT_SNORM_INT16X1:
    case CU_AD_FORMAT_SNORM_INT16X2:
    case CU_AD_FORMAT_SNORM_INT16X4: return 2;
    default: return 4;
  }
}

static uint64_t level_bytes(const CUDA_ARRAY3D_DESCRIPTOR *shape, unsigned level) {
  uint64_t width = shape->Width >> level, height = shape->Height >> level, depth = shape->Depth;
  if (!(shape->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP))) depth >>= level;
  uint64_t row = (width ? width : 1) * channel_bytes(shape->Format) * (shape->NumChannels ? shape->NumChannels : 1);
  uint64_t rows = height ? height : 1, bytes;
  row = (row + TILE_BYTES - 1) / TILE_BYTES * TILE_BYTES;
  if (shape->Height > 1) rows = (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
  if (__builtin_mul_overflow(row, rows, &bytes) || __builtin_mul_overflow(bytes, depth ? depth : 1, &bytes))
    return UINT64_MAX;
  return bytes;
}

struct creation {
  int gpu;
  enum cg_verdict verdict;
  uint64_t bytes;
};

static bool begin(struct creation *creation, const CUDA_ARRAY3D_DESCRIPTOR *shape, unsigned levels) {
  *creation = (struct creation){.gpu = cg_gpu_current(), .verdict = CG_PASS};
  if (!shape || shape->Flags & WITHOUT_MEMORY) return true;
  uint64_t bytes = 0;
  for (unsigned level = 0; level < levels && level < 32; level++)
    if (__builtin_add_overflow(bytes, level_bytes(shape, level), &bytes)) bytes = UINT64_MAX - CG_GRANULE_BYTES + 1;
  creation->bytes = cg_granules(bytes);
  creation->verdict = cg_reserve_estimate(creation->gpu, creation->bytes);
  return creation->verdict != CG_REFUSED;
}

/* Where the driver answers, what it says is what the array takes. */
static void correct(struct creation *creation, CUresult asked, const CUDA_ARRAY_MEMORY_REQUIREMENTS *answer) {
  if (asked != CUDA_SUCCESS || !answer->size || cg_granules(answer->size) >= creation->bytes) return;
  cg_return_estimate(creation->gpu, creation->bytes - cg_granules(answer->size));
  creation->bytes = cg_granules(answer->size);
}

static bool keep(const struct creation *creation, CUresult result, enum cg_kind kind, const void *handle) {
  struct cg_block block = {.key = (uint64_t)(uintptr_t)handle,
                           .bytes = creation->bytes,
                           .kind = (uint8_t)kind,
                           .gpu = (uint8_t)creation->gpu};
  cg_driver()->x_cuCtxGetCurrent(&block.context);
  if (result == CUDA_SUCCESS && cg_block_add(&block)) return true;
  cg_return_estimate(creation->gpu, creation->bytes);
  return false;
}

static CUresult finish_array(struct creation *creation, CUresult result, const CUarray *array) {
  const struct cg_driver *driver = cg_driver();
  CUDA_ARRAY_MEMORY_REQUIREMENTS answer;
  CUdevice device;
  if (creation->verdict != CG_GRANTED) return result;
  if (result == CUDA_SUCCESS && driver->x_cuArrayGetMemoryRequirements && driver->x_cuCtxGetDevice(&device) == CUDA_SUCCESS)
    correct(creation, driver->x_cuArrayGetMemoryRequirements(&answer, *array, device), &answer);
  if (keep(creation, result, CG_KIND_ARRAY, result == CUDA_SUCCESS ? *array : NULL) || result != CUDA_SUCCESS)
    return result;
  driver->cuArrayDestroy(*array);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

CG_EXPORT CUresult cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray) {
  CG_DRIVER(cuArrayCreate_v2);
  struct creation creation;
  CUDA_ARRAY3D_DESCRIPTOR shape = {0};
  if (pAllocateArray)
    shape = (CUDA_ARRAY3D_DESCRIPTOR){.Width = pAllocateArray->Width, .Height = pAllocateArray->Height,
                                      .Format = pAllocateArray->Format, .NumChannels = pAllocateArray->NumChannels};
  if (!begin(&creation, pAllocateArray ? &shape : NULL, 1)) return CUDA_ERROR_OUT_OF_MEMORY;
  return finish_array(&creation, driver->cuArrayCreate_v2(pHandle, pAllocateArray), pHandle);
}

CG_EXPORT CUresult cuArrayCreate(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR_v1 *pAllocateArray) {
  CG_DRIVER(cuArrayCreate);
  struct creation creation;
  CUDA_ARRAY3D_DESCRIPTOR shape = {0};
  if (pAllocateArray)
    shape = (CUDA_ARRAY3D_DESCRIPTOR){.Width = pAllocateArray->Width, .Height = pAllocateArray->Height,
                                      .Format = pAllocateArray->Format, .NumChannels = pAllocateArray->NumChannels};
  if (!begin(&creation, pAllocateArray ? &shape : NULL, 1)) return CUDA_ERROR_OUT_OF_MEMORY;
  return finish_array(&creation, driver->cuArrayCreate(pHandle, pAllocateArray), pHandle);
}

CG_EXPORT CUresult cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray) {
  CG_DRIVER(cuArray3DCreate_v2);
  struct creation creation;
  if (!begin(&creation, pAllocateArray, 1)) return CUDA_ERROR_OUT_OF_MEMORY;
  return finish_array(&creation, driver->cuArray3DCreate_v2(pHandle, pAllocateArray), pHandle);
}

CG_EXPORT CUresult cuArray3DCreate(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR_v1 *pAllocateArray) {
  CG_DRIVER(cuArray3DCreate);
  struct creation creation;
  CUDA_ARRAY3D_DESCRIPTOR shape = {0};
  if (pAllocateArray)
    shape = (CUDA_ARRAY3D_DESCRIPTOR){.Width = pAllocateArray->Width, .Height = pAllocateArray->Height,
                                      .Depth = pAllocateArray->Depth, .Format = pAllocateArray->Format,
                                      .NumChannels = pAllocateArray->NumChannels, .Flags = pAllocateArray->Flags};
  if (!begin(&creation, pAllocateArray ? &shape : NULL, 1)) return CUDA_ERROR_OUT_OF_MEMORY;
  return finish_array(&creation, driver->cuArray3DCreate(pHandle, pAllocateArray), pHandle);
}

CG_EXPORT CUresult cuMipmappedArrayCreate(CUmipmappedArray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                                          unsigned int numMipmapLevels) {
  CG_DRIVER(cuMipmappedArrayCreate);
  struct creation creation;
  CUDA_ARRAY_MEMORY_REQUIREMENTS answer;
  CUdevice device;
  if (!begin(&creation, pMipmappedArrayDesc, numMipmapLevels)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = driver->cuMipmappedArrayCreate(pHandle, pMipmappedArrayDesc, numMipmapLevels);
  if (creation.verdict != CG_GRANTED) return result;
  if (result == CUDA_SUCCESS && driver->x_cuMipmappedArrayGetMemoryRequirements &&
      driver->x_cuCtxGetDevice(&device) == CUDA_SUCCESS)
    correct(&creation, driver->x_cuMipmappedArrayGetMemoryRequirements(&answer, *pHandle, device), &answer);
  if (keep(&creation, result, CG_KIND_MIPMAP, result == CUDA_SUCCESS ? *pHandle : NULL) || result != CUDA_SUCCESS)
    return result;
  driver->cuMipmappedArrayDestroy(*pHandle);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

CG_EXPORT CUresult cuArrayDestroy(CUarray hArray) {
  CG_DRIVER(cuArrayDestroy);
  CG_FREE_BLOCK(CG_KIND_ARRAY, hArray, driver->cuArrayDestroy(hArray));
}

CG_EXPORT CUresult cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray) {
  CG_DRIVER(cuMipmappedArrayDestroy);
  CG_FREE_BLOCK(CG_KIND_MIPMAP, hMipmappedArray, driver->cuMipmappedArrayDestroy(hMipmappedArray));
}
