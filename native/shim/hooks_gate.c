/* hooks_gate.c - the hooks that tell the gate what happens to streams besides launches: the host waits
 * for them, they are captured, they end; and the one launch that goes to several devices. */
#include "gate.h"
#include "memory.h"

/* ---- sync: what was submitted before the wait began has finished when it ends ---- */

#define SYNC(name, remember, params, args) \
  CG_EXPORT CUresult name params {         \
    CG_DRIVER(name);                       \
    struct gate_sync sync;                 \
    remember;                              \
    CUresult result = driver->name args;   \
    gate_sync_end(&sync, result);          \
    cg_stocks_synchronized();              \
    return result;                         \
  }
SYNC(cuStreamSynchronize, gate_sync_stream(&sync, CG_NULL(hStream)), (CUstream hStream), (hStream))
SYNC(cuStreamSynchronize_ptsz, gate_sync_stream(&sync, CG_PTSZ(hStream)), (CUstream hStream), (hStream))
SYNC(cuCtxSynchronize, gate_sync_context(&sync, NULL), (void), ())
SYNC(cuCtxSynchronize_v2, gate_sync_context(&sync, ctx), (CUcontext ctx), (ctx))

CG_EXPORT CUresult cuEventSynchronize(CUevent hEvent) {
  CG_DRIVER(cuEventSynchronize);
  CUresult result = driver->cuEventSynchronize(hEvent);
  gate_watch_kick(); /* what lies before the event is not known here: the watcher looks */
  cg_stocks_synchronized();
  return result;
}

/* ---- capture: announced before it begins, so that no query of the gate's can fall into it ---- */

static CUresult ended(CUstream stream, CUresult result) {
  if (!gate_stream_captured(stream, false)) cg_gate_capture(stream, false);
  return result;
}

#define BEGIN(name, stream, params, args)       \
  CG_EXPORT CUresult name params {              \
    CG_DRIVER(name);                               \
    cg_gate_capture(stream, true);              \
    CUresult result = driver->name args;        \
    return result ? ended(stream, result) : result; \
  }
#define END(name, stream, params, args)        \
  CG_EXPORT CUresult name params {             \
    CG_DRIVER(name);                              \
    return ended(stream, driver->name args);   \
  }
#define TO_GRAPH_PARAMS                                                                                      \
  (CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies, const CUgraphEdgeData *dependencyData, \
   size_t numDependencies, CUstreamCaptureMode mode)
#define TO_GRAPH_ARGS (hStream, hGraph, dependencies, dependencyData, numDependencies, mode)
#define TO_CIG_PARAMS (CUstream hStream, CUstreamCigCaptureParams *streamCigCaptureParams)
#define TO_CIG_ARGS (hStream, streamCigCaptureParams)

BEGIN(cuStreamBeginCapture, CG_NULL(hStream), (CUstream hStream), (hStream))
BEGIN(cuStreamBeginCapture_ptsz, CG_PTSZ(hStream), (CUstream hStream), (hStream))
BEGIN(cuStreamBeginCapture_v2, CG_NULL(hStream), (CUstream hStream, CUstreamCaptureMode mode), (hStream, mode))
BEGIN(cuStreamBeginCapture_v2_ptsz, CG_PTSZ(hStream), (CUstream hStream, CUstreamCaptureMode mode), (hStream, mode))
BEGIN(cuStreamBeginCaptureToGraph, CG_NULL(hStream), TO_GRAPH_PARAMS, TO_GRAPH_ARGS)
BEGIN(cuStreamBeginCaptureToGraph_ptsz, CG_PTSZ(hStream), TO_GRAPH_PARAMS, TO_GRAPH_ARGS)
BEGIN(cuStreamBeginCaptureToCig, CG_NULL(hStream), TO_CIG_PARAMS, TO_CIG_ARGS)
BEGIN(cuStreamBeginCaptureToCig_ptsz, CG_PTSZ(hStream), TO_CIG_PARAMS, TO_CIG_ARGS)
END(cuStreamEndCapture, CG_NULL(hStream), (CUstream hStream, CUgraph *phGraph), (hStream, phGraph))
END(cuStreamEndCapture_ptsz, CG_PTSZ(hStream), (CUstream hStream, CUgraph *phGraph), (hStream, phGraph))
END(cuStreamEndCaptureToCig, CG_NULL(hStream), (CUstream hStream), (hStream))
END(cuStreamEndCaptureToCig_ptsz, CG_PTSZ(hStream), (CUstream hStream), (hStream))

/* ---- the end of a stream ---- */

CG_EXPORT CUresult cuStreamDestroy(CUstream hStream) {
  CG_DRIVER(cuStreamDestroy);
  cg_gate_forget_stream(hStream);
  return driver->cuStreamDestroy(hStream);
}

CG_EXPORT CUresult cuStreamDestroy_v2(CUstream hStream) {
  CG_DRIVER(cuStreamDestroy_v2);
  cg_gate_forget_stream(hStream);
  return driver->cuStreamDestroy_v2(hStream);
}

/* ---- one launch on several devices: it passes the gate of each ---- */

#define DEVICES 16u

struct part { /* of the launch, on one device */
  struct cg_pass pass;
  CUcontext context;
};

/* Makes the context of the part's stream current; such a launch allows no default streams. */
static bool push(struct part *part, CUstream stream) {
  const struct cg_driver *driver = cg_driver();
  bool known = part->context || (driver->x_cuStreamGetCtx && driver->x_cuStreamGetCtx(stream, &part->context) == CUDA_SUCCESS);
  return known && driver->x_cuCtxPushCurrent_v2(part->context) == CUDA_SUCCESS;
}

static void pop(void) {
  CUcontext popped;
  cg_driver()->x_cuCtxPopCurrent_v2(&popped);
}

static void enter_part(struct part *part, const CUDA_LAUNCH_PARAMS *launch) {
  *part = (struct part){.pass.gpu = -1};
  if (!push(part, launch->hStream)) return;
  cg_gate_enter(&part->pass, CG_WORK_KERNEL, launch->hStream, (uint64_t)(uintptr_t)launch->function);
  pop();
}

static void leave_part(struct part *part, CUstream stream, CUresult result) {
  if (part->pass.gpu < 0 || !push(part, stream)) return;
  cg_gate_leave(&part->pass, result);
  pop();
}

CG_EXPORT CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *launchParamsList, unsigned int numDevices,
                                                        unsigned int flags) {
  CG_DRIVER(cuLaunchCooperativeKernelMultiDevice);
  struct part part[DEVICES];
  gate_batch_end(true); /* a thread is inside of one batch at a time */
  unsigned count = launchParamsList && numDevices <= DEVICES ? numDevices : 0;
  for (unsigned i = 0; i < count; i++) enter_part(&part[i], &launchParamsList[i]);
  CUresult result = driver->cuLaunchCooperativeKernelMultiDevice(launchParamsList, numDevices, flags);
  for (unsigned i = 0; i < count; i++) leave_part(&part[i], launchParamsList[i].hStream, result);
  return result;
}
