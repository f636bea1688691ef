/* rows_device.c - rows of rows.c: memory by the pointer or handle, and arrays. */
#include "rows.h"

#define PITCH_BYTES 4096u /* of rows that need no padding */
#define TEXELS 1024u      /* of 4 bytes: an array's row of as many bytes */

static union {
  CUdeviceptr_v1 old_pointer;
  CUdeviceptr pointer;
  CUarray array;
  CUmipmappedArray mipmap;
  CUmemGenericAllocationHandle handle;
} held;
static unsigned old_pitch;
static size_t pitch;

static CUresult free_old(void) { return cuMemFree(held.old_pointer); }
static CUresult free_pointer(void) { return cuMemFree_v2(held.pointer); }
static CUresult free_array(void) { return cuArrayDestroy(held.array); }
static CUresult free_mipmap(void) { return cuMipmappedArrayDestroy(held.mipmap); }
static CUresult free_handle(void) { return cuMemRelease(held.handle); }

#define TEXEL .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1
#define FLAT(bytes) .Width = TEXELS, .Height = (unsigned)((bytes) / TEXELS / 4), TEXEL
#define DEEP(bytes) .Width = TEXELS, .Height = (unsigned)((bytes) / TEXELS / 16), .Depth = 4, TEXEL

static const CUmemAllocationProp on_card = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                            .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};

ALLOCATE(cuMemAlloc, &held.old_pointer, (unsigned)bytes)
ALLOCATE(cuMemAlloc_v2, &held.pointer, bytes)
ALLOCATE(cuMemAllocPitch, &held.old_pointer, &old_pitch, PITCH_BYTES, (unsigned)(bytes / PITCH_BYTES), 4)
ALLOCATE(cuMemAllocPitch_v2, &held.pointer, &pitch, PITCH_BYTES, bytes / PITCH_BYTES, 4)
ALLOCATE(cuMemAllocManaged, &held.pointer, bytes, CU_MEM_ATTACH_GLOBAL)
ALLOCATE(cuMemCreate, &held.handle, bytes, &on_card, 0)
ALLOCATE(cuArrayCreate, &held.array, &(CUDA_ARRAY_DESCRIPTOR_v1){FLAT(bytes)})
ALLOCATE(cuArrayCreate_v2, &held.array, &(CUDA_ARRAY_DESCRIPTOR){FLAT(bytes)})
ALLOCATE(cuArray3DCreate, &held.array, &(CUDA_ARRAY3D_DESCRIPTOR_v1){DEEP(bytes)})
ALLOCATE(cuArray3DCreate_v2, &held.array, &(CUDA_ARRAY3D_DESCRIPTOR){DEEP(bytes)})
ALLOCATE(cuMipmappedArrayCreate, &held.mipmap, &(CUDA_ARRAY3D_DESCRIPTOR){DEEP(bytes)}, 3)

#define ROW(name, release) {#name, ROW_OWN, name##_row, release}
const struct row device_rows[] = {
    ROW(cuMemAlloc, free_old),
    ROW(cuMemAlloc_v2, free_pointer),
    ROW(cuMemAllocPitch, free_old),
    ROW(cuMemAllocPitch_v2, free_pointer),
    ROW(cuMemAllocManaged, free_pointer),
    ROW(cuMemCreate, free_handle),
    ROW(cuArrayCreate, free_array),
    ROW(cuArrayCreate_v2, free_array),
    ROW(cuArray3DCreate, free_array),
    ROW(cuArray3DCreate_v2, free_array),
    ROW(cuMipmappedArrayCreate, free_mipmap),
    {0},
};
