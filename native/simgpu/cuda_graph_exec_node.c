/* cuda_graph_exec_node.c - changes to single nodes of an executable graph, named by the node of the
 * graph that it was made from. They hold from the next launch on.
 */
#include "cuda_graph.h"

/* The executable graph's own node; locked (graphs and launches) when it succeeds. */
static CUresult lock_copy(CUgraphExec exec, CUgraphNode node, CUgraphNode *copy) {
  graph_lock();
  CUresult result = graph_exec_check(exec);
  if (result == CUDA_SUCCESS)
    result = graph_node_check(node);
  if (result == CUDA_SUCCESS) {
    *copy = graph_find_copy(exec->graph, node);
    if (*copy == NULL)
      result = CUDA_ERROR_INVALID_VALUE;
  }
  if (result == CUDA_SUCCESS)
    pthread_mutex_lock(&exec->launching);
  else
    graph_unlock();
  return result;
}

static void unlock_copy(CUgraphExec exec) {
  pthread_mutex_unlock(&exec->launching);
  graph_unlock();
}

/* `result`: of making the work; the work is this function's to clear. */
static CUresult set(CUgraphExec exec, CUgraphNode node, CUresult result, struct sim_work *work) {
  CUgraphNode copy;
  CUcontext context;
  if (result == CUDA_SUCCESS)
    result = sim_current(&context);
  if (result == CUDA_SUCCESS)
    result = sim_work_check(work, work->context ? work->context : context);
  if (result == CUDA_SUCCESS)
    result = lock_copy(exec, node, &copy);
  if (result == CUDA_SUCCESS) {
    result = graph_set_work(copy, work);
    unlock_copy(exec);
  }
  if (work->kind == SIM_WORK_KERNEL)
    sim_work_clear(work);
  return result;
}

CUresult CUDAAPI cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                   const CUDA_KERNEL_NODE_PARAMS *nodeParams) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hGraphExec, hNode, graph_kernel_work(nodeParams, &work), &work);
}

CUresult CUDAAPI cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams) {
  if (nodeParams == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  const CUDA_KERNEL_NODE_PARAMS_v2 second = {
      .func = nodeParams->func, .gridDimX = nodeParams->gridDimX, .gridDimY = nodeParams->gridDimY,
      .gridDimZ = nodeParams->gridDimZ, .blockDimX = nodeParams->blockDimX, .blockDimY = nodeParams->blockDimY,
      .blockDimZ = nodeParams->blockDimZ, .sharedMemBytes = nodeParams->sharedMemBytes,
      .kernelParams = nodeParams->kernelParams, .extra = nodeParams->extra};
  return cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &second);
}

CUresult CUDAAPI cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                const CUDA_MEMCPY3D *copyParams, CUcontext ctx) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hGraphExec, hNode, graph_copy_work(copyParams, ctx, &work), &work);
}

CUresult CUDAAPI cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hGraphExec, hNode, graph_memset_work(memsetParams, ctx, &work), &work);
}

CUresult CUDAAPI cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                              const CUDA_HOST_NODE_PARAMS *nodeParams) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hGraphExec, hNode, graph_host_work(nodeParams, &work), &work);
}

CUresult CUDAAPI cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hGraphExec, hNode, graph_event_work(SIM_WORK_EVENT_RECORD, event, &work), &work);
}

CUresult CUDAAPI cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  return set(hGraphExec, hNode, graph_event_work(SIM_WORK_EVENT_WAIT, event, &work), &work);
}

CUresult CUDAAPI cuGraphExecBatchMemOpNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                    const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  if (nodeParams == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  const CUDA_BATCH_MEM_OP_NODE_PARAMS_v1 first = {
      .ctx = nodeParams->ctx, .count = nodeParams->count, .paramArray = nodeParams->paramArray, .flags = nodeParams->flags};
  return set(hGraphExec, hNode, graph_memop_work(&first, &work), &work);
}

/* The child must have the shape of the one that is there. */
CUresult CUDAAPI cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraph childGraph) {
  CUgraphNode copy;
  CUresult result = lock_copy(hGraphExec, hNode, &copy);
  if (result != CUDA_SUCCESS)
    return result;
  result = graph_check(childGraph);
  if (result == CUDA_SUCCESS)
    result = copy->child ? graph_take_over(copy->child, childGraph) : CUDA_ERROR_INVALID_VALUE;
  unlock_copy(hGraphExec);
  return result;
}

CUresult CUDAAPI cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraphNodeParams *nodeParams) {
  struct sim_work work = {.kind = SIM_WORK_EMPTY};
  if (nodeParams == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (nodeParams->type == CU_GRAPH_NODE_TYPE_GRAPH)
    return cuGraphExecChildGraphNodeSetParams(hGraphExec, hNode, nodeParams->graph.graph);
  if (nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
    return CUDA_ERROR_NOT_SUPPORTED;
  return set(hGraphExec, hNode, graph_generic_work(nodeParams, &work), &work);
}

/* ---- nodes that do nothing for a while: kernels, copies and fills only ---- */

static bool can_be_disabled(CUgraphNode node) {
  return node->type == CU_GRAPH_NODE_TYPE_KERNEL || node->type == CU_GRAPH_NODE_TYPE_MEMCPY ||
         node->type == CU_GRAPH_NODE_TYPE_MEMSET;
}

CUresult CUDAAPI cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled) {
  CUgraphNode copy;
  CUresult result = lock_copy(hGraphExec, hNode, &copy);
  if (result != CUDA_SUCCESS)
    return result;
  if (can_be_disabled(copy))
    copy->disabled = isEnabled == 0;
  else
    result = CUDA_ERROR_INVALID_VALUE;
  unlock_copy(hGraphExec);
  return result;
}

CUresult CUDAAPI cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int *isEnabled) {
  CUgraphNode copy;
  if (isEnabled == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = lock_copy(hGraphExec, hNode, &copy);
  if (result != CUDA_SUCCESS)
    return result;
  if (can_be_disabled(copy))
    *isEnabled = !copy->disabled;
  else
    result = CUDA_ERROR_INVALID_VALUE;
  unlock_copy(hGraphExec);
  return result;
}
