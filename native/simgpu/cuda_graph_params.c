/* cuda_graph_params.c - what users call a node's parameters, as struct sim_work and back.
 *
 * The work that comes out still points at the user's own parameters where cuda.h has it so; whoever
 * keeps it makes a copy (graph_add_work, graph_set_work). Only kernel work owns something: its packed
 * parameters, which sim_work_clear frees.
 */
#include "cuda_graph.h"

#include <stdlib.h>
#include <string.h>

/* ---- to work; without the graph lock, since a kernel may have to be loaded first ---- */

CUresult graph_kernel_work(const CUDA_KERNEL_NODE_PARAMS_v2 *parameters, struct sim_work *work) {
  if (parameters == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUcontext home = parameters->ctx ? parameters->ctx : sim_thread_context();
  *work = (struct sim_work){
      .kind = SIM_WORK_KERNEL,
      .context = parameters->ctx,
      .launch =
          {
              .grid = {parameters->gridDimX, parameters->gridDimY, parameters->gridDimZ},
              .block = {parameters->blockDimX, parameters->blockDimY, parameters->blockDimZ},
              .shared_bytes = parameters->sharedMemBytes,
              .sm_count = sim_context_valid(home) ? home->sm_count : 0,
          },
  };
  CUfunction named = parameters->func ? parameters->func : (CUfunction)parameters->kern;
  CUresult result = sim_launch_function(named, &work->launch.function, &work->launch.kernel);
  return result == CUDA_SUCCESS ? sim_launch_pack(&work->launch, parameters->kernelParams, parameters->extra) : result;
}

CUresult graph_copy_work(const CUDA_MEMCPY3D *parameters, CUcontext context, struct sim_work *work) {
  if (parameters == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  const CUDA_MEMCPY3D *from = parameters;
  *work = (struct sim_work){.kind = SIM_WORK_COPY, .context = context};
  work->copy.description = (CUDA_MEMCPY3D_PEER){
      .srcXInBytes = from->srcXInBytes,
      .srcY = from->srcY,
      .srcZ = from->srcZ,
      .srcLOD = from->srcLOD,
      .srcMemoryType = from->srcMemoryType,
      .srcHost = from->srcHost,
      .srcDevice = from->srcDevice,
      .srcArray = from->srcArray,
      .srcPitch = from->srcPitch,
      .srcHeight = from->srcHeight,
      .dstXInBytes = from->dstXInBytes,
      .dstY = from->dstY,
      .dstZ = from->dstZ,
      .dstLOD = from->dstLOD,
      .dstMemoryType = from->dstMemoryType,
      .dstHost = from->dstHost,
      .dstDevice = from->dstDevice,
      .dstArray = from->dstArray,
      .dstPitch = from->dstPitch,
      .dstHeight = from->dstHeight,
      .WidthInBytes = from->WidthInBytes,
      .Height = from->Height,
      .Depth = from->Depth,
  };
  return CUDA_SUCCESS;
}

static void copy_parameters(const struct sim_work *work, CUDA_MEMCPY3D *to) {
  const CUDA_MEMCPY3D_PEER *from = &work->copy.description;
  *to = (CUDA_MEMCPY3D){
      .srcXInBytes = from->srcXInBytes,
      .srcY = from->srcY,
      .srcZ = from->srcZ,
      .srcLOD = from->srcLOD,
      .srcMemoryType = from->srcMemoryType,
      .srcHost = from->srcHost,
      .srcDevice = from->srcDevice,
      .srcArray = from->srcArray,
      .srcPitch = from->srcPitch,
      .srcHeight = from->srcHeight,
      .dstXInBytes = from->dstXInBytes,
      .dstY = from->dstY,
      .dstZ = from->dstZ,
      .dstLOD = from->dstLOD,
      .dstMemoryType = from->dstMemoryType,
      .dstHost = from->dstHost,
      .dstDevice = from->dstDevice,
      .dstArray = from->dstArray,
      .dstPitch = from->dstPitch,
      .dstHeight = from->dstHeight,
      .WidthInBytes = from->WidthInBytes,
      .Height = from->Height,
      .Depth = from->Depth,
  };
}

CUresult graph_memset_work(const CUDA_MEMSET_NODE_PARAMS_v1 *parameters, CUcontext context, struct sim_work *work) {
  if (parameters == NULL || (parameters->elementSize != 1 && parameters->elementSize != 2 && parameters->elementSize != 4))
    return CUDA_ERROR_INVALID_VALUE;
  *work = (struct sim_work){
      .kind = SIM_WORK_MEMSET,
      .context = context,
      .set = {.destination = parameters->dst,
              .pitch = parameters->pitch,
              .width = parameters->width,
              .height = parameters->height,
              .value = parameters->value,
              .element_bytes = parameters->elementSize},
  };
  return CUDA_SUCCESS;
}

CUresult graph_host_work(const CUDA_HOST_NODE_PARAMS_v1 *parameters, struct sim_work *work) {
  if (parameters == NULL || parameters->fn == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *work = (struct sim_work){.kind = SIM_WORK_HOST, .host = {.function = parameters->fn, .argument = parameters->userData}};
  return CUDA_SUCCESS;
}

CUresult graph_memop_work(const CUDA_BATCH_MEM_OP_NODE_PARAMS_v1 *parameters, struct sim_work *work) {
  if (parameters == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *work = (struct sim_work){
      .kind = SIM_WORK_MEMOP,
      .context = parameters->ctx,
      .memop = {.count = parameters->count, .flags = parameters->flags, .operations = parameters->paramArray},
  };
  return sim_memop_check(&work->memop);
}

CUresult graph_event_work(enum sim_work_kind kind, CUevent event, struct sim_work *work) {
  if (event == NULL || event->magic != SIM_MAGIC_EVENT)
    return CUDA_ERROR_INVALID_HANDLE;
  *work = (struct sim_work){.kind = kind};
  work->event.event = event;
  return CUDA_SUCCESS;
}

static CUresult generic_memset(const CUDA_MEMSET_NODE_PARAMS_v2 *from, struct sim_work *work) {
  const CUDA_MEMSET_NODE_PARAMS_v1 parameters = {
      .dst = from->dst, .pitch = from->pitch, .value = from->value, .elementSize = from->elementSize,
      .width = from->width, .height = from->height};
  return graph_memset_work(&parameters, from->ctx, work);
}

CUresult graph_generic_work(const CUgraphNodeParams *parameters, struct sim_work *work) {
  switch (parameters->type) {
  case CU_GRAPH_NODE_TYPE_KERNEL: { /* v3 differs from v2 in the kinds of context alone */
    const CUDA_KERNEL_NODE_PARAMS_v3 *from = &parameters->kernel;
    const CUDA_KERNEL_NODE_PARAMS_v2 kernel = {
        .func = from->func, .gridDimX = from->gridDimX, .gridDimY = from->gridDimY, .gridDimZ = from->gridDimZ,
        .blockDimX = from->blockDimX, .blockDimY = from->blockDimY, .blockDimZ = from->blockDimZ,
        .sharedMemBytes = from->sharedMemBytes, .kernelParams = from->kernelParams, .extra = from->extra,
        .kern = from->kern, .ctx = from->ctx};
    return graph_kernel_work(&kernel, work);
  }
  case CU_GRAPH_NODE_TYPE_MEMCPY:
    return graph_copy_work(&parameters->memcpy.copyParams, parameters->memcpy.copyCtx, work);
  case CU_GRAPH_NODE_TYPE_MEMSET:
    return generic_memset(&parameters->memset, work);
  case CU_GRAPH_NODE_TYPE_HOST: {
    const CUDA_HOST_NODE_PARAMS_v1 host = {.fn = parameters->host.fn, .userData = parameters->host.userData};
    return graph_host_work(&host, work);
  }
  case CU_GRAPH_NODE_TYPE_EMPTY:
    *work = (struct sim_work){.kind = SIM_WORK_EMPTY};
    return CUDA_SUCCESS;
  case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    return graph_event_work(SIM_WORK_EVENT_WAIT, parameters->eventWait.event, work);
  case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    return graph_event_work(SIM_WORK_EVENT_RECORD, parameters->eventRecord.event, work);
  case CU_GRAPH_NODE_TYPE_MEM_FREE:
    *work = (struct sim_work){.kind = SIM_WORK_FREE, .pool = {.address = parameters->free.dptr}};
    return CUDA_SUCCESS;
  case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
    const CUDA_BATCH_MEM_OP_NODE_PARAMS_v1 memop = {.ctx = parameters->memOp.ctx,
                                                    .count = parameters->memOp.count,
                                                    .paramArray = parameters->memOp.paramArray,
                                                    .flags = parameters->memOp.flags};
    return graph_memop_work(&memop, work);
  }
  default:
    return CUDA_ERROR_NOT_SUPPORTED;
  }
}

/* ---- and back: GetParams; what is given points at the node's own memory ---- */

/* Pointers to the packed parameters, as cuLaunchKernel takes them. */
static CUresult point_at_parameters(CUgraphNode node) {
  const CUfunction function = node->work.launch.function;
  free(node->parameters);
  node->parameters = calloc(function->parameter_count + 1, sizeof(void *));
  if (node->parameters == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  for (unsigned i = 0; i < function->parameter_count; i++)
    node->parameters[i] = (char *)node->work.launch.parameters + function->parameters[i].offset;
  return CUDA_SUCCESS;
}

CUresult graph_kernel_parameters(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v2 *parameters) {
  const struct sim_launch *launch = &node->work.launch;
  CUresult result = point_at_parameters(node);
  if (result != CUDA_SUCCESS)
    return result;
  *parameters = (CUDA_KERNEL_NODE_PARAMS_v2){
      .func = launch->kernel ? NULL : launch->function,
      .kern = launch->kernel,
      .gridDimX = launch->grid[0],
      .gridDimY = launch->grid[1],
      .gridDimZ = launch->grid[2],
      .blockDimX = launch->block[0],
      .blockDimY = launch->block[1],
      .blockDimZ = launch->block[2],
      .sharedMemBytes = launch->shared_bytes,
      .kernelParams = node->parameters,
      .ctx = node->work.context,
  };
  return CUDA_SUCCESS;
}

/* Locks the graphs and checks that the node is of the type; locked when it succeeds. */
static CUresult lock_node(CUgraphNode node, CUgraphNodeType type, const void *out) {
  if (out == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_node_check(node);
  if (result == CUDA_SUCCESS && node->type != type)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result != CUDA_SUCCESS)
    graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams) {
  CUresult result = lock_node(hNode, CU_GRAPH_NODE_TYPE_KERNEL, nodeParams);
  if (result != CUDA_SUCCESS)
    return result;
  result = graph_kernel_parameters(hNode, nodeParams);
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams) {
  CUDA_KERNEL_NODE_PARAMS_v2 all;
  CUresult result = lock_node(hNode, CU_GRAPH_NODE_TYPE_KERNEL, nodeParams);
  if (result != CUDA_SUCCESS)
    return result;
  result = graph_kernel_parameters(hNode, &all);
  if (result == CUDA_SUCCESS) {
    *nodeParams = (CUDA_KERNEL_NODE_PARAMS_v1){.func = hNode->work.launch.function,
                                               .gridDimX = all.gridDimX,
                                               .gridDimY = all.gridDimY,
                                               .gridDimZ = all.gridDimZ,
                                               .blockDimX = all.blockDimX,
                                               .blockDimY = all.blockDimY,
                                               .blockDimZ = all.blockDimZ,
                                               .sharedMemBytes = all.sharedMemBytes,
                                               .kernelParams = all.kernelParams};
  }
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams) {
  CUresult result = lock_node(hNode, CU_GRAPH_NODE_TYPE_MEMCPY, nodeParams);
  if (result != CUDA_SUCCESS)
    return result;
  copy_parameters(&hNode->work, nodeParams);
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *nodeParams) {
  CUresult result = lock_node(hNode, CU_GRAPH_NODE_TYPE_MEMSET, nodeParams);
  if (result != CUDA_SUCCESS)
    return result;
  const struct sim_memset *set = &hNode->work.set;
  *nodeParams = (CUDA_MEMSET_NODE_PARAMS){.dst = set->destination,
                                          .pitch = set->pitch,
                                          .value = set->value,
                                          .elementSize = set->element_bytes,
                                          .width = set->width,
                                          .height = set->height};
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *nodeParams) {
  CUresult result = lock_node(hNode, CU_GRAPH_NODE_TYPE_HOST, nodeParams);
  if (result != CUDA_SUCCESS)
    return result;
  *nodeParams = (CUDA_HOST_NODE_PARAMS){.fn = hNode->work.host.function, .userData = hNode->work.host.argument};
  graph_unlock();
  return result;
}

static CUresult node_event(CUgraphNode node, CUgraphNodeType type, CUevent *event) {
  CUresult result = lock_node(node, type, event);
  if (result != CUDA_SUCCESS)
    return result;
  *event = node->work.event.event;
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphEventRecordNodeGetEvent(CUgraphNode hNode, CUevent *event_out) {
  return node_event(hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event_out);
}

CUresult CUDAAPI cuGraphEventWaitNodeGetEvent(CUgraphNode hNode, CUevent *event_out) {
  return node_event(hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event_out);
}

CUresult CUDAAPI cuGraphBatchMemOpNodeGetParams(CUgraphNode hNode, CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams_out) {
  CUresult result = lock_node(hNode, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, nodeParams_out);
  if (result != CUDA_SUCCESS)
    return result;
  *nodeParams_out = (CUDA_BATCH_MEM_OP_NODE_PARAMS){.ctx = hNode->work.context,
                                                    .count = hNode->work.memop.count,
                                                    .paramArray = hNode->work.memop.operations,
                                                    .flags = hNode->work.memop.flags};
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphMemAllocNodeGetParams(CUgraphNode hNode, CUDA_MEM_ALLOC_NODE_PARAMS *params_out) {
  CUresult result = lock_node(hNode, CU_GRAPH_NODE_TYPE_MEM_ALLOC, params_out);
  if (result != CUDA_SUCCESS)
    return result;
  *params_out = *graph_allocation_parameters(hNode->allocation);
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphMemFreeNodeGetParams(CUgraphNode hNode, CUdeviceptr *dptr_out) {
  CUresult result = lock_node(hNode, CU_GRAPH_NODE_TYPE_MEM_FREE, dptr_out);
  if (result != CUDA_SUCCESS)
    return result;
  *dptr_out = hNode->work.pool.address;
  graph_unlock();
  return result;
}
