/* cuda_array.c - CUDA arrays of one, two and three dimensions, layered ones and cube maps. */
#include "cuda_array.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"

#define ROW_ALIGNMENT 64u
#define ROWS_ALIGNMENT 8u
#define LARGEST_EXTENT (1u << 17) /* of a one-dimensional texture on every device since Fermi */

static const unsigned modelled_flags = CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_SURFACE_LDST | CUDA_ARRAY3D_CUBEMAP |
                                       CUDA_ARRAY3D_TEXTURE_GATHER | CUDA_ARRAY3D_DEPTH_TEXTURE |
                                       CUDA_ARRAY3D_COLOR_ATTACHMENT | CUDA_ARRAY3D_DEFERRED_MAPPING;
static const unsigned other_flags = CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_VIDEO_ENCODE_DECODE;

/* Bytes of one channel, and how many channels the format itself fixes (0: any). 0 for what is unknown. */
static unsigned channel_bytes(CUarray_format format, unsigned *fixed_channels) {
  *fixed_channels = 0;
  switch ((unsigned)format) {
  case CU_AD_FORMAT_UNSIGNED_INT8:
  case CU_AD_FORMAT_SIGNED_INT8: return 1;
  case CU_AD_FORMAT_UNSIGNED_INT16:
  case CU_AD_FORMAT_SIGNED_INT16:
  case CU_AD_FORMAT_HALF: return 2;
  case CU_AD_FORMAT_UNSIGNED_INT32:
  case CU_AD_FORMAT_SIGNED_INT32:
  case CU_AD_FORMAT_FLOAT: return 4;
  case CU_AD_FORMAT_UNORM_INT8X1:
  case CU_AD_FORMAT_SNORM_INT8X1: *fixed_channels = 1; return 1;
  case CU_AD_FORMAT_UNORM_INT8X2:
  case CU_AD_FORMAT_SNORM_INT8X2: *fixed_channels = 2; return 1;
  case CU_AD_FORMAT_UNORM_INT8X4:
  case CU_AD_FORMAT_SNORM_INT8X4: *fixed_channels = 4; return 1;
  case CU_AD_FORMAT_UNORM_INT16X1:
  case CU_AD_FORMAT_SNORM_INT16X1: *fixed_channels = 1; return 2;
  case CU_AD_FORMAT_UNORM_INT16X2:
  case CU_AD_FORMAT_SNORM_INT16X2: *fixed_channels = 2; return 2;
  case CU_AD_FORMAT_UNORM_INT16X4:
  case CU_AD_FORMAT_SNORM_INT16X4: *fixed_channels = 4; return 2;
  default: return 0;
  }
}

static bool planar_or_compressed(CUarray_format format) {
  return (unsigned)format >= CU_AD_FORMAT_UNORM_INT_101010_2 && (unsigned)format < CU_AD_FORMAT_UNORM_INT8X1;
}

static CUresult check_shape(const CUDA_ARRAY3D_DESCRIPTOR *descriptor) {
  const size_t width = descriptor->Width, height = descriptor->Height, depth = descriptor->Depth;
  const bool layered = descriptor->Flags & CUDA_ARRAY3D_LAYERED, cube = descriptor->Flags & CUDA_ARRAY3D_CUBEMAP;
  bool allowed = width != 0 && width <= LARGEST_EXTENT && height <= LARGEST_EXTENT && depth <= LARGEST_EXTENT;
  if (cube) /* six square faces, or a multiple of six when layered */
    allowed = allowed && width == height && depth != 0 && (layered ? depth % 6 == 0 : depth == 6);
  else if (layered)
    allowed = allowed && depth != 0;
  else
    allowed = allowed && (depth == 0 || height != 0);
  if ((descriptor->Flags & CUDA_ARRAY3D_TEXTURE_GATHER) != 0)
    allowed = allowed && height != 0 && depth == 0;
  return allowed ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult array_check_descriptor(const CUDA_ARRAY3D_DESCRIPTOR *descriptor) {
  unsigned fixed, channels = descriptor->NumChannels;
  if (planar_or_compressed(descriptor->Format) || (descriptor->Flags & other_flags) != 0)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (channel_bytes(descriptor->Format, &fixed) == 0 || (descriptor->Flags & ~modelled_flags) != 0 ||
      (channels != 1 && channels != 2 && channels != 4) || (fixed && fixed != channels))
    return CUDA_ERROR_INVALID_VALUE;
  return check_shape(descriptor);
}

static uint64_t round_up(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

uint64_t array_lay_out(const CUDA_ARRAY3D_DESCRIPTOR *descriptor, CUcontext context, struct CUarray_st *array) {
  unsigned fixed;
  array->magic = SIM_MAGIC_ARRAY;
  array->descriptor = *descriptor;
  array->context = context;
  array->card = context->card;
  array->element_bytes = channel_bytes(descriptor->Format, &fixed) * descriptor->NumChannels;
  array->width_bytes = descriptor->Width * array->element_bytes;
  array->rows = descriptor->Height ? descriptor->Height : 1;
  array->slices = descriptor->Depth ? descriptor->Depth : 1;
  array->pitch = round_up(array->width_bytes, ROW_ALIGNMENT);
  array->slice_pitch = array->pitch * (array->rows > 1 ? round_up(array->rows, ROWS_ALIGNMENT) : 1);
  return array->slice_pitch * array->slices;
}

CUresult array_memory(CUcontext context, unsigned flags, uint64_t bytes, struct sim_block **block) {
  *block = NULL;
  if ((flags & CUDA_ARRAY3D_DEFERRED_MAPPING) != 0)
    return CUDA_SUCCESS;
  return sim_memory_alloc(context, bytes, SIM_MEMORY_ARRAY, block);
}

/* ---- create and destroy ---- */

static void destroy_array(struct sim_owned *owned) {
  struct CUarray_st *array = SIM_CONTAINER_OF(owned, struct CUarray_st, owned);
  array->magic = 0;
  if (array->block)
    sim_memory_free(array->block);
  free(array);
}

static CUresult create(CUarray *handle, const CUDA_ARRAY3D_DESCRIPTOR *descriptor) {
  CUcontext context;
  CUresult result = sim_allocating_call(&context);
  if (result != CUDA_SUCCESS)
    return result;
  result = array_check_descriptor(descriptor);
  if (result != CUDA_SUCCESS)
    return result;
  struct CUarray_st *array = calloc(1, sizeof *array);
  if (array == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  result = array_memory(context, descriptor->Flags, array_lay_out(descriptor, context, array), &array->block);
  if (result != CUDA_SUCCESS) {
    free(array);
    return result;
  }
  sim_own(context, &array->owned, destroy_array);
  *handle = array;
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray) {
  return pHandle && pAllocateArray ? create(pHandle, pAllocateArray) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuArray3DCreate(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR_v1 *pAllocateArray) {
  if (pHandle == NULL || pAllocateArray == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  const CUDA_ARRAY3D_DESCRIPTOR descriptor = {.Width = pAllocateArray->Width,
                                              .Height = pAllocateArray->Height,
                                              .Depth = pAllocateArray->Depth,
                                              .Format = pAllocateArray->Format,
                                              .NumChannels = pAllocateArray->NumChannels,
                                              .Flags = pAllocateArray->Flags};
  return create(pHandle, &descriptor);
}

CUresult CUDAAPI cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray) {
  if (pHandle == NULL || pAllocateArray == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  const CUDA_ARRAY3D_DESCRIPTOR descriptor = {.Width = pAllocateArray->Width,
                                              .Height = pAllocateArray->Height,
                                              .Format = pAllocateArray->Format,
                                              .NumChannels = pAllocateArray->NumChannels};
  return create(pHandle, &descriptor);
}

CUresult CUDAAPI cuArrayCreate(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR_v1 *pAllocateArray) {
  if (pAllocateArray == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  const CUDA_ARRAY_DESCRIPTOR descriptor = {.Width = pAllocateArray->Width,
                                            .Height = pAllocateArray->Height,
                                            .Format = pAllocateArray->Format,
                                            .NumChannels = pAllocateArray->NumChannels};
  return cuArrayCreate_v2(pHandle, &descriptor);
}

static CUresult check_handle(CUarray array) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  return array && array->magic == SIM_MAGIC_ARRAY ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

/* Levels of a mipmapped array end with it. */
CUresult CUDAAPI cuArrayDestroy(CUarray hArray) {
  CUresult result = check_handle(hArray);
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_unsafe();
  if (result == CUDA_SUCCESS && hArray->mipmap)
    result = CUDA_ERROR_INVALID_HANDLE;
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_context_wait(hArray->context);
  if (sim_disown(&hArray->owned))
    destroy_array(&hArray->owned);
  return result;
}

/* ---- questions ---- */

CUresult CUDAAPI cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *pArrayDescriptor, CUarray hArray) {
  CUresult result = check_handle(hArray);
  if (result == CUDA_SUCCESS && pArrayDescriptor == NULL)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *pArrayDescriptor = hArray->descriptor;
  return result;
}

CUresult CUDAAPI cuArray3DGetDescriptor(CUDA_ARRAY3D_DESCRIPTOR_v1 *pArrayDescriptor, CUarray hArray) {
  CUDA_ARRAY3D_DESCRIPTOR descriptor;
  if (pArrayDescriptor == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = cuArray3DGetDescriptor_v2(&descriptor, hArray);
  if (result == CUDA_SUCCESS)
    *pArrayDescriptor = (CUDA_ARRAY3D_DESCRIPTOR_v1){.Width = (unsigned)descriptor.Width,
                                                     .Height = (unsigned)descriptor.Height,
                                                     .Depth = (unsigned)descriptor.Depth,
                                                     .Format = descriptor.Format,
                                                     .NumChannels = descriptor.NumChannels,
                                                     .Flags = descriptor.Flags};
  return result;
}

/* Not for arrays of three dimensions. */
CUresult CUDAAPI cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *pArrayDescriptor, CUarray hArray) {
  CUDA_ARRAY3D_DESCRIPTOR descriptor;
  if (pArrayDescriptor == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = cuArray3DGetDescriptor_v2(&descriptor, hArray);
  if (result == CUDA_SUCCESS && descriptor.Depth != 0)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *pArrayDescriptor = (CUDA_ARRAY_DESCRIPTOR){.Width = descriptor.Width,
                                                .Height = descriptor.Height,
                                                .Format = descriptor.Format,
                                                .NumChannels = descriptor.NumChannels};
  return result;
}

CUresult CUDAAPI cuArrayGetDescriptor(CUDA_ARRAY_DESCRIPTOR_v1 *pArrayDescriptor, CUarray hArray) {
  CUDA_ARRAY_DESCRIPTOR descriptor;
  if (pArrayDescriptor == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = cuArrayGetDescriptor_v2(&descriptor, hArray);
  if (result == CUDA_SUCCESS)
    *pArrayDescriptor = (CUDA_ARRAY_DESCRIPTOR_v1){.Width = (unsigned)descriptor.Width,
                                                   .Height = (unsigned)descriptor.Height,
                                                   .Format = descriptor.Format,
                                                   .NumChannels = descriptor.NumChannels};
  return result;
}

/* Only for arrays with CUDA_ARRAY3D_DEFERRED_MAPPING, as the driver API's documentation has it. */
CUresult CUDAAPI cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *memoryRequirements, CUarray array,
                                              CUdevice device) {
  int card;
  CUresult result = check_handle(array);
  if (result == CUDA_SUCCESS)
    result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (memoryRequirements == NULL || (array->descriptor.Flags & CUDA_ARRAY3D_DEFERRED_MAPPING) == 0)
    return CUDA_ERROR_INVALID_VALUE;
  *memoryRequirements = (CUDA_ARRAY_MEMORY_REQUIREMENTS){
      .size = round_up(array->slice_pitch * array->slices, ARRAY_ALIGNMENT_BYTES), .alignment = ARRAY_ALIGNMENT_BYTES};
  return CUDA_SUCCESS;
}
