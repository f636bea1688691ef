/* hooks_graph.c - memory that graphs allocate: nodes of their own, or captured cuMemAllocAsync.
 *
 * A node has an address from the moment it is added, and memory only while its graph runs; the device
 * keeps that memory in a stock of its own (CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT) between launches.
 * Instantiating a graph reserves the sum of its nodes, so that a launch never needs more; all graph
 * memory of a GPU together is charged the larger of those sums and of what the stock holds.
 */
#include <stdlib.h>

#include "pools.h"
#include "process.h"

#define MAX_NESTING 16 /* of child graphs */

struct sums {
  uint64_t bytes[CGPU_MAX_GPUS];
};

static void add_graph(struct sums *sums, CUgraph graph, int depth);

static void add_node(struct sums *sums, CUgraphNode node, int depth) {
  const struct cg_driver *driver = cg_driver();
  CUgraphNodeType type;
  CUgraph child;
  CUDA_MEM_ALLOC_NODE_PARAMS allocation;
  if (driver->x_cuGraphNodeGetType(node, &type) != CUDA_SUCCESS) return;
  if (type == CU_GRAPH_NODE_TYPE_GRAPH && driver->x_cuGraphChildGraphNodeGetGraph(node, &child) == CUDA_SUCCESS)
    add_graph(sums, child, depth + 1);
  if (type != CU_GRAPH_NODE_TYPE_MEM_ALLOC || !driver->x_cuGraphMemAllocNodeGetParams ||
      driver->x_cuGraphMemAllocNodeGetParams(node, &allocation) != CUDA_SUCCESS)
    return;
  int gpu = cg_gpu_of_location(&allocation.poolProps.location);
  if (gpu >= 0 && __builtin_add_overflow(sums->bytes[gpu], cg_granules(allocation.bytesize), &sums->bytes[gpu]))
    sums->bytes[gpu] = UINT64_MAX;
}

static void add_graph(struct sums *sums, CUgraph graph, int depth) {
  const struct cg_driver *driver = cg_driver();
  size_t count = 0;
  if (depth > MAX_NESTING || driver->x_cuGraphGetNodes(graph, NULL, &count) != CUDA_SUCCESS || !count) return;
  CUgraphNode *nodes = calloc(count, sizeof *nodes);
  if (nodes && driver->x_cuGraphGetNodes(graph, nodes, &count) == CUDA_SUCCESS)
    for (size_t i = 0; i < count; i++) add_node(sums, nodes[i], depth);
  free(nodes);
}

/* ---- the charge of a GPU's graph memory ---- */

static CUdevice device_of_gpu(int gpu) {
  for (CUdevice device = 0; device < CG_MAX_DEVICES; device++)
    if (atomic_load_explicit(&cg_process()->gpu_of_device[device], memory_order_relaxed) == gpu + 1) return device;
  return -1;
}

static uint64_t stock_bytes(int gpu) {
  const struct cg_driver *driver = cg_driver();
  cuuint64_t bytes = 0;
  CUdevice device = device_of_gpu(gpu);
  if (device < 0 || !driver->x_cuDeviceGetGraphMemAttribute ||
      driver->x_cuDeviceGetGraphMemAttribute(device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &bytes) != CUDA_SUCCESS)
    return 0;
  return bytes;
}

void cg_graph_settle(int gpu, uint64_t spare_bytes) {
  struct cg_process *process = cg_process();
  struct cg_graph_memory *memory = &process->graph_memory[gpu], seen;
  for (;;) {
    cg_lock_take(&process->pool_lock);
    seen = *memory;
    cg_lock_give(&process->pool_lock);
    if (!seen.asked_bytes && !seen.charged_bytes) break; /* there are no graphs with memory */
    uint64_t holds = stock_bytes(gpu);
    cg_lock_take(&process->pool_lock);
    if (memory->version != seen.version) {
      cg_lock_give(&process->pool_lock);
      continue;
    }
    if (holds < seen.asked_bytes) holds = seen.asked_bytes;
    memory->charged_bytes = holds;
    memory->version++;
    cg_lock_give(&process->pool_lock);
    uint64_t covered = seen.charged_bytes + spare_bytes;
    if (holds > covered) cg_charge_truth(gpu, holds - covered);
    else cg_return(gpu, covered - holds);
    return;
  }
  cg_return(gpu, spare_bytes);
}

static void change_asked(int gpu, uint64_t more, uint64_t less) {
  struct cg_process *process = cg_process();
  cg_lock_take(&process->pool_lock);
  process->graph_memory[gpu].asked_bytes += more - less;
  process->graph_memory[gpu].version++;
  cg_lock_give(&process->pool_lock);
}

bool cg_graph_trim(int gpu) {
  const struct cg_driver *driver = cg_driver();
  CUdevice device = device_of_gpu(gpu);
  if (device < 0 || !driver->cuDeviceGraphMemTrim || !cg_process()->graph_memory[gpu].charged_bytes) return false;
  if (driver->cuDeviceGraphMemTrim(device) != CUDA_SUCCESS) return false;
  cg_graph_settle(gpu, 0);
  return true;
}

CG_EXPORT CUresult cuDeviceGraphMemTrim(CUdevice device) {
  CG_DRIVER(cuDeviceGraphMemTrim);
  CUresult result = driver->cuDeviceGraphMemTrim(device);
  int gpu = result == CUDA_SUCCESS ? cg_gpu_of_device(device) : -1;
  if (gpu >= 0) cg_graph_settle(gpu, 0);
  return result;
}

/* ---- executable graphs ---- */

/* Executable graphs are aligned, so that a key is left for each GPU. */
static uint64_t key_of(CUgraphExec graph, int gpu) { return (uint64_t)(uintptr_t)graph + (uint64_t)gpu; }

/* What is reserved for the sums beyond what is charged already. False: refused, nothing is reserved. */
static bool begin(struct sums *sums, struct sums *spare, CUgraph graph) {
  struct cg_process *process = cg_process();
  *sums = *spare = (struct sums){{0}};
  enum cg_region_state state = cg_region()->state;
  if (state != CG_REGION_READY) return state == CG_REGION_NONE;
  add_graph(sums, graph, 0);
  for (int gpu = 0; gpu < (int)CGPU_MAX_GPUS; gpu++) {
    if (!sums->bytes[gpu]) continue;
    cg_stocks_watch();
    cg_lock_take(&process->pool_lock);
    struct cg_graph_memory memory = process->graph_memory[gpu];
    cg_lock_give(&process->pool_lock);
    uint64_t asked = UINT64_MAX;
    if (!__builtin_add_overflow(memory.asked_bytes, sums->bytes[gpu], &asked) && asked <= memory.charged_bytes) continue;
    spare->bytes[gpu] = asked - memory.charged_bytes;
    if (cg_reserve(gpu, spare->bytes[gpu]) == CG_GRANTED) continue;
    while (gpu-- > 0) cg_return(gpu, spare->bytes[gpu]);
    return false;
  }
  return true;
}

static CUresult finish(const struct sums *sums, const struct sums *spare, CUresult result, CUgraphExec graph) {
  for (int gpu = 0; gpu < (int)CGPU_MAX_GPUS; gpu++) {
    if (!sums->bytes[gpu]) continue;
    struct cg_block block = {.key = key_of(graph, gpu), .bytes = sums->bytes[gpu], .kind = CG_KIND_GRAPH, .gpu = (uint8_t)gpu};
    if (result == CUDA_SUCCESS && cg_block_add(&block)) change_asked(gpu, sums->bytes[gpu], 0);
    cg_graph_settle(gpu, spare->bytes[gpu]);
  }
  return result;
}

#define INSTANTIATE(name, graph, call)                                   \
  CG_DRIVER(name);                                                       \
  struct sums sums, spare;                                               \
  if (!begin(&sums, &spare, graph)) return CUDA_ERROR_OUT_OF_MEMORY;     \
  CUresult result = driver->name call;                                   \
  return finish(&sums, &spare, result, result == CUDA_SUCCESS ? *phGraphExec : NULL)

CG_EXPORT CUresult cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                                      char *logBuffer, size_t bufferSize) {
  INSTANTIATE(cuGraphInstantiate, hGraph, (phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize));
}

CG_EXPORT CUresult cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                                         char *logBuffer, size_t bufferSize) {
  INSTANTIATE(cuGraphInstantiate_v2, hGraph, (phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize));
}

CG_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags) {
  INSTANTIATE(cuGraphInstantiateWithFlags, hGraph, (phGraphExec, hGraph, flags));
}

CG_EXPORT CUresult cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph,
                                                CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams) {
  INSTANTIATE(cuGraphInstantiateWithParams, hGraph, (phGraphExec, hGraph, instantiateParams));
}

CG_EXPORT CUresult cuGraphInstantiateWithParams_ptsz(CUgraphExec *phGraphExec, CUgraph hGraph,
                                                     CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams) {
  INSTANTIATE(cuGraphInstantiateWithParams_ptsz, hGraph, (phGraphExec, hGraph, instantiateParams));
}

CG_EXPORT CUresult cuGraphExecDestroy(CUgraphExec hGraphExec) {
  CG_DRIVER(cuGraphExecDestroy);
  struct cg_block block[CGPU_MAX_GPUS];
  bool known[CGPU_MAX_GPUS] = {false};
  for (int gpu = 0; hGraphExec && gpu < (int)CGPU_MAX_GPUS; gpu++)
    known[gpu] = cg_block_take(CG_KIND_GRAPH, key_of(hGraphExec, gpu), &block[gpu]);
  CUresult result = driver->cuGraphExecDestroy(hGraphExec);
  for (int gpu = 0; gpu < (int)CGPU_MAX_GPUS; gpu++) {
    if (!known[gpu]) continue;
    if (result == CUDA_SUCCESS) {
      change_asked(gpu, 0, block[gpu].bytes);
      cg_graph_settle(gpu, 0);
    } else {
      cg_block_add(&block[gpu]);
    }
  }
  return result;
}

/* ---- no charge of their own: what they could take has been reserved by instantiating ----
 *
 * A node alone takes addresses only. An upload or a launch takes what instantiation reserved. An
 * update cannot change allocation nodes (they must stay as they are, or it fails). */

CG_EXPORT CUresult cuGraphUpload(CUgraphExec hGraph, CUstream hStream) {
  CG_DRIVER(cuGraphUpload);
  return driver->cuGraphUpload(hGraph, hStream);
}

CG_EXPORT CUresult cuGraphUpload_ptsz(CUgraphExec hGraphExec, CUstream hStream) {
  CG_DRIVER(cuGraphUpload_ptsz);
  return driver->cuGraphUpload_ptsz(hGraphExec, hStream);
}

CG_EXPORT CUresult cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out,
                                     CUgraphExecUpdateResult *updateResult_out) {
  CG_DRIVER(cuGraphExecUpdate);
  return driver->cuGraphExecUpdate(hGraphExec, hGraph, hErrorNode_out, updateResult_out);
}

CG_EXPORT CUresult cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *resultInfo) {
  CG_DRIVER(cuGraphExecUpdate_v2);
  return driver->cuGraphExecUpdate_v2(hGraphExec, hGraph, resultInfo);
}

CG_EXPORT CUresult cuGraphAddMemAllocNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                          size_t numDependencies, CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams) {
  CG_DRIVER(cuGraphAddMemAllocNode);
  return driver->cuGraphAddMemAllocNode(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
}

CG_EXPORT CUresult cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                  size_t numDependencies, CUgraphNodeParams *nodeParams) {
  CG_DRIVER(cuGraphAddNode);
  return driver->cuGraphAddNode(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
}

CG_EXPORT CUresult cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                     const CUgraphEdgeData *dependencyData, size_t numDependencies,
                                     CUgraphNodeParams *nodeParams) {
  CG_DRIVER(cuGraphAddNode_v2);
  return driver->cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, dependencyData, numDependencies, nodeParams);
}

CG_EXPORT CUresult cuGraphAddNode_v3(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                     const CUgraphEdgeData *dependencyData, size_t numDependencies,
                                     CUgraphNodeParams *nodeParams) {
  CG_DRIVER(cuGraphAddNode_v3);
  return driver->cuGraphAddNode_v3(phGraphNode, hGraph, dependencies, dependencyData, numDependencies, nodeParams);
}
