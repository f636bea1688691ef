/* pools_graphs.c - pools, graphs, captures and mappings used by several threads at once, and contexts
 * that end with them in flight. What they do is tested elsewhere; here nothing may leak or race.
 */
#include <pthread.h>

#include "check.h"

#define THREADS 3

static CUcontext shared_context;

static void in_threads(void *(*body)(void *)) {
  pthread_t threads[THREADS];
  for (uintptr_t i = 0; i < THREADS; i++)
    REQUIRE(pthread_create(&threads[i], NULL, body, (void *)(i + 1)) == 0);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
}

static unsigned next_random(uint64_t *state) { /* xorshift64 */
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return (unsigned)(*state >> 32);
}

/* ---- pools ---- */

static void *churn_pool(void *seed) {
  enum { HELD = 8 };
  CUdeviceptr held[HELD] = {0};
  size_t bytes[HELD];
  uint64_t random = 0x9e3779b97f4a7c15ull * (uintptr_t)seed;
  OK(cuCtxSetCurrent(shared_context));
  CUstream stream = free_stream();
  for (int i = 0; i < 150; i++) {
    unsigned at = next_random(&random) % HELD;
    if (held[at]) {
      uint8_t back;
      OK(cuMemcpyDtoHAsync_v2(&back, held[at] + bytes[at] - 1, 1, stream));
      OK(cuStreamSynchronize(stream));
      REQUIRE(back == (uint8_t)at); /* nobody else has it */
      OK(next_random(&random) % 4 ? cuMemFreeAsync(held[at], stream) : cuMemFree_v2(held[at]));
      held[at] = 0;
      continue;
    }
    bytes[at] = 1 + next_random(&random) % (i % 16 ? 100000 : 3 * MIB);
    OK(cuMemAllocAsync(&held[at], bytes[at], stream));
    OK(cuMemsetD8Async(held[at], (unsigned char)at, bytes[at], stream));
  }
  for (int i = 0; i < HELD; i++)
    if (held[i])
      OK(cuMemFreeAsync(held[i], stream));
  OK(cuStreamSynchronize(stream));
  OK(cuStreamDestroy_v2(stream));
  return NULL;
}

void check_pool_threads(void) {
  CUmemoryPool pool;
  uint64_t reserved, in_use;
  shared_context = use_device(0);
  uint64_t before = used_bytes(0);
  in_threads(churn_pool);
  OK(cuCtxSynchronize());
  OK(cuDeviceGetMemPool(&pool, 0));
  OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &in_use));
  OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved));
  REQUIRE(in_use == 0 && reserved == 0);
  REQUIRE(used_bytes(0) == before);
}

/* Frees on their way through a stream that never gets there. */
void check_pool_end(void) {
  CUcontext context = use_device(0);
  CUdeviceptr word = zeroed_word(), memory[3];
  CUmemoryPool pool;
  CUmemPoolProps properties = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                               .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
  CUstream stream = free_stream();
  OK(cuMemPoolCreate(&pool, &properties));
  for (int i = 0; i < 3; i++)
    OK(cuMemAllocFromPoolAsync(&memory[i], 5 * MIB, pool, stream));
  OK(cuStreamWaitValue32(stream, word, 1, 0));
  OK(cuMemFreeAsync(memory[0], stream));
  OK(cuMemFreeAsync(memory[1], stream));
  OK(cuMemAllocFromPoolAsync(&memory[0], MIB, pool, stream)); /* a part of what is being freed */
  OK(cuMemPoolDestroy(pool));
  OK(cuCtxDestroy_v2(context));
  REQUIRE(used_bytes(0) == 0);
  RESULT(cuMemPoolDestroy(pool), CUDA_ERROR_INVALID_VALUE);
}

/* ---- graphs ---- */

static CUgraph capture_graph(CUstream stream, CUstream branch, CUdeviceptr target) {
  CUgraph graph;
  CUevent fork, join;
  CUdeviceptr own;
  OK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
  OK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
  OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cuMemAllocAsync(&own, 3 * MIB, stream));
  OK(cuEventRecord(fork, stream));
  OK(cuStreamWaitEvent(branch, fork, 0));
  OK(cuMemsetD32Async(own, 17, 1024, stream));
  OK(cuMemsetD32Async(own + 4096, 18, 1024, branch));
  OK(cuEventRecord(join, branch));
  OK(cuStreamWaitEvent(stream, join, 0));
  OK(cuMemcpyDtoDAsync_v2(target, own + 4092, 8, stream));
  OK(cuMemFreeAsync(own, stream));
  OK(cuStreamEndCapture(stream, &graph));
  OK(cuEventDestroy_v2(fork));
  OK(cuEventDestroy_v2(join));
  return graph;
}

static void *churn_graphs(void *unused) {
  (void)unused;
  CUgraphExec exec;
  CUdeviceptr target;
  uint32_t back[2];
  OK(cuCtxSetCurrent(shared_context));
  CUstream stream = free_stream(), branch = free_stream();
  OK(cuMemAlloc_v2(&target, 8));
  for (int i = 0; i < 5; i++) {
    CUgraph graph = capture_graph(stream, branch, target);
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int j = 0; j < 6; j++)
      OK(cuGraphLaunch(exec, j % 2 ? stream : branch));
    if (i % 2)
      OK(cuDeviceGraphMemTrim(0));
    OK(cuGraphDestroy(graph));
    OK(cuGraphExecDestroy(exec)); /* its launches go on */
    OK(cuStreamSynchronize(stream));
    OK(cuStreamSynchronize(branch));
    OK(cuMemcpyDtoHAsync_v2(back, target, 8, stream));
    OK(cuStreamSynchronize(stream));
    REQUIRE(back[0] == 17 && back[1] == 18);
  }
  OK(cuMemFree_v2(target));
  OK(cuStreamDestroy_v2(stream));
  OK(cuStreamDestroy_v2(branch));
  return NULL;
}

void check_graph_threads(void) {
  shared_context = use_device(0);
  uint64_t before = used_bytes(0);
  in_threads(churn_graphs);
  OK(cuDeviceGraphMemTrim(0));
  REQUIRE(used_bytes(0) == before);
}

/* The context goes while a graph runs, and while a stream captures. */
void check_graph_end(void) {
  CUgraphExec exec;
  CUgraph captured;
  CUcontext context = use_device(0);
  CUdeviceptr word = zeroed_word(), target;
  OK(cuMemAlloc_v2(&target, 8));
  CUstream stream = free_stream(), branch = free_stream(), capturing = free_stream();
  CUgraph graph = capture_graph(stream, branch, target);
  OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
  OK(cuStreamWaitValue32(stream, word, 1, 0));
  OK(cuGraphLaunch(exec, stream));
  OK(cuStreamBeginCapture_v2(capturing, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cuMemsetD32Async(target, 1, 1, capturing));
  OK(cuCtxDestroy_v2(context));
  REQUIRE(used_bytes(0) == 0);
  use_device(0);
  RESULT(cuStreamEndCapture(free_stream(), &captured), CUDA_ERROR_ILLEGAL_STATE);
  OK(cuGraphExecDestroy(exec));
  OK(cuGraphDestroy(graph));
}

/* A capture in one thread, prying eyes in others. */
static _Atomic bool capture_over;

static void *pry(void *unused) {
  (void)unused;
  CUevent event;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  OK(cuCtxSetCurrent(shared_context));
  OK(cuThreadExchangeStreamCaptureMode(&mode));
  OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  while (!atomic_load(&capture_over))
    OK(cuEventQuery(event));
  OK(cuEventDestroy_v2(event));
  return NULL;
}

void check_capture_threads(void) {
  pthread_t thread;
  CUgraph graph;
  CUdeviceptr word;
  shared_context = use_device(0);
  word = zeroed_word();
  CUstream stream = free_stream();
  REQUIRE(pthread_create(&thread, NULL, pry, NULL) == 0);
  for (int i = 0; i < 50; i++) {
    OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuMemsetD32Async(word, 1, 1, stream));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphDestroy(graph));
  }
  atomic_store(&capture_over, true);
  pthread_join(thread, NULL);
}

/* ---- mappings ---- */

static void *churn_mappings(void *unused) {
  (void)unused;
  const CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                          .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                          .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
  const CUmemAccessDesc access = {.location = properties.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CUmemGenericAllocationHandle handle, twin;
  CUdeviceptr address;
  int descriptor;
  OK(cuCtxSetCurrent(shared_context));
  for (int i = 0; i < 15; i++) {
    OK(cuMemCreate(&handle, 4 * MIB, &properties, 0));
    OK(cuMemAddressReserve(&address, 8 * MIB, 0, 0, 0));
    OK(cuMemExportToShareableHandle(&descriptor, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    OK(cuMemImportFromShareableHandle(&twin, (void *)(intptr_t)descriptor, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    OK(cuMemMap(address, 4 * MIB, 0, handle, 0));
    OK(cuMemMap(address + 4 * MIB, 4 * MIB, 0, twin, 0));
    OK(cuMemRelease(handle));
    OK(cuMemRelease(twin));
    OK(cuMemSetAccess(address, 8 * MIB, &access, 1));
    set_word(address, (uint32_t)i);
    REQUIRE(word_at(address + 4 * MIB) == (uint32_t)i); /* one memory at two addresses */
    OK(cuMemUnmap(address, 8 * MIB));
    OK(cuMemAddressFree(address, 8 * MIB));
    close(descriptor);
  }
  return NULL;
}

void check_mapping_threads(void) {
  shared_context = use_device(0);
  uint64_t before = used_bytes(0);
  in_threads(churn_mappings);
  for (int i = 0; i < 5000 && used_bytes(0) != before; i++)
    usleep(1000); /* the driver hears of the last close on a thread of its own */
  REQUIRE(used_bytes(0) == before);
}
