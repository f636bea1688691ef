/* rows_unhooked.c - rows of rows.c: functions that are not hooked, called a hundred times each.
 *
 * What they need first (a module, a green context) is made by hooked functions and may be refused: then that
 * is the row's answer. Everything goes with the release. */
#include "rows.h"

#define TIMES 100

static const char image[] = ROW_IMAGE;

static CUmodule module;
static CUlibrary library;
static CUgreenCtx green;
static CUstream streams[TIMES];
static CUevent events[TIMES];
static unsigned streams_made, events_made;

static CUresult release(void) {
  while (streams_made) TRY(cuStreamDestroy_v2(streams[--streams_made]));
  while (events_made) TRY(cuEventDestroy_v2(events[--events_made]));
  if (module) TRY(cuModuleUnload(module));
  if (library) TRY(cuLibraryUnload(library));
  if (green) TRY(cuGreenCtxDestroy(green));
  module = NULL, library = NULL, green = NULL;
  return CUDA_SUCCESS;
}

/* Passes on what has become of an attempt, of which nothing stays if it has failed. */
static CUresult settle(CUresult result) {
  if (result != CUDA_SUCCESS) release();
  return result;
}

static CUresult make_green(void) {
  CUdevResource processors;
  CUdevResourceDesc description;
  TRY(cuDeviceGetDevResource(0, &processors, CU_DEV_RESOURCE_TYPE_SM));
  TRY(cuDevResourceGenerateDesc(&description, &processors, 1));
  return cuGreenCtxCreate(&green, description, 0, CU_GREEN_CTX_DEFAULT_STREAM);
}

/* ---- streams and events ---- */

static CUresult stream_create(void *entry) {
  for (; streams_made < TIMES; streams_made++) TRY(CALL(cuStreamCreate, entry, &streams[streams_made], 0));
  return CUDA_SUCCESS;
}
static CUresult stream_create_with_priority(void *entry) {
  for (; streams_made < TIMES; streams_made++)
    TRY(CALL(cuStreamCreateWithPriority, entry, &streams[streams_made], 0, 0));
  return CUDA_SUCCESS;
}
static CUresult green_stream_create(void *entry) {
  TRY(make_green());
  for (; streams_made < TIMES; streams_made++)
    TRY(CALL(cuGreenCtxStreamCreate, entry, &streams[streams_made], green, CU_STREAM_NON_BLOCKING, 0));
  return CUDA_SUCCESS;
}
static CUresult event_create(void *entry) {
  for (; events_made < TIMES; events_made++) TRY(CALL(cuEventCreate, entry, &events[events_made], 0));
  return CUDA_SUCCESS;
}

/* ---- contexts ---- */

static CUresult record_event(void *entry) {
  CUcontext context;
  TRY(cuCtxGetCurrent(&context));
  TRY(cuEventCreate(&events[0], 0));
  events_made = 1;
  for (int i = 0; i < TIMES; i++) TRY(CALL(cuCtxRecordEvent, entry, context, events[0]));
  return CUDA_SUCCESS;
}
static CUresult from_green(void *entry) {
  CUcontext context;
  TRY(make_green());
  return CALL(cuCtxFromGreenCtx, entry, &context, green);
}
/* With itself: refused, as a second card would be needed for more. */
static CUresult enable_peer_access(void *entry) {
  CUcontext context;
  TRY(cuCtxGetCurrent(&context));
  return CALL(cuCtxEnablePeerAccess, entry, context, 0);
}
static CUresult set_graph_attribute(void *entry) {
  cuuint64_t zero = 0;
  return CALL(cuDeviceSetGraphMemAttribute, entry, 0, CU_GRAPH_MEM_ATTR_USED_MEM_HIGH, &zero);
}

/* ---- code ---- */

static CUresult get_function(void *entry) {
  CUfunction function;
  TRY(cuModuleLoadData(&module, image));
  return CALL(cuModuleGetFunction, entry, &function, module, "spin");
}
static CUresult func_load(void *entry) {
  CUfunction function;
  TRY(cuModuleLoadData(&module, image));
  TRY(cuModuleGetFunction(&function, module, "spin"));
  return CALL(cuFuncLoad, entry, function);
}
static CUresult func_set_attribute(void *entry) {
  CUfunction function;
  TRY(cuModuleLoadData(&module, image));
  TRY(cuModuleGetFunction(&function, module, "spin"));
  return CALL(cuFuncSetAttribute, entry, function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1024);
}
static CUresult kernel_of_library(CUkernel *kernel) {
  TRY(cuLibraryLoadData(&library, image, NULL, NULL, 0, NULL, NULL, 0));
  return cuLibraryGetKernel(kernel, library, "spin");
}
static CUresult kernel_get_function(void *entry) {
  CUkernel kernel;
  CUfunction function;
  TRY(kernel_of_library(&kernel));
  return CALL(cuKernelGetFunction, entry, &function, kernel);
}
static CUresult kernel_set_attribute(void *entry) {
  CUkernel kernel;
  TRY(kernel_of_library(&kernel));
  return CALL(cuKernelSetAttribute, entry, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1024, kernel, 0);
}
/* Links nothing: what is linked is host memory until a module is made of it. */
static CUresult link_complete(void *entry) {
  CUlinkState state;
  void *linked;
  size_t bytes;
  TRY(cuLinkCreate_v2(0, NULL, NULL, &state));
  CUresult result = CALL(cuLinkComplete, entry, state, &linked, &bytes);
  cuLinkDestroy(state);
  return result;
}

#define ROW(name, attempt)                                            \
  static CUresult name##_row(void *entry, size_t bytes) {             \
    (void)bytes;                                                      \
    return settle(attempt(entry));                                    \
  }
ROW(cuStreamCreate, stream_create)
ROW(cuStreamCreateWithPriority, stream_create_with_priority)
ROW(cuGreenCtxStreamCreate, green_stream_create)
ROW(cuEventCreate, event_create)
ROW(cuCtxRecordEvent, record_event)
ROW(cuCtxFromGreenCtx, from_green)
ROW(cuCtxEnablePeerAccess, enable_peer_access)
ROW(cuDeviceSetGraphMemAttribute, set_graph_attribute)
ROW(cuModuleGetFunction, get_function)
ROW(cuFuncLoad, func_load)
ROW(cuFuncSetAttribute, func_set_attribute)
ROW(cuKernelGetFunction, kernel_get_function)
ROW(cuKernelSetAttribute, kernel_set_attribute)
ROW(cuLinkComplete, link_complete)

#define UNHOOKED(since, name) {#name, ROW_UNHOOKED, name##_row, release},
const struct row unhooked_rows[] = {
#include "rows_unhooked.def"
    {0},
};
