/* rows_graph.c - rows of rows.c: memory that graphs allocate.
 *
 * Each graph allocates a block and frees it again; it has run once when its row holds, and the device
 * keeps the memory for the next launch until it is trimmed. */
#include "rows.h"

static CUgraph graph;
static CUgraphExec executable;
static CUstream stream;
static CUmemoryPool pool;

static CUDA_MEM_ALLOC_NODE_PARAMS allocation(size_t bytes) {
  return (CUDA_MEM_ALLOC_NODE_PARAMS){.poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                                    .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}},
                                      .bytesize = bytes};
}

static CUresult release(void) {
  if (executable) cuGraphExecDestroy(executable);
  if (graph) cuGraphDestroy(graph);
  if (stream) cuStreamDestroy_v2(stream);
  if (pool) cuMemPoolDestroy(pool);
  executable = NULL, graph = NULL, stream = NULL, pool = NULL;
  return cuDeviceGraphMemTrim(0);
}

/* Passes on what has become of an attempt, of which nothing stays if it has failed. */
static CUresult settle(CUresult result) {
  if (result != CUDA_SUCCESS) release();
  return result;
}

static CUresult build(size_t bytes) {
  CUDA_MEM_ALLOC_NODE_PARAMS parameters = allocation(bytes);
  CUgraphNode node, end;
  TRY(cuGraphCreate(&graph, 0));
  TRY(cuGraphAddMemAllocNode(&node, graph, NULL, 0, &parameters));
  return cuGraphAddMemFreeNode(&end, graph, &node, 1, parameters.dptr);
}
static CUresult launch(void) {
  TRY(cuGraphLaunch(executable, CU_STREAM_LEGACY));
  return cuCtxSynchronize();
}
static CUresult run(void) {
  TRY(cuGraphInstantiateWithFlags(&executable, graph, 0));
  return launch();
}

/* ---- nodes ---- */

static CUresult run_node(CUgraphNode node, CUdeviceptr pointer) {
  CUgraphNode end;
  TRY(cuGraphAddMemFreeNode(&end, graph, &node, 1, pointer));
  return run();
}
static CUresult mem_alloc_node(void *entry, size_t bytes) {
  CUDA_MEM_ALLOC_NODE_PARAMS parameters = allocation(bytes);
  CUgraphNode node;
  TRY(cuGraphCreate(&graph, 0));
  TRY(CALL(cuGraphAddMemAllocNode, entry, &node, graph, NULL, 0, &parameters));
  return run_node(node, parameters.dptr);
}
static CUgraphNodeParams generic(size_t bytes) {
  CUgraphNodeParams parameters = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
  parameters.alloc.poolProps = allocation(bytes).poolProps;
  parameters.alloc.bytesize = bytes;
  return parameters;
}
static CUresult add_node(void *entry, size_t bytes) {
  CUgraphNodeParams parameters = generic(bytes);
  CUgraphNode node;
  TRY(cuGraphCreate(&graph, 0));
  TRY(CALL(cuGraphAddNode, entry, &node, graph, NULL, 0, &parameters));
  return run_node(node, parameters.alloc.dptr);
}
static CUresult add_node_with_edges(void *entry, size_t bytes) {
  CUgraphNodeParams parameters = generic(bytes);
  CUgraphNode node;
  TRY(cuGraphCreate(&graph, 0));
  TRY(CALL(cuGraphAddNode_v2, entry, &node, graph, NULL, NULL, 0, &parameters));
  return run_node(node, parameters.alloc.dptr);
}

/* ---- captured allocations ---- */

static CUresult begin_capture(void) {
  TRY(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  return cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
}
static CUresult end_capture(CUdeviceptr pointer) {
  TRY(cuMemFreeAsync(pointer, stream));
  TRY(cuStreamEndCapture(stream, &graph));
  return run();
}
static CUresult captured(void *entry, size_t bytes) {
  CUdeviceptr pointer;
  TRY(begin_capture());
  TRY(CALL(cuMemAllocAsync, entry, &pointer, bytes, stream));
  return end_capture(pointer);
}
static CUresult captured_from_pool(void *entry, size_t bytes) {
  CUdeviceptr pointer;
  CUDA_MEM_ALLOC_NODE_PARAMS parameters = allocation(bytes);
  TRY(cuMemPoolCreate(&pool, &parameters.poolProps));
  TRY(begin_capture());
  TRY(CALL(cuMemAllocFromPoolAsync, entry, &pointer, bytes, pool, stream));
  return end_capture(pointer);
}

/* ---- executable graphs ---- */

static CUresult instantiate(void *entry, size_t bytes) {
  TRY(build(bytes));
  TRY(CALL(cuGraphInstantiate, entry, &executable, graph, NULL, NULL, 0));
  return launch();
}
static CUresult instantiate_with_flags(void *entry, size_t bytes) {
  TRY(build(bytes));
  TRY(CALL(cuGraphInstantiateWithFlags, entry, &executable, graph, 0));
  return launch();
}
static CUresult instantiate_with_parameters(void *entry, size_t bytes) {
  CUDA_GRAPH_INSTANTIATE_PARAMS parameters = {0};
  TRY(build(bytes));
  TRY(CALL(cuGraphInstantiateWithParams, entry, &executable, graph, &parameters));
  return launch();
}
static CUresult upload(void *entry, size_t bytes) {
  TRY(build(bytes));
  TRY(cuGraphInstantiateWithFlags(&executable, graph, 0));
  TRY(CALL(cuGraphUpload, entry, executable, NULL));
  return launch();
}
/* An executable graph that allocates cannot be updated; it stays as it is, and what it holds with it. */
static CUresult not_updated(CUresult result) {
  if (result == CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE) return launch();
  return result == CUDA_SUCCESS ? CUDA_ERROR_UNKNOWN : result;
}
static CUresult update_old(void *entry, size_t bytes) {
  CUgraphNode node;
  CUgraphExecUpdateResult outcome;
  TRY(build(bytes));
  TRY(run());
  return not_updated(CALL(cuGraphExecUpdate, entry, executable, graph, &node, &outcome));
}
static CUresult update(void *entry, size_t bytes) {
  CUgraphExecUpdateResultInfo outcome;
  TRY(build(bytes));
  TRY(run());
  return not_updated(CALL(cuGraphExecUpdate_v2, entry, executable, graph, &outcome));
}

/* Each attempt above, with nothing left of it if it fails. */
#define SETTLED(attempt) \
  static CUresult attempt##_row(void *entry, size_t bytes) { return settle(attempt(entry, bytes)); }
SETTLED(mem_alloc_node)
SETTLED(add_node)
SETTLED(add_node_with_edges)
SETTLED(captured)
SETTLED(captured_from_pool)
SETTLED(instantiate)
SETTLED(instantiate_with_flags)
SETTLED(instantiate_with_parameters)
SETTLED(upload)
SETTLED(update_old)
SETTLED(update)

#define ROW(name, attempt) {name, ROW_OWN, attempt##_row, release}
const struct row graph_rows[] = {
    ROW("cuGraphAddMemAllocNode", mem_alloc_node),
    ROW("cuGraphAddNode", add_node),
    ROW("cuGraphAddNode_v2", add_node_with_edges),
    ROW("cuGraphAddNode_v3", add_node_with_edges),
    ROW("cuMemAllocAsync/captured", captured),
    ROW("cuMemAllocAsync_ptsz/captured", captured),
    ROW("cuMemAllocFromPoolAsync/captured", captured_from_pool),
    ROW("cuMemAllocFromPoolAsync_ptsz/captured", captured_from_pool),
    ROW("cuGraphInstantiate", instantiate),
    ROW("cuGraphInstantiate_v2", instantiate),
    ROW("cuGraphInstantiateWithFlags", instantiate_with_flags),
    ROW("cuGraphInstantiateWithParams", instantiate_with_parameters),
    ROW("cuGraphInstantiateWithParams_ptsz", instantiate_with_parameters),
    ROW("cuGraphUpload", upload),
    ROW("cuGraphUpload_ptsz", upload),
    ROW("cuGraphExecUpdate", update_old),
    ROW("cuGraphExecUpdate_v2", update),
    {0},
};
