/* busy.c - a program of many threads that uses the card in every common way, for sanitizers and valgrind.
 *
 *   busy THREADS ROUNDS   the threads do ROUNDS rounds each; one more uses the card from before main() until the
 *                         process is gone
 *   busy race 0           two threads let the driver write to one variable, which a sanitizer must see
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

#define __CUDA_API_VERSION_INTERNAL /* names as exported, with their versions */
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Calls a driver function as any program that is linked with -lcuda; ends the program unless it succeeds. */
#define DO(name, ...)                                                           \
  do {                                                                          \
    CUresult result_ = name(__VA_ARGS__);                                       \
    if (result_ != CUDA_SUCCESS) {                                              \
      fprintf(stderr, "%s:%d: %s: %d\n", __FILE__, __LINE__, #name, result_);   \
      exit(1);                                                                  \
    }                                                                           \
  } while (0)

#define BLOCK (1u << 20)
#define SPIN_NS 20000ull
#define BLOCKS 8

static CUcontext shared;
static CUfunction spin;
static int rounds;
static _Atomic(int) early; /* rounds of the thread that began before main() */

static void allocate_and_free(void) {
  CUdeviceptr blocks[BLOCKS], pitched;
  size_t pitch, free_bytes, total;
  for (unsigned i = 0; i < BLOCKS; i++) DO(cuMemAlloc_v2, &blocks[i], BLOCK >> i);
  DO(cuMemAllocPitch_v2, &pitched, &pitch, 1000, 10, 4);
  DO(cuMemsetD8_v2, blocks[0], 1, BLOCK);
  DO(cuMemGetInfo_v2, &free_bytes, &total);
  DO(cuMemFree_v2, pitched);
  for (unsigned i = 0; i < BLOCKS; i++) DO(cuMemFree_v2, blocks[i]);
}

static void launch_on_a_stream(void) {
  CUstream stream;
  CUevent event;
  CUdeviceptr block;
  uint64_t ns = SPIN_NS;
  void *arguments[] = {&ns};
  char host[256] = {0};
  DO(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
  DO(cuEventCreate, &event, CU_EVENT_DEFAULT);
  DO(cuMemAllocAsync, &block, BLOCK, stream);
  DO(cuMemcpyHtoDAsync_v2, block, host, sizeof host, stream);
  for (int i = 0; i < 4; i++) DO(cuLaunchKernel, spin, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
  DO(cuEventRecord, event, stream);
  DO(cuMemFreeAsync, block, stream);
  DO(cuEventSynchronize, event);
  DO(cuStreamSynchronize, stream);
  DO(cuEventDestroy_v2, event);
  DO(cuStreamDestroy_v2, stream);
}

static void capture_and_launch(void) {
  CUstream stream;
  CUgraph graph;
  CUgraphExec exec;
  uint64_t ns = SPIN_NS;
  void *arguments[] = {&ns};
  DO(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
  DO(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  DO(cuLaunchKernel, spin, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
  DO(cuStreamEndCapture, stream, &graph);
  DO(cuGraphInstantiateWithFlags, &exec, graph, 0);
  DO(cuGraphLaunch, exec, stream);
  DO(cuStreamSynchronize, stream);
  DO(cuGraphExecDestroy, exec);
  DO(cuGraphDestroy, graph);
  DO(cuStreamDestroy_v2, stream);
}

static void use_a_context_of_its_own(void) {
  CUcontext own;
  CUmodule module;
  CUdeviceptr block, counter;
  size_t bytes;
  DO(cuCtxCreate_v2, &own, 0, 0);
  DO(cuModuleLoadData, &module, "cgpu-sim-module 1\nset\nglobal counter 4\n");
  DO(cuModuleGetGlobal_v2, &counter, &bytes, module, "counter");
  DO(cuMemAlloc_v2, &block, BLOCK);
  DO(cuModuleUnload, module);
  DO(cuCtxDestroy_v2, own); /* with the block in it */
  DO(cuCtxSetCurrent, shared);
}

static void *use_its_default_stream(void *unused) {
  CUdeviceptr block;
  DO(cuCtxSetCurrent, shared);
  DO(cuMemAlloc_v2, &block, BLOCK);
  DO(cuMemsetD8Async, block, 1, BLOCK, CU_STREAM_PER_THREAD);
  DO(cuStreamSynchronize, CU_STREAM_PER_THREAD);
  DO(cuMemFree_v2, block);
  return unused;
}

static void begin_and_end_a_thread(void) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, use_its_default_stream, NULL)) exit(2);
  pthread_join(thread, NULL);
}

static void *work(void *unused) {
  (void)unused;
  DO(cuCtxSetCurrent, shared);
  for (int i = 0; i < rounds; i++) {
    allocate_and_free();
    launch_on_a_stream();
    capture_and_launch();
    begin_and_end_a_thread();
    if (i % 4 == 0) use_a_context_of_its_own();
  }
  return NULL;
}

static void *work_for_ever(void *unused) {
  (void)unused;
  DO(cuCtxSetCurrent, shared);
  for (;;) {
    allocate_and_free();
    launch_on_a_stream();
    atomic_fetch_add(&early, 1);
  }
  return NULL;
}

static void *look(void *where) {
  size_t total;
  DO(cuCtxSetCurrent, shared);
  for (int i = 0; i < 1000; i++) DO(cuMemGetInfo_v2, where, &total);
  return NULL;
}

static int race(void) {
  pthread_t threads[2];
  size_t free_bytes;
  for (int i = 0; i < 2; i++)
    if (pthread_create(&threads[i], NULL, look, &free_bytes)) return 2;
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  return 0;
}

__attribute__((constructor)) static void before_main(int count, char **words) {
  pthread_t thread;
  CUmodule module;
  if (count < 3) return;
  DO(cuInit, 0);
  DO(cuDevicePrimaryCtxRetain, &shared, 0);
  DO(cuCtxSetCurrent, shared);
  DO(cuModuleLoadData, &module, "cgpu-sim-module 1\nspin\n");
  DO(cuModuleGetFunction, &spin, module, "spin");
  if (atoi(words[1]) > 1 && pthread_create(&thread, NULL, work_for_ever, NULL)) exit(2);
}

int main(int count, char **words) {
  pthread_t threads[16];
  if (count > 1 && !strcmp(words[1], "race")) return race();
  int wanted = count > 2 ? atoi(words[1]) : 0;
  if (wanted < 1 || wanted > 16) return 2;
  rounds = atoi(words[2]);
  for (int i = 1; i < wanted; i++)
    if (pthread_create(&threads[i], NULL, work, NULL)) return 2;
  work(NULL);
  for (int i = 1; i < wanted; i++) pthread_join(threads[i], NULL);
  while (wanted > 1 && !atomic_load(&early)) usleep(1000);
  return 0; /* in the middle of what the thread does that began first */
}
