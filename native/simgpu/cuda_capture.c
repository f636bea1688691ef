/* cuda_capture.c - what stream capture forbids to others, and what breaks it.
 *
 * CUDA driver API, cuStreamBeginCapture and cuThreadExchangeStreamCaptureMode: a call that is
 * potentially unsafe (cuMemAlloc, cuEventQuery, ...) fails, and invalidates the captures that forbid
 * it, depending on the mode of each capture and on that of the calling thread. A call that would
 * wait for captured work, which never runs, always does.
 */
#include "cuda_capture.h"

#include <stdlib.h>

static struct capture_sequence *sequences;
static _Atomic unsigned sequence_count; /* so that calls outside any capture stay cheap */
static _Thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

struct capture_sequence *capture_sequences(void) { return sequences; }

void capture_sequence_begin(struct capture_sequence *sequence) {
  sequence->next = sequences;
  sequences = sequence;
  atomic_fetch_add(&sequence_count, 1);
}

void capture_sequence_end(struct capture_sequence *sequence) {
  struct capture_sequence **link = &sequences;
  while (*link != sequence)
    link = &(*link)->next;
  *link = sequence->next;
  atomic_fetch_sub(&sequence_count, 1);
}

CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (mode == NULL || *mode < CU_STREAM_CAPTURE_MODE_GLOBAL || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
    return CUDA_ERROR_INVALID_VALUE;
  CUstreamCaptureMode before = thread_mode;
  thread_mode = *mode;
  *mode = before;
  return CUDA_SUCCESS;
}

/* Whether the sequence forbids unsafe calls to this thread. */
static bool forbids(const struct capture_sequence *sequence) {
  if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
    return false;
  if (pthread_equal(sequence->thread, pthread_self()))
    return sequence->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
  return thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL && sequence->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
}

CUresult sim_capture_check_unsafe(void) {
  if (atomic_load(&sequence_count) == 0)
    return CUDA_SUCCESS;
  CUresult result = CUDA_SUCCESS;
  graph_lock();
  for (struct capture_sequence *each = sequences; each; each = each->next)
    if (forbids(each)) {
      each->invalid = true;
      result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
  graph_unlock();
  return result;
}

/* Invalidates the sequences that have a stream of the context or view; `blocking_only` those with a
 * stream that its legacy stream would have to wait for. */
static bool invalidate_in(CUcontext home, bool blocking_only) {
  bool any = false;
  graph_lock();
  for (struct capture_sequence *each = sequences; each; each = each->next)
    for (struct sim_capture *stream = each->streams; stream; stream = stream->next)
      if (blocking_only ? stream->stream->home == home && !(stream->stream->flags & CU_STREAM_NON_BLOCKING)
                        : stream->stream->home == home || stream->stream->context == home) {
        each->invalid = true;
        any = true;
      }
  graph_unlock();
  return any;
}

CUresult sim_capture_check_legacy(CUcontext home) {
  if (atomic_load(&sequence_count) == 0)
    return CUDA_SUCCESS;
  return invalidate_in(home, true) ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT : CUDA_SUCCESS;
}

CUresult sim_capture_check_context(CUcontext home) {
  if (atomic_load(&sequence_count) == 0)
    return CUDA_SUCCESS;
  return invalidate_in(home, false) ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult sim_capture_refuse_sync(CUstream stream) {
  CUresult result = CUDA_SUCCESS;
  graph_lock();
  if (stream->capture) {
    result = stream->capture->sequence->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                                                : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    stream->capture->sequence->invalid = true;
  }
  graph_unlock();
  return result;
}

/* Also after the capture has ended: the event was never recorded by work that ran. */
CUresult sim_capture_refuse_event(CUevent event) {
  CUresult result = CUDA_SUCCESS;
  graph_lock();
  if (event->captured) {
    event->captured->sequence->invalid = true;
    result = CUDA_ERROR_CAPTURED_EVENT;
  }
  graph_unlock();
  return result;
}
