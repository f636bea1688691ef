/* cuda_graph_attribute.c - attributes of kernel nodes. Modelled are those that change what a launch
 * does or takes: cooperative, cluster dimension, priority.
 */
#include "cuda_graph.h"

#include <string.h>

static CUresult lock_kernel(CUgraphNode node) {
  graph_lock();
  CUresult result = graph_node_check(node);
  if (result == CUDA_SUCCESS && node->type != CU_GRAPH_NODE_TYPE_KERNEL)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result != CUDA_SUCCESS)
    graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphKernelNodeGetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                                               CUkernelNodeAttrValue *value_out) {
  if (value_out == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = lock_kernel(hNode);
  if (result != CUDA_SUCCESS)
    return result;
  const struct sim_launch *launch = &hNode->work.launch;
  memset(value_out, 0, sizeof *value_out);
  switch (attr) {
  case CU_LAUNCH_ATTRIBUTE_COOPERATIVE: value_out->cooperative = launch->cooperative; break;
  case CU_LAUNCH_ATTRIBUTE_PRIORITY: value_out->priority = launch->priority; break;
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
    value_out->clusterDim.x = launch->cluster[0];
    value_out->clusterDim.y = launch->cluster[1];
    value_out->clusterDim.z = launch->cluster[2];
    break;
  default: result = CUDA_ERROR_NOT_SUPPORTED;
  }
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphKernelNodeSetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr,
                                               const CUkernelNodeAttrValue *value) {
  if (value == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = lock_kernel(hNode);
  if (result != CUDA_SUCCESS)
    return result;
  struct sim_launch *launch = &hNode->work.launch;
  switch (attr) {
  case CU_LAUNCH_ATTRIBUTE_COOPERATIVE: launch->cooperative = value->cooperative != 0; break;
  case CU_LAUNCH_ATTRIBUTE_PRIORITY: launch->priority = value->priority; break;
  case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
    launch->cluster[0] = value->clusterDim.x;
    launch->cluster[1] = value->clusterDim.y;
    launch->cluster[2] = value->clusterDim.z;
    break;
  default: result = CUDA_ERROR_NOT_SUPPORTED;
  }
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphKernelNodeCopyAttributes(CUgraphNode dst, CUgraphNode src) {
  CUresult result = lock_kernel(dst);
  if (result != CUDA_SUCCESS)
    return result;
  result = graph_node_check(src);
  if (result == CUDA_SUCCESS && src->type != CU_GRAPH_NODE_TYPE_KERNEL)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS) {
    const struct sim_launch *from = &src->work.launch;
    struct sim_launch *to = &dst->work.launch;
    to->cooperative = from->cooperative;
    to->priority = from->priority;
    memcpy(to->cluster, from->cluster, sizeof to->cluster);
  }
  graph_unlock();
  return result;
}
