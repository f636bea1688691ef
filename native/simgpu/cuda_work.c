/* cuda_work.c - one piece of work: checked, copied, recorded into a capture, or put into a stream. */
#include "cuda_internal.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"

static CUresult duplicate(void **to, const void *from, size_t bytes) {
  if (bytes == 0) {
    *to = NULL;
    return CUDA_SUCCESS;
  }
  *to = malloc(bytes);
  if (!*to)
    return CUDA_ERROR_OUT_OF_MEMORY;
  memcpy(*to, from, bytes);
  return CUDA_SUCCESS;
}

CUresult sim_work_copy(const struct sim_work *from, struct sim_work *to) {
  void *own = NULL;
  CUresult result = CUDA_SUCCESS;
  *to = *from;
  if (from->kind == SIM_WORK_KERNEL) {
    result = duplicate(&own, from->launch.parameters, from->launch.parameter_bytes);
    to->launch.parameters = own;
  } else if (from->kind == SIM_WORK_MEMOP) {
    result = duplicate(&own, from->memop.operations, from->memop.count * sizeof *from->memop.operations);
    to->memop.operations = own;
  }
  return result;
}

void sim_work_clear(struct sim_work *work) {
  if (work->kind == SIM_WORK_KERNEL) {
    free(work->launch.parameters);
    work->launch.parameters = NULL;
  } else if (work->kind == SIM_WORK_MEMOP) {
    free(work->memop.operations);
    work->memop.operations = NULL;
  }
}

CUresult sim_work_check(const struct sim_work *work, CUcontext context) {
  switch (work->kind) {
  case SIM_WORK_KERNEL:
    return sim_launch_check(&work->launch, context);
  case SIM_WORK_COPY:
    return sim_copy_check(&work->copy);
  case SIM_WORK_MEMSET:
    return sim_memset_check(&work->set);
  case SIM_WORK_HOST:
    return work->host.function || work->host.callback ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  case SIM_WORK_EVENT_RECORD:
  case SIM_WORK_EVENT_WAIT:
    return work->event.event && work->event.event->magic == SIM_MAGIC_EVENT ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  default:
    return CUDA_SUCCESS;
  }
}

/* ---- host functions: run by the driver's callback thread ---- */

struct call {
  struct sim_host host;
  CUcontext context;
};

static void run_call(void *argument) {
  struct call *call = argument;
  CUresult status = (CUresult)atomic_load(&call->context->sticky);
  if (call->host.callback)
    call->host.callback(call->host.stream, status, call->host.argument);
  else if (status == CUDA_SUCCESS) /* host functions are not called after an error */
    call->host.function(call->host.argument);
}

static CUresult put_host(CUstream stream, const struct sim_host *host) {
  struct call *call = malloc(sizeof *call);
  if (!call)
    return CUDA_ERROR_OUT_OF_MEMORY;
  *call = (struct call){.host = *host, .context = stream->context};
  CUresult result = sim_worker_queue(stream, SG_ENGINE_NONE, 0, true, run_call, free, call);
  if (result != CUDA_SUCCESS)
    free(call);
  return result;
}

/* ---- into a stream ---- */

CUresult sim_stream_add(CUstream stream, const struct sim_work *work) {
  CUresult result = CUDA_SUCCESS;
  switch (work->kind) {
  case SIM_WORK_KERNEL:
    result = sim_launch_put(stream, &work->launch);
    break;
  case SIM_WORK_COPY:
    result = sim_copy_put(stream, &work->copy);
    break;
  case SIM_WORK_MEMSET:
    result = sim_memset_put(stream, &work->set);
    break;
  case SIM_WORK_HOST:
    result = put_host(stream, &work->host);
    break;
  case SIM_WORK_EVENT_RECORD:
    result = sim_event_put_record(stream, work->event.event);
    break;
  case SIM_WORK_EVENT_WAIT:
    result = sim_event_put_wait(stream, work->event.event);
    break;
  case SIM_WORK_MEMOP:
    result = sim_memop_put(stream, &work->memop);
    break;
  case SIM_WORK_ALLOC:
  case SIM_WORK_FREE:
    result = sim_pool_put(stream, work);
    break;
  case SIM_WORK_EMPTY:
    break;
  }
  atomic_fetch_add(&stream->puts, 1);
  return result;
}

CUresult sim_submit(CUstream stream, const struct sim_work *work) {
  CUresult result = sim_stream_begin(stream);
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_stream_add(stream, work);
  sim_stream_end(stream);
  return result;
}

CUresult sim_enqueue(CUstream stream, const struct sim_work *work) {
  CUresult result = sim_work_check(work, stream->context);
  if (result != CUDA_SUCCESS)
    return result;
  if (stream->capture)
    return sim_capture_add(stream, work);
  if (stream->is_legacy)
    result = sim_capture_check_legacy(stream->home);
  return result == CUDA_SUCCESS ? sim_submit(stream, work) : result;
}
