/* cuda_thread.c - what the driver keeps per thread: the context stack, per-thread default streams. */
#include "cuda_internal.h"

#include <stdlib.h>

#include "cuda_process.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static _Thread_local bool in_callback;

bool sim_in_callback(void) { return in_callback; }
void sim_set_in_callback(bool inside) { in_callback = inside; }

/* A thread's default streams die with it, once their work is done. */
static void end_thread(void *value) {
  struct sim_thread *thread = value;
  if (!sim_forked())
    for (struct sim_thread_stream *each = thread->streams; each; each = each->next)
      if (!each->context->destroyed)
        sim_stream_destroy(each->stream);
  while (thread->streams) {
    struct sim_thread_stream *first = thread->streams;
    thread->streams = first->next;
    free(first);
  }
  free(thread->stack);
  free(thread);
}

static void make_key(void) { pthread_key_create(&key, end_thread); }

struct sim_thread *sim_thread(void) {
  pthread_once(&once, make_key);
  struct sim_thread *thread = pthread_getspecific(key);
  if (!thread) {
    thread = calloc(1, sizeof *thread);
    if (thread && pthread_setspecific(key, thread) != 0) {
      free(thread);
      thread = NULL;
    }
  }
  return thread;
}

CUcontext sim_thread_context(void) {
  const struct sim_thread *thread = sim_thread();
  return thread && thread->depth ? thread->stack[thread->depth - 1] : NULL;
}
