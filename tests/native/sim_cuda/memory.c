/* memory.c - what allocations take, who can reach them, and what copies and fills do. */
#include <errno.h>

#include "check.h"

void check_granules(void) {
  CUdeviceptr one, two, big;
  use_device(0);
  uint64_t before = used_bytes(0);
  RESULT(cuMemAlloc_v2(&one, 0), CUDA_ERROR_INVALID_VALUE);
  OK(cuMemAlloc_v2(&one, 1));
  OK(cuMemAlloc_v2(&two, 700));
  REQUIRE(used_bytes(0) == before + SG_GRANULE_BYTES); /* both from one slab */
  REQUIRE(one % 512 == 0 && two % 512 == 0 && one != two);
  OK(cuMemAlloc_v2(&big, MIB));
  REQUIRE(used_bytes(0) == before + 2 * SG_GRANULE_BYTES); /* a granule of its own */
  RESULT(cuMemFree_v2(big + 512), CUDA_ERROR_INVALID_VALUE);
  OK(cuMemFree_v2(big));
  RESULT(cuMemFree_v2(big), CUDA_ERROR_INVALID_VALUE);
  OK(cuMemFree_v2(one));
  REQUIRE(used_bytes(0) == before + SG_GRANULE_BYTES);
  OK(cuMemFree_v2(two));
  REQUIRE(used_bytes(0) == before); /* the empty slab is given back */
  OK(cuMemFree_v2(0));
}

void check_out_of_memory(void) {
  size_t free_bytes, total, after;
  CUdeviceptr all, more;
  use_device(0);
  OK(cuMemGetInfo_v2(&free_bytes, &total));
  RESULT(cuMemAlloc_v2(&all, free_bytes + 1), CUDA_ERROR_OUT_OF_MEMORY);
  RESULT(cuMemAlloc_v2(&all, SIZE_MAX - 10), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuMemAlloc_v2(&all, free_bytes));
  OK(cuMemGetInfo_v2(&after, &total));
  REQUIRE(after == 0);
  RESULT(cuMemAlloc_v2(&more, 1), CUDA_ERROR_OUT_OF_MEMORY);
  RESULT(cuMemAllocManaged(&more, 1, CU_MEM_ATTACH_GLOBAL), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuMemFree_v2(all));
  OK(cuMemGetInfo_v2(&after, &total));
  REQUIRE(after == free_bytes);
}

void check_host_cannot_reach(void) {
  CUdeviceptr device, managed;
  int ends[2];
  use_device(0);
  OK(cuMemAlloc_v2(&device, 4096));
  OK(cuMemAllocManaged(&managed, 4096, CU_MEM_ATTACH_GLOBAL));
  REQUIRE(pipe(ends) == 0);
  REQUIRE(write(ends[1], (void *)(uintptr_t)device, 1) == -1 && errno == EFAULT);
  REQUIRE(write(ends[1], (void *)(uintptr_t)managed, 1) == 1);
}

void check_pointers(void) {
  CUdeviceptr device, base;
  size_t size;
  unsigned type;
  bool managed;
  CUcontext context = use_device(1), owner;
  int ordinal;
  char plain[8];
  OK(cuMemAlloc_v2(&device, 3000));
  OK(cuMemGetAddressRange_v2(&base, &size, device + 2999));
  REQUIRE(base == device && size == 3000);
  RESULT(cuMemGetAddressRange_v2(&base, &size, device + 3000), CUDA_ERROR_NOT_FOUND);
  OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device));
  REQUIRE(type == CU_MEMORYTYPE_DEVICE);
  OK(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, device + 1));
  REQUIRE(owner == context);
  OK(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, device));
  REQUIRE(ordinal == 1);
  RESULT(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)plain),
         CUDA_ERROR_INVALID_VALUE);
  CUpointer_attribute wanted[] = {CU_POINTER_ATTRIBUTE_IS_MANAGED, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  void *answers[] = {&managed, &ordinal};
  OK(cuPointerGetAttributes(2, wanted, answers, (CUdeviceptr)(uintptr_t)plain));
  REQUIRE(!managed && ordinal == CU_DEVICE_INVALID);
}

/* The first versions of functions, with pointers and sizes of 32 bits. */
void check_narrow_pointers(void) {
  CUdeviceptr_v1 address, base;
  unsigned size, free_bytes, total;
  char out[100], back[100];
  use_device(0);
  uint64_t before = used_bytes(0);
  if (cuMemAlloc(&address, 100) == CUDA_ERROR_OUT_OF_MEMORY && used_bytes(0) == before)
    return; /* a sanitizer has taken the addresses below 4 GiB */
  memset(out, 7, sizeof out);
  OK(cuMemcpyHtoD(address, out, 100));
  OK(cuMemsetD8(address + 50, 9, 50));
  memset(out + 50, 9, 50);
  OK(cuMemcpyDtoH(back, address, 100));
  REQUIRE(!memcmp(out, back, 100));
  OK(cuMemGetAddressRange(&base, &size, address + 99));
  REQUIRE(base == address && size == 100);
  OK(cuMemGetInfo(&free_bytes, &total));
  OK(cuMemFree(address));
  REQUIRE(used_bytes(0) == before);
}

void check_host_memory(void) {
  void *pinned, *own = malloc(10000);
  CUdeviceptr seen;
  unsigned flags, type;
  CUcontext context = use_device(0);
  OK(cuMemHostAlloc(&pinned, 5000, CU_MEMHOSTALLOC_PORTABLE));
  memset(pinned, 1, 5000);
  OK(cuMemHostGetDevicePointer_v2(&seen, pinned, 0));
  OK(cuMemHostGetFlags(&flags, pinned));
  REQUIRE(seen == (CUdeviceptr)(uintptr_t)pinned && flags == CU_MEMHOSTALLOC_PORTABLE);
  OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, seen));
  REQUIRE(type == CU_MEMORYTYPE_HOST);
  OK(cuMemHostRegister_v2(own, 10000, 0));
  RESULT(cuMemHostRegister_v2((char *)own + 5000, 1000, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  RESULT(cuMemFreeHost(own), CUDA_ERROR_INVALID_VALUE);
  OK(cuMemHostUnregister(own));
  RESULT(cuMemHostUnregister(own), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  OK(cuMemFreeHost(pinned));
  OK(cuMemAllocHost_v2(&pinned, 5000));
  OK(cuCtxDestroy_v2(context)); /* frees it, too */
  free(own);
}

void check_managed(void) {
  CUdeviceptr address;
  int device;
  uint32_t value;
  use_device(0);
  uint64_t before = used_bytes(0);
  OK(cuMemAllocManaged(&address, 3 * MIB, CU_MEM_ATTACH_GLOBAL));
  REQUIRE(used_bytes(0) == before + 2 * SG_GRANULE_BYTES);
  OK(cuMemsetD32_v2(address, 0x01020304, 3 * MIB / 4));
  OK(cuCtxSynchronize());
  REQUIRE(((uint32_t *)(uintptr_t)address)[100000] == 0x01020304);
  ((uint32_t *)(uintptr_t)address)[5] = 55;
  OK(cuMemcpyDtoH_v2(&value, address + 20, 4));
  REQUIRE(value == 55);
  OK(cuMemPrefetchAsync(address, MIB, 1, NULL));
  OK(cuMemRangeGetAttribute(&device, sizeof device, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, address, 10));
  REQUIRE(device == 1);
  OK(cuMemAdvise(address, MIB, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU));
  OK(cuMemRangeGetAttribute(&device, sizeof device, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION, address, 10));
  REQUIRE(device == CU_DEVICE_CPU);
  RESULT(cuMemPrefetchAsync(address, 4 * MIB, 0, NULL), CUDA_ERROR_INVALID_VALUE);
  OK(cuMemFree_v2(address));
}

/* ---- copies ---- */

void check_linear_copies(void) {
  enum { BYTES = 3 * MIB };
  unsigned char *out = malloc(BYTES), *back = calloc(1, BYTES);
  CUdeviceptr first, second, remote;
  CUcontext here, there;
  for (unsigned i = 0; i < BYTES; i++)
    out[i] = (unsigned char)(i * 31 + i / 256);
  there = use_device(1);
  OK(cuMemAlloc_v2(&remote, BYTES));
  here = use_device(0);
  OK(cuMemAlloc_v2(&first, BYTES));
  OK(cuMemAlloc_v2(&second, BYTES));
  OK(cuMemcpyHtoD_v2(first, out, BYTES));
  OK(cuMemcpyDtoD_v2(second, first, BYTES));
  OK(cuMemcpyPeer(remote, there, second, here, BYTES));
  OK(cuMemcpy((CUdeviceptr)(uintptr_t)back, remote, BYTES));
  REQUIRE(!memcmp(out, back, BYTES));
  RESULT(cuMemcpyHtoD_v2(first + 1, out, BYTES), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuMemcpyDtoH_v2(back, first + BYTES, 1), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuMemcpyHtoD_v2(0, out, 1), CUDA_ERROR_INVALID_VALUE);
  OK(cuMemcpyHtoD_v2(first, out, 0));
  OK(cuMemFree_v2(second));
  RESULT(cuMemcpyDtoD_v2(first, second, 1), CUDA_ERROR_INVALID_VALUE);
  free(out);
  free(back);
}

void check_boxes(void) {
  unsigned char host[6 * 8 * 4], back[2 * 3 * 4];
  size_t pitch;
  CUdeviceptr device;
  use_device(0);
  for (unsigned i = 0; i < sizeof host; i++)
    host[i] = (unsigned char)i;
  OK(cuMemAllocPitch_v2(&device, &pitch, 8, 24, 4));
  REQUIRE(pitch == 512);
  CUDA_MEMCPY3D in = {.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = host, .srcPitch = 8, .srcHeight = 6,
                      .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = device, .dstPitch = pitch, .dstHeight = 6,
                      .WidthInBytes = 8, .Height = 6, .Depth = 4};
  OK(cuMemcpy3D_v2(&in));
  CUDA_MEMCPY3D part = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = device, .srcPitch = pitch, .srcHeight = 6,
                        .srcXInBytes = 2, .srcY = 1, .srcZ = 2, .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = back,
                        .dstPitch = 4, .dstHeight = 3, .WidthInBytes = 4, .Height = 3, .Depth = 2};
  OK(cuMemcpy3D_v2(&part));
  for (unsigned z = 0; z < 2; z++)
    for (unsigned y = 0; y < 3; y++)
      REQUIRE(!memcmp(back + (z * 3 + y) * 4, host + ((z + 2) * 6 + y + 1) * 8 + 2, 4));
  CUDA_MEMCPY2D row = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = device, .srcPitch = pitch, .srcY = 23,
                       .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = back, .WidthInBytes = 8, .Height = 1};
  OK(cuMemcpy2D_v2(&row));
  REQUIRE(!memcmp(back, host + 23 * 8, 8));
  row.Height = 2;
  RESULT(cuMemcpy2D_v2(&row), CUDA_ERROR_INVALID_VALUE); /* behind the end */
  row.srcPitch = 4;
  RESULT(cuMemcpy2D_v2(&row), CUDA_ERROR_INVALID_VALUE); /* rows overlap */
}

void check_batches(void) {
  char out[] = "abcdef", back[7] = "";
  CUdeviceptr device;
  size_t failed, starts[] = {0}, sizes[] = {3, 3};
  CUmemcpyAttributes attributes[] = {{.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM}};
  use_device(0);
  CUstream stream = free_stream();
  OK(cuMemAlloc_v2(&device, 6));
  CUdeviceptr to[] = {device + 3, device}, from[] = {(CUdeviceptr)(uintptr_t)out, (CUdeviceptr)(uintptr_t)out + 3};
  OK(cuMemcpyBatchAsync(to, from, sizes, 2, attributes, starts, 1, &failed, stream));
  OK(cuStreamSynchronize(stream));
  OK(cuMemcpyDtoH_v2(back, device, 6));
  REQUIRE(!strcmp(back, "defabc"));
  to[1] = device + 5;
  RESULT(cuMemcpyBatchAsync(to, from, sizes, 2, attributes, starts, 1, &failed, stream), CUDA_ERROR_INVALID_VALUE);
  REQUIRE(failed == 1);
  RESULT(cuMemcpyBatchAsync(to, from, sizes, 2, attributes, starts, 1, &failed, NULL), CUDA_ERROR_INVALID_VALUE);
}

void check_fills(void) {
  unsigned char back[64];
  CUdeviceptr device;
  use_device(0);
  OK(cuMemAlloc_v2(&device, 64));
  OK(cuMemsetD8_v2(device, 1, 64));
  OK(cuMemsetD16_v2(device + 2, 0x0302, 1));
  OK(cuMemsetD32_v2(device + 4, 0x07060504, 1));
  OK(cuMemsetD2D8_v2(device + 16, 16, 9, 2, 3));
  OK(cuMemcpyDtoH_v2(back, device, 64));
  const unsigned char wanted[8] = {1, 1, 2, 3, 4, 5, 6, 7};
  REQUIRE(!memcmp(back, wanted, 8));
  REQUIRE(back[16] == 9 && back[17] == 9 && back[18] == 1 && back[33] == 9 && back[49] == 9 && back[50] == 1);
  RESULT(cuMemsetD32_v2(device + 2, 0, 1), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuMemsetD8_v2(device, 0, 65), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuMemsetD8_v2((CUdeviceptr)(uintptr_t)back, 0, 1), CUDA_ERROR_INVALID_VALUE); /* pageable */
}

/* A small pageable source may be changed as soon as the call returns; a pinned one is read in order. */
void check_staging(void) {
  uint32_t pageable = 1, *pinned, back[2];
  CUdeviceptr device, word;
  use_device(0);
  CUstream stream = free_stream();
  void *place;
  OK(cuMemAllocHost_v2(&place, 4));
  pinned = place;
  *pinned = 1;
  OK(cuMemAlloc_v2(&device, 8));
  word = zeroed_word();
  OK(launch(kernel("hold"), stream, word, 1));
  OK(cuMemcpyHtoDAsync_v2(device, &pageable, 4, stream));
  OK(cuMemcpyHtoDAsync_v2(device + 4, pinned, 4, stream));
  pageable = *pinned = 2;
  set_word(word, 1);
  OK(cuStreamSynchronize(stream));
  OK(cuMemcpyDtoH_v2(back, device, 8));
  REQUIRE(back[0] == 1 && back[1] == 2);
}

/* Fills with zeros of more than a granule take another way; the edges must be right. */
void check_large_zeros(void) {
  enum { BYTES = 9 * MIB, FIRST = MIB + 3, ZEROS = 6 * MIB + 5 };
  unsigned char *back = malloc(BYTES);
  CUdeviceptr device;
  use_device(0);
  OK(cuMemAlloc_v2(&device, BYTES));
  OK(cuMemsetD8_v2(device, 7, BYTES));
  OK(cuMemsetD8_v2(device + FIRST, 0, ZEROS));
  OK(cuMemcpyDtoH_v2(back, device, BYTES));
  for (unsigned i = 0; i < BYTES; i++)
    REQUIRE(back[i] == (i >= FIRST && i < FIRST + ZEROS ? 0 : 7));
  free(back);
}
