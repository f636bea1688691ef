/* cuda_worker.c - effects in stream order: copies, fills, callbacks, and watches over memory.
 *
 * An effect is an SG_OP_LOCAL item in the stream's channel. When it is due, sg_local_next hands its
 * tag to the process's worker thread. User code (host functions) runs on a second thread, one
 * after the other, so that copies go on while a callback blocks. Both threads start at first need
 * and take no signals.
 */
#include "cuda_internal.h"

#include <signal.h>
#include <stdlib.h>

#include "cuda_process.h"

#define BUCKETS 256
#define WATCH_INTERVAL_NS 200000 /* a persistent kernel would see its word change in about 1 us */

struct item {
  uint64_t tag;
  CUcontext context;
  bool may_block;
  void (*run)(void *);
  void (*drop)(void *);
  void *argument;
  struct sg_local local;
  struct item *next;
};

struct armed_watch {
  struct sim_watch watch;
  sg_fence fence;
  void (*prepare)(void *);
  void *argument;
  bool armed;
  struct armed_watch *next;
};

/* Guarded by worker_lock (innermost). Tags are looked up, not dereferenced: a context's end may
 * drop an item whose tag is already on its way. */
static pthread_mutex_t worker_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t callback_ready = PTHREAD_COND_INITIALIZER, item_over = PTHREAD_COND_INITIALIZER;
static struct item *table[BUCKETS];
static struct item *callbacks, **callbacks_end = &callbacks;
static CUcontext copying_for, calling_for; /* whose item each of the two threads runs */
static struct armed_watch *watches;
static _Atomic unsigned armed_count;
static bool started;

static void run_item(struct item *item) {
  item->run(item->argument);
  if (item->drop)
    item->drop(item->argument);
  sg_local_done(&item->local);
  free(item);
}

/* ---- watches ---- */

static bool holds(const struct sim_watch *watch) {
  uint64_t word, mask = watch->bytes == 8 ? UINT64_MAX : UINT32_MAX;
  if (watch->bytes == 8)
    word = __atomic_load_n((const uint64_t *)watch->alias, __ATOMIC_ACQUIRE);
  else
    word = __atomic_load_n((const uint32_t *)watch->alias, __ATOMIC_ACQUIRE);
  switch (watch->condition & 3) {
  case CU_STREAM_WAIT_VALUE_GEQ: /* cyclic, as cuda.h defines it */
    return watch->bytes == 8 ? (int64_t)(word - watch->value) >= 0 : (int32_t)(word - watch->value) >= 0;
  case CU_STREAM_WAIT_VALUE_EQ:
    return word == (watch->value & mask);
  case CU_STREAM_WAIT_VALUE_AND:
    return (word & watch->value) != 0;
  default:
    return (~(word | watch->value) & mask) != 0;
  }
}

static void check_watches(void) {
  pthread_mutex_lock(&worker_lock);
  for (struct armed_watch **link = &watches; *link;) {
    struct armed_watch *each = *link;
    if (!holds(&each->watch)) {
      link = &each->next;
      continue;
    }
    *link = each->next;
    each->armed = false;
    atomic_fetch_sub(&armed_count, 1);
    sg_fence_signal(each->fence, 1);
  }
  pthread_mutex_unlock(&worker_lock);
}

static void arm_watch(void *argument) {
  struct armed_watch *watch = argument;
  if (watch->prepare)
    watch->prepare(watch->argument);
  pthread_mutex_lock(&worker_lock);
  watch->armed = true;
  watch->next = watches;
  watches = watch;
  atomic_fetch_add(&armed_count, 1);
  pthread_mutex_unlock(&worker_lock);
}

static void end_watch(void *argument) {
  struct armed_watch *watch = argument;
  pthread_mutex_lock(&worker_lock);
  for (struct armed_watch **link = &watches; watch->armed && *link; link = &(*link)->next)
    if (*link == watch) {
      *link = watch->next;
      atomic_fetch_sub(&armed_count, 1);
      break;
    }
  pthread_mutex_unlock(&worker_lock);
  sg_fence_destroy(watch->fence);
  free(watch);
}

static void nothing(void *argument) { (void)argument; }

/* Three items: arm when the stream gets here, hold until the fence, clean up. The last one owns the
 * watch, so that it is dropped even if the context ends in between. */
CUresult sim_stream_watch(CUstream stream, const struct sim_watch *watch, bool hold, void (*prepare)(void *),
                          void *argument) {
  struct armed_watch *armed = calloc(1, sizeof *armed);
  if (!armed)
    return CUDA_ERROR_OUT_OF_MEMORY;
  armed->watch = *watch;
  armed->prepare = prepare;
  armed->argument = argument;
  CUresult result = sim_result(sg_fence_create(&armed->fence));
  if (result != CUDA_SUCCESS) {
    free(armed);
    return result;
  }
  const struct sg_item wait = {
      .op = hold ? SG_OP_HOLD : SG_OP_WAIT, .engine = SG_ENGINE_COMPUTE, .fence = armed->fence, .value = 1};
  result = sim_worker_queue(stream, SG_ENGINE_NONE, 0, false, arm_watch, NULL, armed);
  if (result == CUDA_SUCCESS)
    result = sim_stream_item(stream, &wait);
  if (result == CUDA_SUCCESS)
    return sim_worker_queue(stream, SG_ENGINE_NONE, 0, false, nothing, end_watch, armed);
  return result; /* the context is broken: `armed` may be in use by its remaining items */
}

/* ---- the two threads ---- */

static struct item *take_item(uint64_t tag) {
  for (struct item **link = &table[tag % BUCKETS]; *link; link = &(*link)->next)
    if ((*link)->tag == tag) {
      struct item *item = *link;
      *link = item->next;
      return item;
    }
  return NULL;
}

static void hand_over(struct item *item) {
  item->next = NULL;
  *callbacks_end = item;
  callbacks_end = &item->next;
  pthread_cond_signal(&callback_ready);
}

static void serve(const struct sg_local *local) {
  pthread_mutex_lock(&worker_lock);
  struct item *item = take_item(local->tag);
  if (item) {
    item->local = *local;
    if (item->may_block) {
      hand_over(item);
      item = NULL; /* the other thread's from here on */
    } else {
      copying_for = item->context;
    }
  }
  pthread_mutex_unlock(&worker_lock);
  if (!item)
    return;
  run_item(item);
  pthread_mutex_lock(&worker_lock);
  copying_for = NULL;
  pthread_cond_broadcast(&item_over);
  pthread_mutex_unlock(&worker_lock);
}

static void *work(void *unused) {
  (void)unused;
  sim_set_in_callback(true);
  for (;;) {
    struct sg_local local;
    int next = sg_local_next(&local, atomic_load(&armed_count) ? WATCH_INTERVAL_NS : UINT64_MAX);
    if (next == SG_OK)
      serve(&local);
    else if (next != SG_E_TIMEOUT)
      return NULL; /* the machine is gone; every later call answers so */
    check_watches();
  }
}

/* Call with worker_lock held; gives it up while the user's code runs. */
static void next_callback(void) {
  while (!callbacks)
    pthread_cond_wait(&callback_ready, &worker_lock);
  struct item *item = callbacks;
  callbacks = item->next;
  if (!callbacks)
    callbacks_end = &callbacks;
  calling_for = item->context;
  pthread_mutex_unlock(&worker_lock);
  run_item(item);
  pthread_mutex_lock(&worker_lock);
  calling_for = NULL;
  pthread_cond_broadcast(&item_over);
}

static void *call_back(void *unused) {
  sim_set_in_callback(true);
  pthread_mutex_lock(&worker_lock);
  for (;;)
    next_callback();
  return unused;
}

/* Call with worker_lock held. */
static bool start_threads(void) {
  sigset_t all, before;
  pthread_t worker, caller;
  pthread_attr_t detached;
  if (started)
    return true;
  if (pthread_attr_init(&detached) != 0)
    return false;
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  started = pthread_create(&caller, &detached, call_back, NULL) == 0 &&
            pthread_create(&worker, &detached, work, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&detached);
  return started;
}

/* ---- queueing, and the end of a context ---- */

CUresult sim_worker_queue(CUstream stream, enum sg_engine engine, uint64_t duration_ns, bool may_block,
                          void (*run)(void *), void (*drop)(void *), void *argument) {
  struct item *item = calloc(1, sizeof *item);
  if (!item)
    return CUDA_ERROR_OUT_OF_MEMORY;
  const uint64_t tag = sim_next_id();
  *item = (struct item){.tag = tag, .context = stream->context, .may_block = may_block, .run = run, .drop = drop,
                        .argument = argument};
  pthread_mutex_lock(&worker_lock);
  if (!start_threads()) {
    pthread_mutex_unlock(&worker_lock);
    free(item);
    return CUDA_ERROR_OPERATING_SYSTEM;
  }
  item->next = table[tag % BUCKETS];
  table[tag % BUCKETS] = item;
  pthread_mutex_unlock(&worker_lock);
  const struct sg_item local = {
      .op = SG_OP_LOCAL, .engine = (uint8_t)engine, .value = tag, .duration_ns = duration_ns};
  CUresult result = sim_stream_item(stream, &local);
  if (result != CUDA_SUCCESS) {
    pthread_mutex_lock(&worker_lock);
    item = take_item(tag);
    pthread_mutex_unlock(&worker_lock);
    free(item);
  }
  return result;
}

static struct item *take_context_items(CUcontext context) {
  struct item *taken = NULL;
  for (unsigned bucket = 0; bucket <= BUCKETS; bucket++) {
    struct item **link = bucket < BUCKETS ? &table[bucket] : &callbacks;
    while (*link) {
      struct item *each = *link;
      if (each->context != context) {
        link = &each->next;
        continue;
      }
      *link = each->next;
      each->next = taken;
      taken = each;
    }
    if (bucket == BUCKETS)
      callbacks_end = link;
  }
  return taken;
}

void sim_worker_forget_context(CUcontext context) {
  pthread_mutex_lock(&worker_lock);
  struct item *taken = take_context_items(context);
  while (copying_for == context || calling_for == context)
    pthread_cond_wait(&item_over, &worker_lock);
  pthread_mutex_unlock(&worker_lock);
  while (taken) {
    struct item *item = taken;
    taken = item->next;
    if (item->drop)
      item->drop(item->argument);
    free(item);
  }
}
