/* cuda_graph_exec.c - executable graphs: made from graphs, updated, and their nodes changed. */
#include "cuda_graph.h"

#include <stdlib.h>

/* ---- instantiate and destroy ---- */

static const cuuint64_t known_flags = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
                                      CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH |
                                      CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;

static CUresult check_flags(cuuint64_t flags) {
  if ((flags & ~known_flags) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  return (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0 ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS;
}

static void exec_free(CUgraphExec exec) {
  if (exec->plan)
    graph_plan_free(exec->plan);
  if (exec->graph)
    graph_free(exec->graph);
  pthread_mutex_destroy(&exec->launching);
  free(exec);
}

static CUresult exec_new(CUgraph graph, cuuint64_t flags, CUgraphExec *exec) {
  CUgraphExec fresh = calloc(1, sizeof *fresh);
  if (fresh == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  pthread_mutex_init(&fresh->launching, NULL);
  fresh->id = sim_next_id();
  fresh->flags = flags;
  fresh->source = graph;
  fresh->source_id = graph->id;
  CUresult result = graph_copy(graph, true, &fresh->graph);
  if (result == CUDA_SUCCESS) {
    fresh->plan = graph_plan_new(fresh->graph);
    if (fresh->plan == NULL)
      result = CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (result == CUDA_SUCCESS)
    result = graph_enter(fresh, SIM_MAGIC_EXEC);
  if (result != CUDA_SUCCESS) {
    exec_free(fresh);
    return result;
  }
  graph->executions++;
  *exec = fresh;
  return CUDA_SUCCESS;
}

/* A graph with memory nodes has one executable graph at a time: both would use the same addresses. */
static CUresult instantiate(CUgraph graph, cuuint64_t flags, CUgraphExec *exec) {
  if (exec == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = check_flags(flags);
  if (result != CUDA_SUCCESS)
    return result;
  graph_lock();
  result = graph_check(graph);
  if (result == CUDA_SUCCESS && (graph->captures || (graph->executions && graph_has_memory_nodes(graph))))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    result = exec_new(graph, flags, exec);
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags) {
  if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0)
    return CUDA_ERROR_INVALID_VALUE; /* it comes with a stream: cuGraphInstantiateWithParams */
  return instantiate(hGraph, flags, phGraphExec);
}

static CUresult instantiate_with_log(CUgraphExec *exec, CUgraph graph, CUgraphNode *error_node, char *log, size_t size) {
  if (error_node)
    *error_node = NULL;
  if (log && size)
    log[0] = 0;
  return instantiate(graph, 0, exec);
}

CUresult CUDAAPI cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer,
                                    size_t bufferSize) {
  return instantiate_with_log(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}

CUresult CUDAAPI cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                                       char *logBuffer, size_t bufferSize) {
  return instantiate_with_log(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}

static CUresult upload(CUgraphExec exec, CUstream handle);

static CUresult instantiate_with_params(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *parameters,
                                        CUstream upload_stream) {
  if (parameters == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = instantiate(graph, parameters->flags, exec);
  if (result == CUDA_SUCCESS && (parameters->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0) {
    result = upload(*exec, upload_stream);
    if (result != CUDA_SUCCESS)
      cuGraphExecDestroy(*exec);
  }
  parameters->hErrNode_out = NULL;
  parameters->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
  return result;
}

CUresult CUDAAPI cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph,
                                              CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams) {
  return instantiate_with_params(phGraphExec, hGraph, instantiateParams,
                                 instantiateParams ? sim_null_legacy(instantiateParams->hUploadStream) : NULL);
}

CUresult CUDAAPI cuGraphInstantiateWithParams_ptsz(CUgraphExec *phGraphExec, CUgraph hGraph,
                                                   CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams) {
  return instantiate_with_params(phGraphExec, hGraph, instantiateParams,
                                 instantiateParams ? sim_null_thread(instantiateParams->hUploadStream) : NULL);
}

/* Launches under way go on: what they need is with the streams. */
CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec hGraphExec) {
  graph_lock();
  CUresult result = graph_exec_check(hGraphExec);
  if (result == CUDA_SUCCESS) {
    pthread_mutex_lock(&hGraphExec->launching);
    pthread_mutex_unlock(&hGraphExec->launching);
    CUgraph source = hGraphExec->source;
    if (graph_known(source, SIM_MAGIC_GRAPH) && source->id == hGraphExec->source_id)
      source->executions--;
    graph_leave(hGraphExec);
    exec_free(hGraphExec);
  }
  graph_unlock();
  graph_objects_bury();
  return result;
}

/* ---- upload: the memory of allocation nodes comes now, not with the first launch ---- */

static CUresult upload(CUgraphExec exec, CUstream handle) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  graph_lock();
  result = graph_exec_check(exec);
  if (result == CUDA_SUCCESS && stream->capture)
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (result == CUDA_SUCCESS)
    result = graph_memory_bind(exec->graph, stream->context);
  graph_unlock();
  sim_stream_put_back(stream);
  return result;
}

CUresult CUDAAPI cuGraphUpload(CUgraphExec hGraphExec, CUstream hStream) {
  return upload(hGraphExec, sim_null_legacy(hStream));
}

CUresult CUDAAPI cuGraphUpload_ptsz(CUgraphExec hGraphExec, CUstream hStream) {
  return upload(hGraphExec, sim_null_thread(hStream));
}

/* ---- update by a whole graph of the same shape ---- */

static size_t position(CUgraph graph, CUgraphNode node) {
  size_t at = 0;
  for (CUgraphNode each = graph->nodes; each != node; each = each->next)
    at++;
  return at;
}

/* Nodes correspond by the order of their creation. */
static CUgraphExecUpdateResult compare(CUgraph old, CUgraph new, CUgraphExecUpdateResultInfo *info) {
  CUgraphNode a = old->nodes, b = new->nodes;
  for (; a && b; a = a->next, b = b->next) {
    info->errorNode = b;
    if (a->type != b->type)
      return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
    if (a->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || a->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
      return CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
    if (a->dependencies.count != b->dependencies.count)
      return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    for (size_t i = 0; i < a->dependencies.count; i++)
      if (position(old, a->dependencies.rows[i].from) != position(new, b->dependencies.rows[i].from)) {
        info->errorFromNode = b->dependencies.rows[i].from;
        return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
      }
    if (a->child) {
      CUgraphExecUpdateResult inside = compare(a->child, b->child, info);
      if (inside != CU_GRAPH_EXEC_UPDATE_SUCCESS)
        return inside;
    }
  }
  info->errorNode = NULL;
  return a || b ? CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED : CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

static CUresult take_over(CUgraph to, CUgraph from) {
  CUresult result = CUDA_SUCCESS;
  CUgraphNode b = from->nodes;
  for (CUgraphNode a = to->nodes; a && result == CUDA_SUCCESS; a = a->next, b = b->next)
    result = a->child ? take_over(a->child, b->child) : graph_set_work(a, &b->work);
  return result;
}

CUresult graph_take_over(CUgraph to, CUgraph from) {
  CUgraphExecUpdateResultInfo ignored = {0};
  if (compare(to, from, &ignored) != CU_GRAPH_EXEC_UPDATE_SUCCESS)
    return CUDA_ERROR_INVALID_VALUE;
  return take_over(to, from);
}

static CUresult update(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo *info) {
  *info = (CUgraphExecUpdateResultInfo){.result = CU_GRAPH_EXEC_UPDATE_ERROR};
  graph_lock();
  CUresult result = graph_exec_check(exec);
  if (result == CUDA_SUCCESS)
    result = graph_check(graph);
  if (result == CUDA_SUCCESS) {
    pthread_mutex_lock(&exec->launching);
    info->result = compare(exec->graph, graph, info);
    result = info->result == CU_GRAPH_EXEC_UPDATE_SUCCESS ? take_over(exec->graph, graph)
                                                          : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    pthread_mutex_unlock(&exec->launching);
  }
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *resultInfo) {
  return resultInfo ? update(hGraphExec, hGraph, resultInfo) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out,
                                   CUgraphExecUpdateResult *updateResult_out) {
  CUgraphExecUpdateResultInfo info;
  if (updateResult_out == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = update(hGraphExec, hGraph, &info);
  *updateResult_out = info.result;
  if (hErrorNode_out)
    *hErrorNode_out = info.errorNode;
  return result;
}
