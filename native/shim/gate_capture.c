/* gate_capture.c - streams that are being captured: their launches do not run, so they are neither
 * gated nor charged, and nothing of the gate's may enter them.
 *
 * The hooks tell when a capture begins and ends. Which streams have joined it through events only the
 * driver knows; it is asked (cuStreamIsCapturing may be used on a capturing stream) while at least
 * one capture is active, and never otherwise. */
#include "gate.h"

#include <sys/syscall.h>
#include <unistd.h>

#define CAPTURES 64u

struct capture {
  CUstream stream;
  int thread; /* whose per-thread default stream */
};
static struct capture captures[CAPTURES]; /* with the lock */
static _Atomic(uint32_t) active;          /* entries, and captures that found no entry */

bool gate_capturing(void) { return atomic_load_explicit(&active, memory_order_seq_cst) != 0; }

bool gate_stream_captured(CUstream stream, bool unclear) {
  const struct cg_driver *driver = cg_driver();
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  if (!driver->x_cuStreamIsCapturing) return false;
  if (driver->x_cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS) return unclear;
  return status != CU_STREAM_CAPTURE_STATUS_NONE;
}

static int thread_of(CUstream stream) { return stream == CU_STREAM_PER_THREAD ? (int)syscall(SYS_gettid) : 0; }

static struct capture *find(CUstream stream, int thread) {
  for (unsigned i = 0; i < CAPTURES; i++) {
    if (captures[i].stream == stream && captures[i].thread == thread) return &captures[i];
  }
  return NULL;
}

static void begin(CUstream stream, int thread) {
  if (find(stream, thread)) return;
  struct capture *place = find(NULL, 0);
  if (!place) {
    cg_say("more than %u stream captures at once: work beside them is noticed late [CGPU-SHIM-CAPTURES]", CAPTURES);
    return;
  }
  *place = (struct capture){.stream = stream, .thread = thread};
  atomic_fetch_add(&active, 1);
}

static void end(CUstream stream, int thread) {
  struct capture *place = find(stream, thread);
  if (!place) return;
  *place = (struct capture){0};
  atomic_fetch_sub(&active, 1);
}

void cg_gate_capture(CUstream stream, bool capturing) {
  if (capturing && !gate_capturing()) {
    gate_lock();
    gate_batches_end();
    gate_unlock();
    gate_mark_tails();
  }
  gate_lock();
  if (capturing) {
    begin(stream, thread_of(stream));
    gate_batches_end();
  } else {
    end(stream, thread_of(stream));
  }
  gate_unlock();
  if (capturing) {
    gate_watch_settle();
  } else {
    gate_watch_kick();
  }
}

void gate_capture_forget(CUstream stream) {
  gate_lock();
  end(stream, thread_of(stream));
  gate_unlock();
}

void gate_captures_after_fork(void) {
  for (unsigned i = 0; i < CAPTURES; i++) captures[i] = (struct capture){0};
  atomic_store(&active, 0);
}
