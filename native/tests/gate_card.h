/* gate_card.h - a card, a driver and a region for the tests of the gate, all in one process.
 *
 * The card has one engine and takes work in the order of submission; what a launch costs is what the
 * test says, and it is finished when the clock says so. A stream can be held: nothing in it finishes
 * until it is let go. The tenant has one GPU in row ROW; the test plays the arbiter by writing
 * `grants`. Not for threads that submit at once. */
#ifndef CGPU_TESTS_GATE_CARD_H
#define CGPU_TESTS_GATE_CARD_H

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../shim/gate.h"
#include "futex_words.h"

#pragma GCC diagnostic ignored "-Wunused-function" /* each test uses what it needs */

#define MS 1000000ull
#define ROW 2
#define QUANTUM (10 * MS)
#define STREAMS 8
#define EVENTS 4096
#define CONTEXT ((CUcontext)(uintptr_t)0x1000)
#define STREAM(i) ((CUstream)(uintptr_t)(0x2000 + 64 * (i)))
#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #condition); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)
#define ATOMIC(pointer) ((_Atomic(__typeof__(*(pointer))) *)(pointer))
#define HELD UINT64_MAX

static struct cgpu_grants grants;
static struct cgpu_usage usage;
static struct cg_region region = {CG_REGION_READY, &grants, &usage, 5};
static struct cg_driver driver;

/* The card. `free_ns`: when its engine has done all; per stream and event: when they are done. */
static pthread_mutex_t card_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t free_ns, done_ns[STREAMS + 3], event_ns[EVENTS];
static bool capturing[STREAMS];
static unsigned events, records, stream_queries;
static _Atomic(int) illegal; /* queries of a capturing stream, records into one */
static _Atomic(CUresult) sticky;

static __thread CUcontext current;

static unsigned index_of(CUstream stream) {
  if (stream == CU_STREAM_LEGACY) return STREAMS;
  if (stream == CU_STREAM_PER_THREAD) return STREAMS + 1;
  return (unsigned)(((uintptr_t)stream - 0x2000) / 64);
}

static bool is_capturing(CUstream stream) { return index_of(stream) < STREAMS && capturing[index_of(stream)]; }

/* Puts work of the length behind what the stream holds. */
static void run_on_card(CUstream stream, uint64_t length_ns) {
  pthread_mutex_lock(&card_lock);
  uint64_t now_ns = futex_now_ns();
  if (free_ns < now_ns) free_ns = now_ns;
  uint64_t *done = &done_ns[index_of(stream)];
  if (*done != HELD) *done = free_ns += length_ns;
  pthread_mutex_unlock(&card_lock);
}

static void hold_stream(CUstream stream, bool held) {
  pthread_mutex_lock(&card_lock);
  done_ns[index_of(stream)] = held ? HELD : 0;
  for (unsigned i = 1; !held && i <= events; i++) {
    if (event_ns[i] == HELD) event_ns[i] = futex_now_ns();
  }
  pthread_mutex_unlock(&card_lock);
}

static CUresult card_ctx_get(CUcontext *context) {
  *context = current;
  return CUDA_SUCCESS;
}
static CUresult card_ctx_push(CUcontext context) {
  current = context;
  return CUDA_SUCCESS;
}
static CUresult card_ctx_pop(CUcontext *context) {
  *context = current;
  current = NULL;
  return CUDA_SUCCESS;
}
static CUresult card_event_create(CUevent *event, unsigned flags) {
  CHECK(flags == CU_EVENT_DEFAULT);
  pthread_mutex_lock(&card_lock);
  CHECK(++events < EVENTS);
  *event = (CUevent)(uintptr_t)events;
  pthread_mutex_unlock(&card_lock);
  return CUDA_SUCCESS;
}
static CUresult card_event_destroy(CUevent event) { return event ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; }
static uint64_t record_delay_ns; /* what recording an event takes, beside the work that runs */
static void rest_until(uint64_t at_ns);
static CUresult card_event_record(CUevent event, CUstream stream) {
  if (record_delay_ns) rest_until(futex_now_ns() + record_delay_ns);
  if (is_capturing(stream)) atomic_fetch_add(&illegal, 1);
  pthread_mutex_lock(&card_lock);
  records++;
  uint64_t done = done_ns[index_of(stream)], now_ns = futex_now_ns();
  event_ns[(uintptr_t)event] = done > now_ns ? done : now_ns;
  pthread_mutex_unlock(&card_lock);
  return CUDA_SUCCESS;
}
static CUresult done(uint64_t at_ns) {
  if (atomic_load(&sticky)) return atomic_load(&sticky);
  return at_ns <= futex_now_ns() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
static CUresult card_event_query(CUevent event) {
  pthread_mutex_lock(&card_lock);
  CUresult result = done(event_ns[(uintptr_t)event]);
  pthread_mutex_unlock(&card_lock);
  return result;
}
static CUresult card_event_elapsed(float *ms, CUevent start, CUevent end) {
  pthread_mutex_lock(&card_lock);
  *ms = (float)((double)(event_ns[(uintptr_t)end] - event_ns[(uintptr_t)start]) / 1e6);
  pthread_mutex_unlock(&card_lock);
  return CUDA_SUCCESS;
}
static CUresult card_stream_query(CUstream stream) {
  bool any = false;
  for (unsigned i = 0; i < STREAMS; i++) any = any || capturing[i];
  if (is_capturing(stream) || (stream == CU_STREAM_LEGACY && any)) atomic_fetch_add(&illegal, 1);
  pthread_mutex_lock(&card_lock);
  stream_queries++;
  CUresult result = done(done_ns[index_of(stream)]);
  pthread_mutex_unlock(&card_lock);
  return result;
}
static CUresult card_is_capturing(CUstream stream, CUstreamCaptureStatus *status) {
  *status = is_capturing(stream) ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
static CUresult card_exchange(CUstreamCaptureMode *mode) {
  CHECK(*mode == CU_STREAM_CAPTURE_MODE_RELAXED);
  return CUDA_SUCCESS;
}

/* ---- the other parts of the shim ---- */

_Atomic(const struct cg_driver *) cg_driver_table = &driver;
const struct cg_driver *cg_driver_fill(void) { return &driver; }
const struct cg_region *cg_region(void) { return &region; }
void cg_keep_slot(void) {} /* the slot is this program's for ever */
int cg_gpu_current(void) { return current == CONTEXT ? ROW : -1; }
void cg_say_once(bool *said, const char *format, ...) {
  *said = true;
  fprintf(stderr, "%s\n", format);
}

/* ---- what the tests do ---- */

static void set_up(void) {
  driver.x_cuCtxGetCurrent = card_ctx_get;
  driver.x_cuCtxPushCurrent_v2 = card_ctx_push;
  driver.x_cuCtxPopCurrent_v2 = card_ctx_pop;
  driver.x_cuEventCreate = card_event_create;
  driver.x_cuEventDestroy_v2 = card_event_destroy;
  driver.x_cuEventRecord = card_event_record;
  driver.x_cuEventQuery = card_event_query;
  driver.x_cuEventElapsedTime = card_event_elapsed;
  driver.x_cuStreamQuery = card_stream_query;
  driver.x_cuStreamIsCapturing = card_is_capturing;
  driver.x_cuThreadExchangeStreamCaptureMode = card_exchange;
  grants.gpu[ROW].quantum_ns = QUANTUM;
  usage.slot[5].header.state = CGPU_SLOT_LIVE;
  usage.header.slots_seen = 6;
  current = CONTEXT;
}

static uint32_t gate_word(void) { return atomic_load(ATOMIC(&usage.slot[5].gpu[ROW].gate)); }
static uint32_t doorbell(void) { return atomic_load(ATOMIC(&usage.gpu[ROW].doorbell)); }

/* What the arbiter writes; a heartbeat far in the future needs no second thread. */
static void grant(uint32_t state, uint64_t deadline_ns, uint32_t contenders) {
  static uint32_t epoch;
  atomic_store(ATOMIC(&grants.header.heartbeat_ns), futex_now_ns() + 3600000 * MS);
  atomic_store(ATOMIC(&grants.gpu[ROW].contenders), contenders);
  atomic_store(ATOMIC(&grants.gpu[ROW].grant_deadline_ns), deadline_ns);
  atomic_store(ATOMIC(&grants.gpu[ROW].grant), ++epoch << 2 | state);
  futex_wake_all(ATOMIC(&grants.gpu[ROW].grant), false);
}

static CUresult submit(CUstream stream, uint64_t length_ns, CUresult result) {
  if (result == CUDA_SUCCESS && !is_capturing(stream)) run_on_card(stream, length_ns);
  return result;
}

static void launch_as(enum cg_work work, CUstream stream, uint64_t key, uint64_t length_ns, CUresult wanted) {
  CUresult result;
  GATE_LAUNCH(result, cg_driver(), work, stream, key, submit(stream, length_ns, wanted));
}

static void launch(CUstream stream, uint64_t key, uint64_t length_ns) {
  launch_as(CG_WORK_KERNEL, stream, key, length_ns, CUDA_SUCCESS);
}

static void rest_until(uint64_t until_ns) {
  struct timespec time = futex_time(until_ns);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR) continue;
}

/* Waits for the gate word; false after two seconds. */
static bool await(uint32_t mask, uint32_t word) {
  uint64_t until_ns = futex_now_ns() + 2000 * MS;
  while ((gate_word() & mask) != word) {
    if (futex_now_ns() > until_ns) return false;
    rest_until(futex_now_ns() + MS / 10);
  }
  return true;
}

#endif
