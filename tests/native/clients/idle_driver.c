/* idle_driver.c - a libcuda whose calls do next to nothing, so that what the shim adds to them is nearly all
 * that there is to count. One card, one context for all threads, work that has finished as it is launched. */
#define __CUDA_API_VERSION_INTERNAL /* names as they are exported, none renamed */
#include <cuda.h>
#include <stdint.h>
#include <string.h>

#define API __attribute__((visibility("default")))
#define CONTEXT ((CUcontext)(uintptr_t)0x1000)
#define FIRST_BLOCK ((CUdeviceptr)1 << 40)
#define BLOCK_BYTES ((CUdeviceptr)2 << 20)
#define CARD_BYTES ((size_t)16 << 30)
#define BLOCKS 131072u

static __thread CUcontext current __attribute__((tls_model("initial-exec")));
static unsigned free_blocks[BLOCKS], freed, fresh; /* the client has one thread */

API CUresult cuInit(unsigned flags) { return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS; }
API CUresult cuDriverGetVersion(int *version) {
  *version = 12040;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
API CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
  (void)device;
  memset(uuid, 1, sizeof *uuid);
  return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  (void)device;
  *context = CONTEXT;
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
  (void)device;
  *flags = 0;
  *active = 0;
  return CUDA_SUCCESS;
}
API CUresult cuCtxGetCurrent(CUcontext *context) {
  *context = current;
  return CUDA_SUCCESS;
}
API CUresult cuCtxSetCurrent(CUcontext context) {
  current = context;
  return CUDA_SUCCESS;
}
API CUresult cuCtxPushCurrent_v2(CUcontext context) { return cuCtxSetCurrent(context); }
API CUresult cuCtxPopCurrent_v2(CUcontext *context) {
  *context = current;
  current = NULL;
  return CUDA_SUCCESS;
}
API CUresult cuCtxGetDevice(CUdevice *device) {
  *device = 0;
  return current ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
API CUresult cuCtxSynchronize(void) { return CUDA_SUCCESS; }

API CUresult cuLaunchKernel(CUfunction f, unsigned gridDimX, unsigned gridDimY, unsigned gridDimZ, unsigned blockDimX,
                            unsigned blockDimY, unsigned blockDimZ, unsigned sharedMemBytes, CUstream hStream,
                            void **kernelParams, void **extra) {
  (void)gridDimX, (void)gridDimY, (void)gridDimZ, (void)blockDimX, (void)blockDimY, (void)blockDimZ;
  (void)sharedMemBytes, (void)hStream, (void)kernelParams, (void)extra;
  return f ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
API CUresult cuStreamQuery(CUstream stream) {
  (void)stream;
  return CUDA_SUCCESS;
}
API CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
  (void)stream;
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
API CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
  *mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  return CUDA_SUCCESS;
}
API CUresult cuEventCreate(CUevent *event, unsigned flags) {
  *event = (CUevent)(uintptr_t)(0x2000 + flags);
  return CUDA_SUCCESS;
}
API CUresult cuEventDestroy_v2(CUevent event) {
  (void)event;
  return CUDA_SUCCESS;
}
API CUresult cuEventRecord(CUevent event, CUstream stream) {
  (void)event, (void)stream;
  return CUDA_SUCCESS;
}
API CUresult cuEventQuery(CUevent event) {
  (void)event;
  return CUDA_SUCCESS;
}
API CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
  (void)start, (void)end;
  *milliseconds = 0.002f;
  return CUDA_SUCCESS;
}

API CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
  if (bytes > BLOCK_BYTES || (!freed && fresh == BLOCKS)) return CUDA_ERROR_OUT_OF_MEMORY;
  unsigned block = freed ? free_blocks[--freed] : fresh++;
  *pointer = FIRST_BLOCK + block * BLOCK_BYTES;
  return CUDA_SUCCESS;
}
API CUresult cuMemFree_v2(CUdeviceptr pointer) {
  free_blocks[freed++] = (unsigned)((pointer - FIRST_BLOCK) / BLOCK_BYTES);
  return CUDA_SUCCESS;
}
API CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
  *free_bytes = *total_bytes = CARD_BYTES;
  return CUDA_SUCCESS;
}
