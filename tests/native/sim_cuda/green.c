/* green.c - green contexts: SMs that are split, what runs on a part of them, and whose streams are whose.
 *
 * The card of the tests has 40 SMs in pairs (compute capability 7.5), and driver 550 (CUDA 12.4).
 */
#include "check.h"

static CUdevResource card_resource(CUdevice device) {
  CUdevResource all;
  OK(cuDeviceGetDevResource(device, &all, CU_DEV_RESOURCE_TYPE_SM));
  return all;
}

static CUgreenCtx green_context(CUdevice device, unsigned sm_count) {
  CUdevResource all = card_resource(device), part;
  CUdevResourceDesc descriptor;
  CUgreenCtx green;
  unsigned groups = 1;
  OK(cuDevSmResourceSplitByCount(&part, &groups, &all, NULL, 0, sm_count));
  OK(cuDevResourceGenerateDesc(&descriptor, &part, 1));
  OK(cuGreenCtxCreate(&green, descriptor, device, CU_GREEN_CTX_DEFAULT_STREAM));
  return green;
}

static CUcontext view_of(CUgreenCtx green) {
  CUcontext view;
  OK(cuCtxFromGreenCtx(&view, green));
  return view;
}

static CUcontext use_primary(CUdevice device) {
  CUcontext primary;
  OK(cuDevicePrimaryCtxRetain(&primary, device));
  OK(cuCtxSetCurrent(primary));
  return primary;
}

static CUstream stream_in(CUgreenCtx green) {
  CUstream stream;
  OK(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
  return stream;
}

void check_green_split(void) {
  CUdevResource all = card_resource(0), parts[4], rest, odd = {0};
  unsigned groups = 0;
  REQUIRE(all.type == CU_DEV_RESOURCE_TYPE_SM && all.sm.smCount == sg_card(0)->sm_count);
  REQUIRE(all.sm.minSmPartitionSize == 2 && all.sm.smCoscheduledAlignment == 2);
  OK(cuDevSmResourceSplitByCount(NULL, &groups, &all, NULL, 0, 11)); /* rounded up to 12 */
  REQUIRE(groups == 3);
  groups = 4;
  OK(cuDevSmResourceSplitByCount(parts, &groups, &all, &rest, 0, 11));
  REQUIRE(groups == 3 && parts[0].sm.smCount == 12 && parts[2].sm.smCount == 12 && rest.sm.smCount == 4);
  groups = 2;
  OK(cuDevSmResourceSplitByCount(parts, &groups, &all, &rest, 0, 20));
  REQUIRE(groups == 2 && rest.type == CU_DEV_RESOURCE_TYPE_INVALID);
  groups = 1;
  OK(cuDevSmResourceSplitByCount(parts, &groups, &all, &rest, CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING, 0));
  REQUIRE(groups == 1 && parts[0].sm.smCount == 2 && rest.sm.smCount == 38);
  RESULT(cuDevSmResourceSplitByCount(&odd, &groups, parts, NULL, 0, 2), CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
  RESULT(cuDevSmResourceSplitByCount(parts, &groups, &all, NULL, 0, 41), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuDevSmResourceSplitByCount(parts, &groups, &all, NULL, 4, 2), CUDA_ERROR_INVALID_VALUE);
  const unsigned clusters = CU_DEV_SM_RESOURCE_SPLIT_MAX_POTENTIAL_CLUSTER_SIZE; /* of cards that have them */
  RESULT(cuDevSmResourceSplitByCount(parts, &groups, &all, NULL, clusters, 2), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuDevSmResourceSplitByCount(parts, NULL, &all, NULL, 0, 2), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuDevSmResourceSplitByCount(parts, &groups, &odd, NULL, 0, 2), CUDA_ERROR_INVALID_RESOURCE_TYPE);
  odd.type = CU_DEV_RESOURCE_TYPE_SM; /* made up by the caller */
  odd.sm.smCount = 8;
  RESULT(cuDevSmResourceSplitByCount(parts, &groups, &odd, NULL, 0, 2), CUDA_ERROR_INVALID_VALUE);
  groups = 0;
  RESULT(cuDevSmResourceSplitByCount(parts, &groups, &all, NULL, 0, 2), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuDeviceGetDevResource(2, &all, CU_DEV_RESOURCE_TYPE_SM), CUDA_ERROR_INVALID_DEVICE);
  RESULT(cuDeviceGetDevResource(0, NULL, CU_DEV_RESOURCE_TYPE_SM), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_INVALID), CUDA_ERROR_INVALID_RESOURCE_TYPE);
  RESULT(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_WORKQUEUE), CUDA_ERROR_NOT_SUPPORTED);
}

void check_green_descriptors(void) {
  CUdevResource all = card_resource(0), other = card_resource(1), parts[2], more[2], got;
  CUdevResourceDesc descriptor;
  CUgreenCtx green;
  unsigned groups = 2;
  OK(cuDevSmResourceSplitByCount(parts, &groups, &all, NULL, 0, 6));
  OK(cuDevSmResourceSplitByCount(more, &groups, &all, NULL, 0, 6));
  CUdevResource mixed[2] = {parts[0], more[1]}, twice[2] = {parts[0], parts[0]}, cards[2] = {all, other};
  RESULT(cuDevResourceGenerateDesc(&descriptor, mixed, 2), CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
  RESULT(cuDevResourceGenerateDesc(&descriptor, twice, 2), CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
  RESULT(cuDevResourceGenerateDesc(&descriptor, cards, 2), CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
  RESULT(cuDevResourceGenerateDesc(&descriptor, parts, 0), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuDevResourceGenerateDesc(NULL, parts, 1), CUDA_ERROR_INVALID_VALUE);
  OK(cuDevResourceGenerateDesc(&descriptor, parts, 2));
  RESULT(cuGreenCtxCreate(&green, descriptor, 1, CU_GREEN_CTX_DEFAULT_STREAM), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuGreenCtxCreate(&green, descriptor, 2, CU_GREEN_CTX_DEFAULT_STREAM), CUDA_ERROR_INVALID_DEVICE);
  RESULT(cuGreenCtxCreate(&green, NULL, 0, CU_GREEN_CTX_DEFAULT_STREAM), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuGreenCtxCreate(&green, descriptor, 0, CU_GREEN_CTX_NONE), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuGreenCtxCreate(NULL, descriptor, 0, CU_GREEN_CTX_DEFAULT_STREAM), CUDA_ERROR_INVALID_VALUE);
  OK(cuGreenCtxCreate(&green, descriptor, 0, CU_GREEN_CTX_DEFAULT_STREAM));
  OK(cuGreenCtxGetDevResource(green, &got, CU_DEV_RESOURCE_TYPE_SM));
  REQUIRE(got.sm.smCount == 12);
  OK(cuCtxGetDevResource(view_of(green), &got, CU_DEV_RESOURCE_TYPE_SM));
  REQUIRE(got.sm.smCount == 12);
  OK(cuDevSmResourceSplitByCount(parts, &groups, &got, NULL, 0, 6)); /* may be split again */
  REQUIRE(groups == 2);
  use_primary(0);
  OK(cuCtxGetDevResource(NULL, &got, CU_DEV_RESOURCE_TYPE_SM));
  REQUIRE(got.sm.smCount == 40);
}

/* A green context keeps the primary context alive and takes no memory beside it. */
void check_green_life(void) {
  unsigned long long id, other;
  unsigned flags;
  int active;
  CUcontext got;
  uint64_t before = used_bytes(0);
  CUgreenCtx green = green_context(0, 8);
  OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
  uint64_t with_one = used_bytes(0);
  REQUIRE(active && with_one >= before + sg_card(0)->context_bytes);
  CUgreenCtx second = green_context(0, 8);
  REQUIRE(used_bytes(0) == with_one);
  OK(cuGreenCtxGetId(green, &id));
  OK(cuGreenCtxGetId(second, &other));
  REQUIRE(id != other);
  OK(cuCtxGetCurrent(&got));
  REQUIRE(got == NULL); /* creation makes nothing current */
  CUcontext view = view_of(green);
  RESULT(cuCtxPushCurrent_v2((CUcontext)green), CUDA_ERROR_INVALID_CONTEXT); /* to be converted first */
  OK(cuCtxPushCurrent_v2(view));
  OK(cuCtxGetCurrent(&got));
  REQUIRE(got == view);
  OK(cuGreenCtxGetId(NULL, &other));
  REQUIRE(id == other);
  RESULT(cuCtxDestroy_v2(view), CUDA_ERROR_INVALID_CONTEXT);
  OK(cuGreenCtxDestroy(green));
  RESULT(cuGreenCtxDestroy(green), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  RESULT(cuCtxFromGreenCtx(&got, green), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  RESULT(cuCtxSynchronize(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  RESULT(cuGreenCtxDestroy(NULL), CUDA_ERROR_INVALID_CONTEXT);
  REQUIRE(used_bytes(0) == with_one); /* the other one is still there */
  OK(cuGreenCtxDestroy(second));
  REQUIRE(used_bytes(0) == before);
  green = green_context(0, 8);
  OK(cuDevicePrimaryCtxReset_v2(0));
  REQUIRE(used_bytes(0) == before);
  use_primary(0);
  OK(cuGreenCtxDestroy(green)); /* does not release the new primary context */
  REQUIRE(used_bytes(0) == with_one);
}

/* ---- time ---- */

/* A kernel without effect, which takes what its blocks take. */
static CUfunction modelled(void) {
  CUmodule module;
  CUfunction function;
  OK(cuModuleLoadData(&module, ".version 6.5\n.target sm_70\n.entry work() { ret; }"));
  OK(cuModuleGetFunction(&function, module, "work"));
  return function;
}

static CUresult launch_full(CUfunction function, CUstream stream, unsigned blocks) {
  return cuLaunchKernel(function, blocks, 1, 1, 1024, 1, 1, 0, stream, NULL, NULL);
}

static CUgraphExec captured(CUstream stream, CUfunction function) {
  CUgraph graph;
  CUgraphExec exec;
  OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(launch_full(function, stream, 40));
  OK(cuStreamEndCapture(stream, &graph));
  OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
  return exec;
}

/* How many waves of blocks 40 blocks are in the stream, or the graph in it; held back until all is queued. */
static float waves(CUstream stream, CUfunction function, CUgraphExec graph) {
  CUdeviceptr word = zeroed_word();
  CUevent start, end;
  float milliseconds;
  OK(cuEventCreate(&start, 0));
  OK(cuEventCreate(&end, 0));
  OK(launch(kernel("hold"), stream, word, 1));
  OK(cuEventRecord(start, stream));
  if (graph)
    OK(cuGraphLaunch(graph, stream));
  else
    OK(launch_full(function, stream, 40));
  OK(cuEventRecord(end, stream));
  set_word(word, 1);
  OK(cuEventSynchronize(end));
  OK(cuEventElapsedTime(&milliseconds, start, end));
  return milliseconds * 1e6f / (float)sg_card(0)->block_ns;
}

/* 40 blocks that fill an SM each: one wave on the whole card, five on 8 SMs. */
void check_green_time(void) {
  use_primary(0);
  CUgreenCtx green = green_context(0, 8);
  CUstream part = stream_in(green), whole = free_stream();
  CUfunction work = modelled();
  float count = waves(whole, work, NULL);
  REQUIRE(count > 0.99f && count < 1.5f);
  count = waves(part, work, NULL);
  REQUIRE(count > 4.99f && count < 5.5f);
  count = waves(whole, NULL, captured(part, work)); /* a kernel keeps its SMs, wherever its graph is launched */
  REQUIRE(count > 4.99f && count < 5.5f);
  OK(cuLaunchCooperativeKernel(work, 8, 1, 1, 1024, 1, 1, 0, part, NULL));
  RESULT(cuLaunchCooperativeKernel(work, 9, 1, 1, 1024, 1, 1, 0, part, NULL), CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
  OK(cuLaunchCooperativeKernel(work, 9, 1, 1, 1024, 1, 1, 0, whole, NULL));
  OK(cuCtxSynchronize());
  OK(cuCtxSetCurrent(view_of(green)));
  count = waves(NULL, work, NULL); /* its default stream; the module is the primary context's */
  REQUIRE(count > 4.99f && count < 5.5f);
}

/* A kernel node runs in the context that it names, or that was current. */
void check_green_nodes(void) {
  CUcontext primary = use_primary(0);
  CUgreenCtx green = green_context(0, 8);
  CUgraph graph;
  CUgraphNode node;
  CUgraphExec exec;
  CUDA_KERNEL_NODE_PARAMS_v2 parameters = {.func = modelled(), .gridDimX = 40, .gridDimY = 1, .gridDimZ = 1,
                                           .blockDimX = 1024, .blockDimY = 1, .blockDimZ = 1};
  const CUcontext named[] = {NULL, view_of(green), primary};
  const float wanted[] = {1, 5, 1};
  for (int i = 0; i < 3; i++) {
    parameters.ctx = named[i];
    OK(cuGraphCreate(&graph, 0));
    OK(cuGraphAddKernelNode_v2(&node, graph, NULL, 0, &parameters));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    float count = waves(free_stream(), NULL, exec);
    REQUIRE(count > wanted[i] - 0.01f && count < wanted[i] + 0.5f);
  }
}

/* ---- streams and events ---- */

void check_green_streams(void) {
  CUcontext context, primary = use_primary(0);
  CUdevResource got;
  CUgreenCtx green = green_context(0, 8), found;
  CUstream stream = stream_in(green), plain = free_stream(), blocking, refused;
  RESULT(cuGreenCtxStreamCreate(&refused, green, CU_STREAM_DEFAULT, 0), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuGreenCtxStreamCreate(&refused, NULL, CU_STREAM_NON_BLOCKING, 0), CUDA_ERROR_INVALID_CONTEXT);
  RESULT(cuGreenCtxStreamCreate(NULL, green, CU_STREAM_NON_BLOCKING, 0), CUDA_ERROR_INVALID_VALUE);
  OK(cuStreamGetCtx(stream, &context));
  REQUIRE(context == view_of(green));
  OK(cuStreamGetCtx_v2(stream, &context, &found));
  REQUIRE(context == primary && found == green);
  OK(cuStreamGetCtx_v2(plain, &context, &found));
  REQUIRE(context == primary && found == NULL);
  OK(cuStreamGetGreenCtx(stream, &found));
  REQUIRE(found == green);
  OK(cuStreamGetGreenCtx(NULL, &found));
  REQUIRE(found == NULL);
  OK(cuStreamGetDevResource(stream, &got, CU_DEV_RESOURCE_TYPE_SM));
  REQUIRE(got.sm.smCount == 8);
  RESULT(cuStreamGetDevResource(stream, &got, CU_DEV_RESOURCE_TYPE_WORKQUEUE), CUDA_ERROR_INVALID_RESOURCE_TYPE);

  OK(cuCtxSetCurrent(view_of(green)));
  OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
  OK(cuStreamGetGreenCtx(blocking, &found));
  REQUIRE(found == green);
  OK(cuStreamGetGreenCtx(NULL, &found));
  REQUIRE(found == green);
  RESULT(cuStreamGetCtx_v2(CU_STREAM_PER_THREAD, &context, &found), CUDA_ERROR_INVALID_HANDLE);

  /* its default stream waits for its own blocking streams, not for those of the primary context */
  CUdeviceptr word = zeroed_word(), mark = zeroed_word();
  CUfunction hold = kernel("hold"), set = kernel("set");
  OK(cuCtxSetCurrent(primary));
  CUstream outside;
  OK(cuStreamCreate(&outside, CU_STREAM_DEFAULT));
  OK(launch(hold, outside, word, 1));
  OK(cuCtxSetCurrent(view_of(green)));
  OK(launch(set, NULL, mark, 3));
  OK(cuCtxSynchronize()); /* nor does this */
  RESULT(cuStreamQuery(outside), CUDA_ERROR_NOT_READY);
  REQUIRE(word_at(mark) == 3);
  OK(launch(hold, blocking, word, 2));
  OK(launch(set, NULL, mark, 4));
  set_word(word, 1);
  OK(cuStreamSynchronize(outside));
  RESULT(cuStreamQuery(NULL), CUDA_ERROR_NOT_READY);
  REQUIRE(word_at(mark) == 3);
  set_word(word, 2);
  OK(cuCtxSynchronize());
  REQUIRE(word_at(mark) == 4);
}

void check_green_events(void) {
  CUevent mine, all, gate, foreign;
  use_primary(0);
  CUcontext stranger = use_device(0), popped;
  OK(cuEventCreate(&foreign, 0));
  OK(cuCtxPopCurrent_v2(&popped));
  REQUIRE(popped == stranger);
  CUgreenCtx green = green_context(0, 8);
  CUstream inside = stream_in(green), outside = free_stream();
  CUdeviceptr word = zeroed_word(), mark = zeroed_word();
  CUfunction hold = kernel("hold"), set = kernel("set");
  OK(cuEventCreate(&mine, 0));
  OK(cuEventCreate(&all, 0));
  OK(cuEventCreate(&gate, 0));
  RESULT(cuGreenCtxRecordEvent(green, foreign), CUDA_ERROR_INVALID_HANDLE);
  RESULT(cuGreenCtxRecordEvent(NULL, mine), CUDA_ERROR_INVALID_CONTEXT);
  OK(launch(hold, outside, word, 1));
  OK(cuGreenCtxRecordEvent(green, mine)); /* not of what runs outside */
  OK(cuEventSynchronize(mine));
  OK(cuEventRecord(gate, outside));
  OK(cuGreenCtxWaitEvent(green, gate));
  OK(launch(set, inside, mark, 5));
  CUstream late = stream_in(green);
  OK(launch(set, late, mark, 5));
  OK(cuCtxRecordEvent(NULL, all)); /* of green contexts, too */
  OK(cuCtxRecordEvent(view_of(green), mine));
  RESULT(cuStreamQuery(inside), CUDA_ERROR_NOT_READY);
  RESULT(cuStreamQuery(late), CUDA_ERROR_NOT_READY);
  RESULT(cuEventQuery(mine), CUDA_ERROR_NOT_READY);
  REQUIRE(word_at(mark) == 0); /* read by a stream outside, which need not wait */
  set_word(word, 1);
  OK(cuEventSynchronize(all));
  OK(cuEventSynchronize(mine));
  REQUIRE(word_at(mark) == 5);
}

/* What was queued runs on; the streams can be destroyed and nothing else. */
void check_green_detached(void) {
  use_primary(0);
  CUgreenCtx green = green_context(0, 8);
  CUstream stream = stream_in(green), capturing = stream_in(green);
  CUdeviceptr word = zeroed_word(), mark = zeroed_word();
  CUevent event;
  CUgraph graph;
  OK(cuEventCreate(&event, 0));
  OK(launch(kernel("hold"), stream, word, 1));
  OK(launch(kernel("set"), stream, mark, 2));
  OK(cuStreamBeginCapture_v2(capturing, CU_STREAM_CAPTURE_MODE_RELAXED));
  RESULT(cuGreenCtxRecordEvent(green, event), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  RESULT(cuStreamEndCapture(capturing, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  OK(cuGreenCtxDestroy(green));
  RESULT(cuStreamQuery(stream), CUDA_ERROR_STREAM_DETACHED);
  RESULT(cuEventRecord(event, stream), CUDA_ERROR_STREAM_DETACHED);
  set_word(word, 1);
  OK(cuCtxSynchronize());
  REQUIRE(word_at(mark) == 2);
  OK(cuStreamDestroy_v2(stream));
  OK(cuStreamDestroy_v2(capturing));
}

/* ---- beside them: a flush that has nothing to flush, and a mode of host functions ---- */

void check_rdma_flush(void) {
  const CUflushGPUDirectRDMAWritesTarget target = CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX;
  const CUflushGPUDirectRDMAWritesScope owner = CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER;
  RESULT(cuFlushGPUDirectRDMAWrites(target, owner), CUDA_ERROR_INVALID_CONTEXT);
  use_device(0);
  OK(cuFlushGPUDirectRDMAWrites(target, owner));
  OK(cuFlushGPUDirectRDMAWrites(target, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_ALL_DEVICES));
  RESULT(cuFlushGPUDirectRDMAWrites(target, (CUflushGPUDirectRDMAWritesScope)1), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuFlushGPUDirectRDMAWrites((CUflushGPUDirectRDMAWritesTarget)1, owner), CUDA_ERROR_INVALID_VALUE);
}

static void add_one(void *number) { ++*(int *)number; }

void check_host_function_modes(void) {
  int number = 0;
  use_device(0);
  CUstream stream = free_stream();
  OK(cuLaunchHostFunc_v2(stream, add_one, &number, CU_HOST_TASK_BLOCKING));
  OK(cuLaunchHostFunc_v2(stream, add_one, &number, CU_HOST_TASK_SPINWAIT));
  OK(cuLaunchHostFunc_v2_ptsz(NULL, add_one, &number, CU_HOST_TASK_BLOCKING));
  RESULT(cuLaunchHostFunc_v2(stream, add_one, &number, 2), CUDA_ERROR_INVALID_VALUE);
  RESULT(cuLaunchHostFunc_v2(stream, NULL, &number, 0), CUDA_ERROR_INVALID_VALUE);
  OK(cuCtxSynchronize());
  REQUIRE(number == 3);
}
