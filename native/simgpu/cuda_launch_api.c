/* cuda_launch_api.c - the launching functions, old and new. */
#include "cuda_internal.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"


/* `launch` holds everything but function and parameters. */
static CUresult launch_on(CUstream stream, CUfunction handle, struct sim_launch *launch, void **parameters,
                          void **extra) {
  CUresult result = sim_launch_function(handle, &launch->function, &launch->kernel);
  if (result == CUDA_SUCCESS)
    result = sim_launch_pack(launch, parameters, extra);
  if (result != CUDA_SUCCESS)
    return result;
  launch->sm_count = stream->home->sm_count;
  const struct sim_work work = {.kind = SIM_WORK_KERNEL, .launch = *launch};
  result = sim_enqueue(stream, &work);
  free(launch->parameters);
  return result;
}

static CUresult launch(CUstream handle, CUfunction function, struct sim_launch *shape, void **parameters,
                       void **extra) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  result = launch_on(stream, function, shape, parameters, extra);
  sim_stream_put_back(stream);
  return result;
}

#define SHAPE_PARAMETERS \
  CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ, unsigned int blockDimX, \
      unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream
#define SHAPE(together) \
  (&(struct sim_launch){.grid = {gridDimX, gridDimY, gridDimZ}, .block = {blockDimX, blockDimY, blockDimZ}, \
                        .shared_bytes = sharedMemBytes, .cooperative = together})

CUresult cuLaunchKernel(SHAPE_PARAMETERS, void **kernelParams, void **extra) {
  return launch(sim_null_legacy(hStream), f, SHAPE(false), kernelParams, extra);
}
CUresult cuLaunchKernel_ptsz(SHAPE_PARAMETERS, void **kernelParams, void **extra) {
  return launch(sim_null_thread(hStream), f, SHAPE(false), kernelParams, extra);
}
CUresult cuLaunchCooperativeKernel(SHAPE_PARAMETERS, void **kernelParams) {
  return launch(sim_null_legacy(hStream), f, SHAPE(true), kernelParams, NULL);
}
CUresult cuLaunchCooperativeKernel_ptsz(SHAPE_PARAMETERS, void **kernelParams) {
  return launch(sim_null_thread(hStream), f, SHAPE(true), kernelParams, NULL);
}

/* ---- cuLaunchKernelEx ---- */

struct ex {
  struct sim_launch launch;
  CUevent event; /* recorded behind the kernel */
};

/* Hints that change nothing of what is modelled are accepted. */
static CUresult read_attribute(struct ex *ex, const CUlaunchAttribute *attribute) {
  switch (attribute->id) {
  case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
    ex->launch.cooperative = attribute->value.cooperative != 0;
    return CUDA_SUCCESS;
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
    ex->launch.cluster[0] = attribute->value.clusterDim.x;
    ex->launch.cluster[1] = attribute->value.clusterDim.y;
    ex->launch.cluster[2] = attribute->value.clusterDim.z;
    return CUDA_SUCCESS;
  case CU_LAUNCH_ATTRIBUTE_PRIORITY:
    ex->launch.priority = attribute->value.priority;
    return CUDA_SUCCESS;
  case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
    ex->event = attribute->value.programmaticEvent.event;
    return CUDA_SUCCESS;
  case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
    ex->event = attribute->value.launchCompletionEvent.event;
    return CUDA_SUCCESS;
  case CU_LAUNCH_ATTRIBUTE_IGNORE:
  case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
  case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
  case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
  case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
  case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
  case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    return CUDA_SUCCESS;
  default:
    return CUDA_ERROR_NOT_SUPPORTED;
  }
}

static CUresult launch_ex(CUstream handle, const CUlaunchConfig *config, CUfunction function, void **parameters,
                          void **extra) {
  struct ex ex = {.launch = {.grid = {config->gridDimX, config->gridDimY, config->gridDimZ},
                             .block = {config->blockDimX, config->blockDimY, config->blockDimZ},
                             .shared_bytes = config->sharedMemBytes}};
  CUresult result = config->numAttrs && !config->attrs ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
  for (unsigned i = 0; i < config->numAttrs && result == CUDA_SUCCESS; i++)
    result = read_attribute(&ex, &config->attrs[i]);
  if (result == CUDA_SUCCESS)
    result = launch(handle, function, &ex.launch, parameters, extra);
  return result == CUDA_SUCCESS && ex.event ? cuEventRecord(ex.event, handle) : result;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra) {
  return config ? launch_ex(sim_null_legacy(config->hStream), config, f, kernelParams, extra) : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra) {
  return config ? launch_ex(sim_null_thread(config->hStream), config, f, kernelParams, extra) : CUDA_ERROR_INVALID_VALUE;
}

/* ---- one launch over several devices: a stream of its own on each ---- */

static CUresult check_multi(const CUDA_LAUNCH_PARAMS *list, unsigned count) {
  uint32_t cards = 0;
  for (unsigned i = 0; i < count; i++) {
    CUstream stream = list[i].hStream;
    if (!stream || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD || stream->magic != SIM_MAGIC_STREAM)
      return CUDA_ERROR_INVALID_HANDLE;
    uint32_t bit = 1u << stream->context->card;
    if (cards & bit)
      return CUDA_ERROR_INVALID_DEVICE;
    cards |= bit;
  }
  return CUDA_SUCCESS;
}

CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *launchParamsList, unsigned int numDevices,
                                              unsigned int flags) {
  const unsigned known = CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_PRE_LAUNCH_SYNC |
                         CUDA_COOPERATIVE_LAUNCH_MULTI_DEVICE_NO_POST_LAUNCH_SYNC;
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!launchParamsList || !numDevices || (flags & ~known))
    return CUDA_ERROR_INVALID_VALUE;
  result = check_multi(launchParamsList, numDevices);
  for (unsigned i = 0; i < numDevices && result == CUDA_SUCCESS; i++) {
    const CUDA_LAUNCH_PARAMS *p = &launchParamsList[i];
    struct sim_launch shape = {.grid = {p->gridDimX, p->gridDimY, p->gridDimZ},
                               .block = {p->blockDimX, p->blockDimY, p->blockDimZ},
                               .shared_bytes = p->sharedMemBytes, .cooperative = true};
    result = launch(p->hStream, p->function, &shape, p->kernelParams, NULL);
  }
  return result;
}

/* ---- launches with the state kept in the function (deprecated since CUDA 4.0) ---- */

static CUresult launch_grid(CUfunction handle, int width, int height, CUstream stream) {
  CUfunction function;
  CUkernel kernel;
  CUresult result = sim_launch_function(handle, &function, &kernel);
  if (result != CUDA_SUCCESS)
    return result;
  if (width < 1 || height < 1)
    return CUDA_ERROR_INVALID_VALUE;
  size_t bytes = function->legacy_parameters ? function->parameter_bytes : 0;
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, function->legacy_parameters, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes,
                   CU_LAUNCH_PARAM_END};
  struct sim_launch shape = {.grid = {(unsigned)width, (unsigned)height, 1}, .shared_bytes = function->dynamic_shared};
  memcpy(shape.block, function->block_shape, sizeof shape.block);
  return launch(stream, handle, &shape, NULL, extra);
}

CUresult cuLaunch(CUfunction f) { return launch_grid(f, 1, 1, CU_STREAM_LEGACY); }
CUresult cuLaunchGrid(CUfunction f, int grid_width, int grid_height) {
  return launch_grid(f, grid_width, grid_height, CU_STREAM_LEGACY);
}
CUresult cuLaunchGridAsync(CUfunction f, int grid_width, int grid_height, CUstream hStream) {
  return launch_grid(f, grid_width, grid_height, sim_null_legacy(hStream));
}
