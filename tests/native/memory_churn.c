/* memory_churn ROUNDS: allocates until it is refused and frees again, in several ways at once, so many times; 0: for ever.
 * Prints a dot when it has a context, begins when it is sent a byte, prints "done" at the end; fails on any answer but success and out of memory. */
#define __CUDA_API_VERSION_INTERNAL
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define BLOCKS 64

#define MUST(call)                                              \
  do {                                                          \
    CUresult result_ = call;                                    \
    if (result_ != CUDA_SUCCESS) {                              \
      fprintf(stderr, "%d: %s: %d\n", __LINE__, #call, result_); \
      exit(1);                                                  \
    }                                                           \
  } while (0)

struct block {
  CUdeviceptr pointer;
  CUmemGenericAllocationHandle handle;
  int way;
};

static CUresult allocate(struct block *block, unsigned dice) {
  size_t size = dice % 7 * 3 * MIB + dice % 4096 + 1;
  CUmemAllocationProp pinned = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
  block->way = dice % 3;
  switch (block->way) {
    case 0: return cuMemAlloc_v2(&block->pointer, size);
    case 1: return cuMemAllocAsync(&block->pointer, size, NULL);
    default: return cuMemCreate(&block->handle, (size + 2 * MIB - 1) / (2 * MIB) * (2 * MIB), &pinned, 0);
  }
}

static void release(const struct block *block) {
  switch (block->way) {
    case 0: MUST(cuMemFree_v2(block->pointer)); break;
    case 1: MUST(cuMemFreeAsync(block->pointer, NULL)); break;
    default: MUST(cuMemRelease(block->handle));
  }
}

int main(int argc, char **argv) {
  long rounds = argc > 1 ? atol(argv[1]) : 0;
  unsigned dice = (unsigned)getpid() * 2654435761u;
  CUcontext context;
  CUmemoryPool pool;
  MUST(cuInit(0));
  MUST(cuDevicePrimaryCtxRetain(&context, 0));
  MUST(cuCtxSetCurrent(context));
  MUST(cuDeviceGetDefaultMemPool(&pool, 0));
  char order;
  if (write(STDOUT_FILENO, ".", 1) != 1 || read(STDIN_FILENO, &order, 1) != 1) return 1;
  for (long round = 0; !rounds || round < rounds; round++) {
    struct block blocks[BLOCKS];
    int held = 0;
    while (held < BLOCKS) {
      CUresult result = allocate(&blocks[held], dice >> 8);
      dice = dice * 1664525u + 1013904223u;
      if (result == CUDA_ERROR_OUT_OF_MEMORY) break;
      MUST(result);
      held++;
    }
    while (held) release(&blocks[--held]);
    MUST(cuCtxSynchronize());
    if (round % 4 == 0) MUST(cuMemPoolTrimTo(pool, 0));
  }
  puts("done");
  return 0;
}
