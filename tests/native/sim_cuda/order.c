/* order.c - streams, events, host functions: what waits for what, and what does not. */
#include <pthread.h>
#include <semaphore.h>

#include "check.h"

static CUstream blocking_stream(void) {
  CUstream stream;
  OK(cuStreamCreate(&stream, CU_STREAM_DEFAULT));
  return stream;
}

void check_stream_order(void) {
  use_device(0);
  CUstream held = blocking_stream(), other = blocking_stream();
  CUdeviceptr word = zeroed_word(), mark = zeroed_word();
  CUfunction hold = kernel("hold"), set = kernel("set");
  OK(launch(hold, held, word, 1));
  OK(launch(set, held, mark, 5));
  OK(launch(set, other, mark, 3)); /* independent of the first stream */
  OK(cuStreamSynchronize(other));
  RESULT(cuStreamQuery(held), CUDA_ERROR_NOT_READY);
  REQUIRE(word_at(mark) == 3);
  set_word(word, 1);
  OK(cuStreamSynchronize(held));
  OK(cuStreamQuery(held));
  REQUIRE(word_at(mark) == 5);
}

void check_legacy_stream(void) {
  use_device(0);
  CUstream blocking = blocking_stream(), free = free_stream();
  CUdeviceptr word = zeroed_word(), mark = zeroed_word();
  CUfunction hold = kernel("hold"), set = kernel("set");
  /* the legacy stream waits for the blocking one, the other does not care */
  OK(launch(hold, blocking, word, 1));
  OK(launch(set, NULL, mark, 4));
  OK(launch(set, free, mark, 2));
  OK(cuStreamSynchronize(free));
  REQUIRE(word_at(mark) == 2);
  RESULT(cuStreamQuery(NULL), CUDA_ERROR_NOT_READY);
  set_word(word, 1);
  OK(cuStreamSynchronize(CU_STREAM_LEGACY));
  REQUIRE(word_at(mark) == 4);
  /* and the blocking one for the legacy stream */
  OK(launch(hold, NULL, word, 2));
  OK(launch(set, blocking, mark, 6));
  RESULT(cuStreamQuery(blocking), CUDA_ERROR_NOT_READY);
  OK(launch(set, free, mark, 7));
  OK(cuStreamSynchronize(free));
  REQUIRE(word_at(mark) == 7);
  set_word(word, 2);
  OK(cuCtxSynchronize());
  REQUIRE(word_at(mark) == 6);
}

static void *ask_thread_stream(void *context) {
  unsigned long long *id = malloc(sizeof *id);
  OK(cuCtxSetCurrent(context));
  OK(cuStreamGetId_ptsz(NULL, id));
  return id;
}

void check_thread_stream(void) {
  CUcontext context = use_device(0);
  unsigned long long own, again, legacy, *other;
  pthread_t thread;
  OK(cuStreamGetId_ptsz(NULL, &own));
  OK(cuStreamGetId(CU_STREAM_PER_THREAD, &again));
  OK(cuStreamGetId(NULL, &legacy));
  REQUIRE(own == again && own != legacy);
  REQUIRE(pthread_create(&thread, NULL, ask_thread_stream, context) == 0);
  pthread_join(thread, (void **)&other);
  REQUIRE(*other != own && *other != legacy);
  free(other);
  CUdeviceptr word = zeroed_word(), mark = zeroed_word();
  uint32_t value = 8;
  OK(launch(kernel("hold"), free_stream(), word, 1));
  OK(cuMemcpyHtoD_v2_ptds(mark, &value, 4));
  REQUIRE(word_at(mark) == 8);
  set_word(word, 1);
  OK(cuCtxSynchronize());
}

void check_events(void) {
  CUevent start, end, untimed;
  float milliseconds;
  use_device(0);
  CUstream stream = free_stream(), waiter = free_stream();
  CUdeviceptr word = zeroed_word(), mark = zeroed_word();
  CUfunction hold = kernel("hold"), spin = kernel("spin"), set = kernel("set");
  OK(cuEventCreate(&start, 0));
  OK(cuEventCreate(&end, CU_EVENT_BLOCKING_SYNC));
  OK(cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING));
  RESULT(cuEventCreate(&end, CU_EVENT_INTERPROCESS), CUDA_ERROR_INVALID_VALUE);
  OK(cuEventQuery(start)); /* never recorded: complete */
  RESULT(cuEventElapsedTime(&milliseconds, start, end), CUDA_ERROR_INVALID_HANDLE);
  OK(launch(hold, stream, word, 1));
  OK(cuEventRecord(start, stream));
  OK(launch(spin, stream, 3 * MILLISECOND, 0));
  OK(cuEventRecord(end, stream));
  OK(cuStreamWaitEvent(waiter, end, 0));
  OK(launch(set, waiter, mark, 1));
  RESULT(cuEventQuery(start), CUDA_ERROR_NOT_READY);
  RESULT(cuEventElapsedTime(&milliseconds, start, end), CUDA_ERROR_NOT_READY);
  RESULT(cuStreamQuery(waiter), CUDA_ERROR_NOT_READY);
  set_word(word, 1);
  OK(cuEventSynchronize(end));
  OK(cuEventElapsedTime(&milliseconds, start, end));
  REQUIRE(milliseconds >= 3.0f && milliseconds < 3.1f); /* exact but for turns of other contexts: there are none */
  OK(cuStreamSynchronize(waiter));
  REQUIRE(word_at(mark) == 1);
  OK(cuEventRecord(untimed, stream));
  OK(cuEventSynchronize(untimed));
  RESULT(cuEventElapsedTime(&milliseconds, start, untimed), CUDA_ERROR_INVALID_HANDLE);
}

/* An event may be destroyed or recorded anew while a stream still waits for its earlier record. */
void check_event_life(void) {
  CUevent event;
  use_device(0);
  CUstream stream = free_stream(), waiter = free_stream();
  CUdeviceptr word = zeroed_word(), mark = zeroed_word();
  OK(cuEventCreate(&event, 0));
  OK(launch(kernel("hold"), stream, word, 1));
  OK(cuEventRecord(event, stream));
  OK(cuStreamWaitEvent(waiter, event, 0));
  OK(launch(kernel("set"), waiter, mark, 1));
  OK(cuEventRecord(event, free_stream()));
  OK(cuEventSynchronize(event));
  OK(cuEventDestroy_v2(event));
  RESULT(cuStreamQuery(waiter), CUDA_ERROR_NOT_READY);
  REQUIRE(word_at(mark) == 0);
  set_word(word, 1);
  OK(cuStreamSynchronize(waiter));
  REQUIRE(word_at(mark) == 1);
}

void check_context_events(void) {
  CUevent all, gate;
  CUcontext context = use_device(0);
  CUstream first = free_stream(), second = free_stream();
  CUdeviceptr word = zeroed_word(), mark = zeroed_word();
  CUfunction hold = kernel("hold"), set = kernel("set");
  OK(cuEventCreate(&all, 0));
  OK(cuEventCreate(&gate, 0));
  OK(launch(hold, first, word, 1));
  OK(cuCtxRecordEvent(context, all));
  RESULT(cuEventQuery(all), CUDA_ERROR_NOT_READY);
  OK(cuEventRecord(gate, first));
  OK(cuCtxWaitEvent(context, gate));
  OK(launch(set, second, mark, 1));
  CUstream late = free_stream();
  OK(launch(set, late, mark, 1));
  RESULT(cuStreamQuery(second), CUDA_ERROR_NOT_READY);
  RESULT(cuStreamQuery(late), CUDA_ERROR_NOT_READY);
  CUcontext helper = use_device(0); /* whose streams do not wait */
  set_word(word, 1);
  OK(cuCtxDestroy_v2(helper));
  OK(cuEventSynchronize(all));
  OK(cuCtxSynchronize());
  REQUIRE(word_at(mark) == 1);
}

/* ---- host functions ---- */

struct trace {
  int count, order[3];
  CUresult inside;
};

static struct trace trace;

static void note(void *number) {
  CUdeviceptr address;
  trace.order[trace.count++] = *(int *)number;
  trace.inside = cuMemAlloc_v2(&address, 4);
}

static void CUDA_CB noted(CUstream stream, CUresult status, void *number) {
  REQUIRE(status == CUDA_SUCCESS && stream != NULL);
  note(number);
}

void check_host_functions(void) {
  static int numbers[] = {0, 1, 2};
  use_device(0);
  CUstream stream = blocking_stream();
  OK(cuLaunchHostFunc(stream, note, &numbers[0]));
  OK(cuStreamAddCallback(stream, noted, &numbers[1], 0));
  OK(cuLaunchHostFunc(stream, note, &numbers[2]));
  OK(cuStreamSynchronize(stream));
  REQUIRE(trace.count == 3 && trace.order[0] == 0 && trace.order[1] == 1 && trace.order[2] == 2);
  REQUIRE(trace.inside == CUDA_ERROR_NOT_PERMITTED);
}

static void wait_for_post(void *semaphore) { sem_wait(semaphore); }

/* A host function that waits for the program holds up its stream and nothing else. */
void check_callbacks_block_no_copy(void) {
  sem_t go;
  use_device(0);
  CUstream held = free_stream();
  CUdeviceptr mark = zeroed_word();
  sem_init(&go, 0, 0);
  OK(cuLaunchHostFunc(held, wait_for_post, &go));
  set_word(mark, 5);
  REQUIRE(word_at(mark) == 5);
  RESULT(cuStreamQuery(held), CUDA_ERROR_NOT_READY);
  sem_post(&go);
  OK(cuStreamSynchronize(held));
}

/* ---- kernels that wait for memory ---- */

/* Fed by a copy of another stream, and by the program through pinned memory. */
void check_persistent_kernel(void) {
  void *place;
  use_device(0);
  CUstream stream = free_stream(), feeder = free_stream();
  CUdeviceptr word = zeroed_word();
  CUfunction hold = kernel("hold");
  uint32_t value = 9;
  OK(cuMemAllocHost_v2(&place, 4));
  OK(launch(hold, stream, word, 9));
  OK(launch(hold, stream, (CUdeviceptr)(uintptr_t)place, 1));
  OK(cuMemcpyHtoDAsync_v2(word, &value, 4, feeder));
  OK(cuStreamSynchronize(feeder));
  RESULT(cuStreamQuery(stream), CUDA_ERROR_NOT_READY); /* the second kernel holds */
  __atomic_store_n((uint32_t *)place, 1, __ATOMIC_RELEASE);
  OK(cuStreamSynchronize(stream));
  OK(launch(hold, stream, 8, 1)); /* no such memory */
  RESULT(cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
}

void check_collective(void) {
  CUcontext second = use_device(1);
  CUstream there = free_stream();
  CUfunction barrier_there = kernel("barrier");
  use_device(0);
  CUdeviceptr count = zeroed_word();
  CUstream here = free_stream();
  OK(launch(kernel("barrier"), here, count, 2));
  while (word_at(count) == 0)
    ;
  RESULT(cuStreamQuery(here), CUDA_ERROR_NOT_READY);
  OK(cuCtxPushCurrent_v2(second));
  OK(launch(barrier_there, there, count, 2));
  OK(cuStreamSynchronize(there));
  OK(cuCtxPopCurrent_v2(&second));
  OK(cuStreamSynchronize(here));
  REQUIRE(word_at(count) == 2);
}

/* ---- ends ---- */

void check_end_with_work(void) {
  uint64_t before = used_bytes(0);
  CUcontext context = use_device(0);
  CUstream stream = free_stream();
  CUdeviceptr word = zeroed_word();
  OK(launch(kernel("hold"), stream, word, 1));
  for (int i = 0; i < 10; i++) {
    OK(cuMemsetD32Async(word, 0, 1, stream));
    OK(cuLaunchHostFunc(stream, note, NULL)); /* would crash if it ran */
  }
  OK(cuCtxDestroy_v2(context));
  REQUIRE(used_bytes(0) == before);
}

/* A destroyed stream finishes its work; cuCtxSynchronize waits for that. */
void check_stream_end(void) {
  use_device(0);
  CUstream stream = free_stream();
  CUdeviceptr word = zeroed_word(), mark = zeroed_word();
  OK(launch(kernel("hold"), stream, word, 1));
  OK(launch(kernel("set"), stream, mark, 1));
  OK(cuStreamDestroy_v2(stream));
  set_word(word, 1);
  OK(cuCtxSynchronize());
  REQUIRE(word_at(mark) == 1);
  RESULT(cuStreamDestroy_v2(NULL), CUDA_ERROR_INVALID_HANDLE);
}

/* ---- threads ---- */

enum { THREADS = 4, ROUNDS = 40, WORDS = 64 };

static void *work_hard(void *context) {
  CUdeviceptr device;
  CUstream stream;
  CUevent event;
  uint32_t out[WORDS], back[WORDS];
  OK(cuCtxSetCurrent(context));
  for (int round = 0; round < ROUNDS; round++) {
    OK(cuStreamCreate(&stream, round % 2 ? CU_STREAM_NON_BLOCKING : CU_STREAM_DEFAULT));
    OK(cuEventCreate(&event, 0));
    OK(cuMemAlloc_v2(&device, sizeof out));
    for (int i = 0; i < WORDS; i++)
      out[i] = (uint32_t)(uintptr_t)&round + (uint32_t)(round * WORDS + i);
    OK(cuMemcpyHtoDAsync_v2(device, out, sizeof out, stream));
    OK(cuEventRecord(event, stream));
    OK(cuStreamWaitEvent(NULL, event, 0));
    OK(cuMemsetD32Async(device, 0, 1, NULL)); /* the legacy stream, shared by all threads */
    OK(cuMemcpyDtoH_v2(back, device, sizeof back));
    REQUIRE(back[0] == 0 && !memcmp(back + 1, out + 1, sizeof out - 4));
    OK(cuMemFree_v2(device));
    OK(cuEventDestroy_v2(event));
    OK(cuStreamDestroy_v2(stream));
  }
  return NULL;
}

void check_many_threads(void) {
  pthread_t threads[THREADS];
  CUcontext context = use_device(0);
  uint64_t before = used_bytes(0);
  for (int i = 0; i < THREADS; i++)
    REQUIRE(pthread_create(&threads[i], NULL, work_hard, context) == 0);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  REQUIRE(used_bytes(0) == before);
}
