/* cuda_graph_node.c - adding nodes to graphs and changing them: one function per type of node, and the
 * generic cuGraphAddNode. Each turns the user's parameters into work (cuda_graph_params.c) first.
 */
#include "cuda_graph.h"

#include <stdlib.h>
#include <string.h>

CUgraphNodeType graph_type_of(enum sim_work_kind kind) {
  switch (kind) {
  case SIM_WORK_KERNEL: return CU_GRAPH_NODE_TYPE_KERNEL;
  case SIM_WORK_COPY: return CU_GRAPH_NODE_TYPE_MEMCPY;
  case SIM_WORK_MEMSET: return CU_GRAPH_NODE_TYPE_MEMSET;
  case SIM_WORK_HOST: return CU_GRAPH_NODE_TYPE_HOST;
  case SIM_WORK_EVENT_RECORD: return CU_GRAPH_NODE_TYPE_EVENT_RECORD;
  case SIM_WORK_EVENT_WAIT: return CU_GRAPH_NODE_TYPE_WAIT_EVENT;
  case SIM_WORK_MEMOP: return CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
  case SIM_WORK_ALLOC: return CU_GRAPH_NODE_TYPE_MEM_ALLOC;
  case SIM_WORK_FREE: return CU_GRAPH_NODE_TYPE_MEM_FREE;
  default: return CU_GRAPH_NODE_TYPE_EMPTY;
  }
}

/* Work without a context of its own runs in that of the stream; it is checked against the current one. */
static CUresult check_work(const struct sim_work *work) {
  CUcontext context = work->context;
  if (context && !sim_context_valid(context))
    return CUDA_ERROR_INVALID_CONTEXT;
  if (context == NULL) {
    CUresult result = sim_current(&context);
    if (result != CUDA_SUCCESS)
      return result;
  }
  if (work->kind == SIM_WORK_FREE && !graph_allocation_at(work->pool.address))
    return CUDA_ERROR_INVALID_VALUE;
  return sim_work_check(work, context);
}

CUresult graph_add_work(CUgraph graph, const struct sim_work *work, const CUgraphNode *dependencies,
                        const CUgraphEdgeData *data, size_t count, CUgraphNode *node) {
  struct sim_work own;
  CUgraphNode fresh;
  CUresult result = sim_work_copy(work, &own);
  if (result != CUDA_SUCCESS)
    return result;
  result = graph_node_new(graph, graph_type_of(work->kind), dependencies, data, count, &fresh);
  if (result != CUDA_SUCCESS) {
    sim_work_clear(&own);
    return result;
  }
  fresh->work = own;
  *node = fresh;
  return CUDA_SUCCESS;
}

CUresult graph_set_work(CUgraphNode node, const struct sim_work *work) {
  struct sim_work own;
  if (node->type != graph_type_of(work->kind))
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_work_copy(work, &own);
  if (result != CUDA_SUCCESS)
    return result;
  if (own.kind == SIM_WORK_KERNEL) { /* attributes are set by functions of their own */
    own.launch.priority = node->work.launch.priority;
    own.launch.cooperative = node->work.launch.cooperative;
    memcpy(own.launch.cluster, node->work.launch.cluster, sizeof own.launch.cluster);
  }
  sim_work_clear(&node->work);
  node->work = own;
  return CUDA_SUCCESS;
}

/* ---- add ---- */

struct place { /* where a new node goes */
  CUgraphNode *node;
  CUgraph graph;
  const CUgraphNode *dependencies;
  const CUgraphEdgeData *data;
  size_t count;
};

/* `result`: of making the work; the work is this function's to clear. */
static CUresult add(const struct place *place, CUresult result, struct sim_work *work) {
  if (result == CUDA_SUCCESS)
    result = place->node ? check_work(work) : CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  if (result == CUDA_SUCCESS)
    result = graph_check(place->graph);
  if (result == CUDA_SUCCESS)
    result = graph_add_work(place->graph, work, place->dependencies, place->data, place->count, place->node);
  graph_unlock();
  if (work->kind == SIM_WORK_KERNEL)
    sim_work_clear(work);
  return result;
}

CUresult CUDAAPI cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                         size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS *nodeParams) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return add(&place, graph_kernel_work(nodeParams, &work), &work);
}

static CUDA_KERNEL_NODE_PARAMS_v2 second_version(const CUDA_KERNEL_NODE_PARAMS_v1 *first) {
  return (CUDA_KERNEL_NODE_PARAMS_v2){.func = first->func,
                                      .gridDimX = first->gridDimX,
                                      .gridDimY = first->gridDimY,
                                      .gridDimZ = first->gridDimZ,
                                      .blockDimX = first->blockDimX,
                                      .blockDimY = first->blockDimY,
                                      .blockDimZ = first->blockDimZ,
                                      .sharedMemBytes = first->sharedMemBytes,
                                      .kernelParams = first->kernelParams,
                                      .extra = first->extra};
}

CUresult CUDAAPI cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                      size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams) {
  if (nodeParams == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  const CUDA_KERNEL_NODE_PARAMS_v2 second = second_version(nodeParams);
  return cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, &second);
}

CUresult CUDAAPI cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                      size_t numDependencies, const CUDA_MEMCPY3D *copyParams, CUcontext ctx) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return add(&place, graph_copy_work(copyParams, ctx, &work), &work);
}

CUresult CUDAAPI cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                      size_t numDependencies, const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return add(&place, graph_memset_work(memsetParams, ctx, &work), &work);
}

CUresult CUDAAPI cuGraphAddHostNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                    size_t numDependencies, const CUDA_HOST_NODE_PARAMS *nodeParams) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return add(&place, graph_host_work(nodeParams, &work), &work);
}

CUresult CUDAAPI cuGraphAddEmptyNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                     size_t numDependencies) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return add(&place, CUDA_SUCCESS, &work);
}

CUresult CUDAAPI cuGraphAddEventRecordNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                           size_t numDependencies, CUevent event) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return add(&place, graph_event_work(SIM_WORK_EVENT_RECORD, event, &work), &work);
}

CUresult CUDAAPI cuGraphAddEventWaitNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                         size_t numDependencies, CUevent event) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return add(&place, graph_event_work(SIM_WORK_EVENT_WAIT, event, &work), &work);
}

CUresult CUDAAPI cuGraphAddBatchMemOpNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                          size_t numDependencies, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  if (nodeParams == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  const CUDA_BATCH_MEM_OP_NODE_PARAMS_v1 first = {
      .ctx = nodeParams->ctx, .count = nodeParams->count, .paramArray = nodeParams->paramArray, .flags = nodeParams->flags};
  return add(&place, graph_memop_work(&first, &work), &work);
}

CUresult CUDAAPI cuGraphAddMemFreeNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                       size_t numDependencies, CUdeviceptr dptr) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  struct sim_work work = {.kind = SIM_WORK_FREE, .pool = {.address = dptr}};
  return add(&place, CUDA_SUCCESS, &work);
}

/* A child graph is copied, or moved: then the handle stays valid, but is the node's. */
static CUresult add_child(const struct place *place, CUgraph child, bool move) {
  CUgraphNode node;
  CUgraph own = child;
  if (place->node == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_check(place->graph);
  if (result == CUDA_SUCCESS)
    result = graph_check(child);
  if (result == CUDA_SUCCESS && (child == place->graph || (move && (child->parent || child->captures))))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS && !move && graph_has_memory_nodes(child))
    result = CUDA_ERROR_NOT_SUPPORTED;
  if (result == CUDA_SUCCESS && !move)
    result = graph_copy(child, false, &own);
  if (result == CUDA_SUCCESS) {
    result = graph_node_new(place->graph, CU_GRAPH_NODE_TYPE_GRAPH, place->dependencies, place->data, place->count, &node);
    if (result == CUDA_SUCCESS) {
      node->child = own;
      own->parent = node;
      *place->node = node;
    } else if (!move) {
      graph_free(own);
    }
  }
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphAddChildGraphNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                          size_t numDependencies, CUgraph childGraph) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  return add_child(&place, childGraph, false);
}

static CUresult add_allocation(const struct place *place, CUDA_MEM_ALLOC_NODE_PARAMS_v1 *parameters) {
  struct graph_allocation *allocation;
  const struct sim_work work = {.kind = SIM_WORK_ALLOC, .pool = {.allocation = *parameters}};
  if (place->node == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = graph_allocation_new(parameters, &allocation);
  if (result != CUDA_SUCCESS)
    return result;
  graph_lock();
  result = graph_check(place->graph);
  if (result == CUDA_SUCCESS)
    result = graph_add_work(place->graph, &work, place->dependencies, place->data, place->count, place->node);
  if (result == CUDA_SUCCESS) {
    (*place->node)->allocation = allocation;
    parameters->dptr = graph_allocation_address(allocation);
  } else {
    graph_allocation_release(allocation);
  }
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphAddMemAllocNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                        size_t numDependencies, CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  return nodeParams ? add_allocation(&place, nodeParams) : CUDA_ERROR_INVALID_VALUE;
}

static CUresult add_generic(const struct place *place, CUgraphNodeParams *parameters) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  if (parameters == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (parameters->type == CU_GRAPH_NODE_TYPE_GRAPH)
    return add_child(place, parameters->graph.graph, parameters->graph.ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE);
  if (parameters->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
    CUDA_MEM_ALLOC_NODE_PARAMS_v1 allocation = {.poolProps = parameters->alloc.poolProps,
                                                .accessDescs = parameters->alloc.accessDescs,
                                                .accessDescCount = parameters->alloc.accessDescCount,
                                                .bytesize = parameters->alloc.bytesize};
    CUresult result = add_allocation(place, &allocation);
    parameters->alloc.dptr = allocation.dptr;
    return result;
  }
  return add(place, graph_generic_work(parameters, &work), &work);
}

CUresult CUDAAPI cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                   const CUgraphEdgeData *dependencyData, size_t numDependencies,
                                   CUgraphNodeParams *nodeParams) {
  const struct place place = {phGraphNode, hGraph, dependencies, dependencyData, numDependencies};
  return add_generic(&place, nodeParams);
}

/* What cuGraphAddNode_v3 and cuGraphNodeSetParams_v2 check more than their elders: a kernel and the
 * context named with it belong together. */
static CUresult check_kernel_context(const CUgraphNodeParams *parameters) {
  if (parameters == NULL || parameters->type != CU_GRAPH_NODE_TYPE_KERNEL)
    return CUDA_SUCCESS;
  const struct CUfunc_st *function = parameters->kernel.func;
  if (function == NULL || parameters->kernel.ctx == NULL || function->magic != SIM_MAGIC_FUNCTION)
    return CUDA_SUCCESS;
  return function->module->context == parameters->kernel.ctx ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult CUDAAPI cuGraphAddNode_v3(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                   const CUgraphEdgeData *dependencyData, size_t numDependencies,
                                   CUgraphNodeParams *nodeParams) {
  CUresult result = check_kernel_context(nodeParams);
  if (result != CUDA_SUCCESS)
    return result;
  return cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, dependencyData, numDependencies, nodeParams);
}

CUresult CUDAAPI cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                                size_t numDependencies, CUgraphNodeParams *nodeParams) {
  const struct place place = {phGraphNode, hGraph, dependencies, NULL, numDependencies};
  return add_generic(&place, nodeParams);
}

/* ---- change ---- */

static CUresult set(CUgraphNode node, CUresult result, struct sim_work *work) {
  if (result == CUDA_SUCCESS)
    result = check_work(work);
  graph_lock();
  if (result == CUDA_SUCCESS)
    result = graph_node_check(node);
  if (result == CUDA_SUCCESS)
    result = graph_set_work(node, work);
  graph_unlock();
  if (work->kind == SIM_WORK_KERNEL)
    sim_work_clear(work);
  return result;
}

CUresult CUDAAPI cuGraphKernelNodeSetParams_v2(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hNode, graph_kernel_work(nodeParams, &work), &work);
}

CUresult CUDAAPI cuGraphKernelNodeSetParams(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams) {
  if (nodeParams == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  const CUDA_KERNEL_NODE_PARAMS_v2 second = second_version(nodeParams);
  return cuGraphKernelNodeSetParams_v2(hNode, &second);
}

/* The context that the node was added with stays. */
static CUcontext context_of(CUgraphNode node) {
  graph_lock();
  CUcontext context = graph_node_check(node) == CUDA_SUCCESS ? node->work.context : NULL;
  graph_unlock();
  return context;
}

CUresult CUDAAPI cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hNode, graph_copy_work(nodeParams, context_of(hNode), &work), &work);
}

CUresult CUDAAPI cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *nodeParams) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hNode, graph_memset_work(nodeParams, context_of(hNode), &work), &work);
}

CUresult CUDAAPI cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hNode, graph_host_work(nodeParams, &work), &work);
}

CUresult CUDAAPI cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hNode, graph_event_work(SIM_WORK_EVENT_RECORD, event, &work), &work);
}

CUresult CUDAAPI cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hNode, graph_event_work(SIM_WORK_EVENT_WAIT, event, &work), &work);
}

CUresult CUDAAPI cuGraphBatchMemOpNodeSetParams(CUgraphNode hNode, const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  if (nodeParams == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  const CUDA_BATCH_MEM_OP_NODE_PARAMS_v1 first = {
      .ctx = nodeParams->ctx, .count = nodeParams->count, .paramArray = nodeParams->paramArray, .flags = nodeParams->flags};
  return set(hNode, graph_memop_work(&first, &work), &work);
}

/* Child graphs and memory nodes cannot be changed. */
CUresult CUDAAPI cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  if (nodeParams == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (nodeParams->type == CU_GRAPH_NODE_TYPE_GRAPH || nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
      nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
    return CUDA_ERROR_NOT_SUPPORTED;
  return set(hNode, graph_generic_work(nodeParams, &work), &work);
}

CUresult CUDAAPI cuGraphNodeSetParams_v2(CUgraphNode hNode, CUgraphNodeParams *nodeParams) {
  CUresult result = check_kernel_context(nodeParams);
  return result == CUDA_SUCCESS ? cuGraphNodeSetParams(hNode, nodeParams) : result;
}
