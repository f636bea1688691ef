/* cuda_hostmem.c - page-locked host memory: allocated here, or the user's own, registered. */
#include "cuda_internal.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cuda_process.h"

static uint64_t pages(uint64_t bytes) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  return (bytes + page - 1) / page * page;
}

static void destroy_host(struct sim_owned *owned) {
  struct sim_block *block = SIM_CONTAINER_OF(owned, struct sim_block, owned);
  sim_block_remove(block);
  if (block->kind == SIM_MEMORY_HOST)
    munmap((void *)(uintptr_t)block->address, pages(block->bytes));
  free(block);
}

static CUresult index_host(CUcontext context, void *place, size_t bytes, enum sim_memory kind, unsigned flags) {
  struct sim_block *block = calloc(1, sizeof *block);
  if (!block)
    return CUDA_ERROR_OUT_OF_MEMORY;
  block->address = (uint64_t)(uintptr_t)place;
  block->bytes = bytes;
  block->kind = kind;
  block->card = -1;
  block->context = context;
  block->flags = flags;
  block->accessible = true;
  CUresult result = sim_block_insert(block);
  if (result != CUDA_SUCCESS) {
    free(block);
    return result;
  }
  sim_own(context, &block->owned, destroy_host);
  return CUDA_SUCCESS;
}

static CUresult allocate_host(void **pp, size_t bytes, unsigned flags) {
  const unsigned known = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  CUcontext context;
  CUresult result = sim_allocating_call(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!pp || bytes == 0 || (flags & ~known))
    return CUDA_ERROR_INVALID_VALUE;
  if (bytes > SIZE_MAX / 2)
    return CUDA_ERROR_OUT_OF_MEMORY;
  void *place = mmap(NULL, pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED)
    return CUDA_ERROR_OUT_OF_MEMORY;
  result = index_host(context, place, bytes, SIM_MEMORY_HOST, flags);
  if (result != CUDA_SUCCESS)
    munmap(place, pages(bytes));
  else
    *pp = place;
  return result;
}

/* With unified addressing all of it is portable and mapped (cuMemAllocHost). */
#define ALLOC_HOST_FLAGS (CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP)

CUresult cuMemAllocHost(void **pp, unsigned int bytesize) { return allocate_host(pp, bytesize, ALLOC_HOST_FLAGS); }
CUresult cuMemAllocHost_v2(void **pp, size_t bytesize) { return allocate_host(pp, bytesize, ALLOC_HOST_FLAGS); }
CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags) { return allocate_host(pp, bytesize, Flags); }

/* The block of the kind that begins at `place`, or NULL. */
static struct sim_block *find_host(const void *place, enum sim_memory kind) {
  sim_lock();
  struct sim_block *block = sim_block_find((uint64_t)(uintptr_t)place);
  sim_unlock();
  return block && block->kind == kind && block->address == (uint64_t)(uintptr_t)place ? block : NULL;
}

static CUresult end_host(void *place, enum sim_memory kind, CUresult unknown) {
  CUresult result = sim_ready();
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  struct sim_block *block = find_host(place, kind);
  if (!block)
    return unknown;
  result = sim_context_wait(block->context);
  if (sim_disown(&block->owned))
    destroy_host(&block->owned);
  return result;
}

CUresult cuMemFreeHost(void *p) { return end_host(p, SIM_MEMORY_HOST, CUDA_ERROR_INVALID_VALUE); }

static CUresult register_host(void *p, size_t bytes, unsigned flags) {
  const unsigned known = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_READ_ONLY;
  CUcontext context;
  CUresult result = sim_allocating_call(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!p || bytes == 0 || sim_is_device_address((uint64_t)(uintptr_t)p))
    return CUDA_ERROR_INVALID_VALUE;
  if (flags & CU_MEMHOSTREGISTER_IOMEMORY)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (flags & ~known)
    return CUDA_ERROR_INVALID_VALUE;
  return index_host(context, p, bytes, SIM_MEMORY_REGISTERED, flags);
}

CUresult cuMemHostRegister(void *p, size_t bytesize, unsigned int Flags) { return register_host(p, bytesize, Flags); }
CUresult cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags) {
  return register_host(p, bytesize, Flags);
}

CUresult cuMemHostUnregister(void *p) {
  return end_host(p, SIM_MEMORY_REGISTERED, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

/* ---- what the driver knows about it ---- */

static CUresult host_block(const void *p, struct sim_block *copy) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  sim_lock();
  const struct sim_block *block = sim_block_find((uint64_t)(uintptr_t)p);
  bool host = block && (block->kind == SIM_MEMORY_HOST || block->kind == SIM_MEMORY_REGISTERED);
  if (host)
    *copy = *block;
  sim_unlock();
  return host ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags) {
  struct sim_block block;
  if (!pdptr || Flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = host_block(p, &block);
  if (result == CUDA_SUCCESS)
    *pdptr = (CUdeviceptr)(uintptr_t)p;
  return result;
}

/* Host memory lies above 4 GiB, where a 32-bit device pointer does not reach. */
CUresult cuMemHostGetDevicePointer(CUdeviceptr_v1 *pdptr, void *p, unsigned int Flags) {
  CUdeviceptr pointer;
  CUresult result = pdptr ? cuMemHostGetDevicePointer_v2(&pointer, p, Flags) : CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS && pointer > UINT32_MAX)
    return CUDA_ERROR_NOT_SUPPORTED;
  if (result == CUDA_SUCCESS)
    *pdptr = (CUdeviceptr_v1)pointer;
  return result;
}

CUresult cuMemHostGetFlags(unsigned int *pFlags, void *p) {
  struct sim_block block;
  if (!pFlags)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = host_block(p, &block);
  if (result == CUDA_SUCCESS && block.kind != SIM_MEMORY_HOST)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *pFlags = block.flags;
  return result;
}
