/* cuda_graph_query.c - what a graph is made of: nodes, edges, types, ids.
 *
 * The listing functions share one rule: with a null array they give the number of entries; otherwise
 * at most *count entries are written, the rest of the array is filled with zeros, and *count becomes
 * the number of entries there are.
 */
#include <string.h>

#include "cuda_graph.h"

struct listing { /* of nodes, or of edges: then `to` and `data` beside the nodes they come from */
  CUgraphNode *from, *to;
  CUgraphEdgeData *data;
  size_t capacity, count;
};

static void list_entry(struct listing *list, CUgraphNode from, CUgraphNode to, const CUgraphEdgeData *data) {
  if (list->count < list->capacity) {
    if (list->from)
      list->from[list->count] = from;
    if (list->to)
      list->to[list->count] = to;
    if (list->data && data)
      list->data[list->count] = *data;
  }
  list->count++;
}

static void list_end(struct listing *list, size_t *count) {
  for (size_t i = list->count; i < list->capacity; i++) {
    if (list->from)
      list->from[i] = NULL;
    if (list->to)
      list->to[i] = NULL;
    if (list->data)
      memset(&list->data[i], 0, sizeof list->data[i]);
  }
  *count = list->count;
}

static bool plain(const CUgraphEdgeData *data) {
  static const CUgraphEdgeData full = {0};
  return memcmp(data, &full, sizeof full) == 0;
}

/* ---- nodes ---- */

static CUresult list_nodes(CUgraph graph, CUgraphNode *nodes, size_t *count, bool roots_only) {
  if (count == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_check(graph);
  if (result == CUDA_SUCCESS) {
    struct listing list = {.from = nodes, .capacity = nodes ? *count : 0};
    for (CUgraphNode node = graph->nodes; node; node = node->next)
      if (!roots_only || node->dependencies.count == 0)
        list_entry(&list, node, NULL, NULL);
    list_end(&list, count);
  }
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes) {
  return list_nodes(hGraph, nodes, numNodes, false);
}

CUresult CUDAAPI cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode *rootNodes, size_t *numRootNodes) {
  return list_nodes(hGraph, rootNodes, numRootNodes, true);
}

/* ---- edges ----
 *
 * The first versions, which give no edge data, answer CUDA_ERROR_LOSSY_QUERY when an edge has some. */

static CUresult list_edges(CUgraph graph, struct listing *list, size_t *count, bool lossy) {
  CUresult result = CUDA_SUCCESS;
  for (CUgraphNode node = graph->nodes; node; node = node->next)
    for (size_t i = 0; i < node->dependencies.count; i++) {
      const struct graph_edge *edge = &node->dependencies.rows[i];
      if (lossy && !plain(&edge->data))
        result = CUDA_ERROR_LOSSY_QUERY;
      list_entry(list, edge->from, node, &edge->data);
    }
  list_end(list, count);
  return result;
}

static CUresult get_edges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data, size_t *count,
                          bool lossy) {
  if (count == NULL || (from == NULL) != (to == NULL) || (from == NULL && data != NULL))
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_check(graph);
  if (result == CUDA_SUCCESS) {
    struct listing list = {.from = from, .to = to, .data = data, .capacity = from ? *count : 0};
    result = list_edges(graph, &list, count, lossy && from);
  }
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *edgeData,
                                    size_t *numEdges) {
  return get_edges(hGraph, from, to, edgeData, numEdges, edgeData == NULL);
}

CUresult CUDAAPI cuGraphGetEdges(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, size_t *numEdges) {
  return get_edges(hGraph, from, to, NULL, numEdges, true);
}

static CUresult list_dependencies(CUgraphNode node, struct listing *list, bool lossy) {
  CUresult result = CUDA_SUCCESS;
  for (size_t i = 0; i < node->dependencies.count; i++) {
    const struct graph_edge *edge = &node->dependencies.rows[i];
    if (lossy && !plain(&edge->data))
      result = CUDA_ERROR_LOSSY_QUERY;
    list_entry(list, edge->from, NULL, &edge->data);
  }
  return result;
}

static CUresult list_dependents(CUgraphNode node, struct listing *list, bool lossy) {
  CUresult result = CUDA_SUCCESS;
  for (CUgraphNode each = node->graph->nodes; each; each = each->next)
    for (size_t i = 0; i < each->dependencies.count; i++) {
      const struct graph_edge *edge = &each->dependencies.rows[i];
      if (edge->from != node)
        continue;
      if (lossy && !plain(&edge->data))
        result = CUDA_ERROR_LOSSY_QUERY;
      list_entry(list, each, NULL, &edge->data);
    }
  return result;
}

static CUresult neighbours(CUgraphNode node, CUgraphNode *nodes, CUgraphEdgeData *data, size_t *count,
                           CUresult (*fill)(CUgraphNode, struct listing *, bool)) {
  if (count == NULL || (nodes == NULL && data != NULL))
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_node_check(node);
  if (result == CUDA_SUCCESS) {
    struct listing list = {.from = nodes, .data = data, .capacity = nodes ? *count : 0};
    result = fill(node, &list, nodes && data == NULL);
    list_end(&list, count);
  }
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode *dependencies, CUgraphEdgeData *edgeData,
                                               size_t *numDependencies) {
  return neighbours(hNode, dependencies, edgeData, numDependencies, list_dependencies);
}

CUresult CUDAAPI cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode *dependencies, size_t *numDependencies) {
  return neighbours(hNode, dependencies, NULL, numDependencies, list_dependencies);
}

CUresult CUDAAPI cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode *dependentNodes,
                                                 CUgraphEdgeData *edgeData, size_t *numDependentNodes) {
  return neighbours(hNode, dependentNodes, edgeData, numDependentNodes, list_dependents);
}

CUresult CUDAAPI cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode *dependentNodes, size_t *numDependentNodes) {
  return neighbours(hNode, dependentNodes, NULL, numDependentNodes, list_dependents);
}

/* ---- types and ids ---- */

CUresult CUDAAPI cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type) {
  if (type == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_node_check(hNode);
  if (result == CUDA_SUCCESS)
    *type = hNode->type;
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph) {
  if (phGraph == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_node_check(hNode);
  if (result == CUDA_SUCCESS && hNode->type != CU_GRAPH_NODE_TYPE_GRAPH)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *phGraph = hNode->child;
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphNodeGetContainingGraph(CUgraphNode hNode, CUgraph *phGraph) {
  if (phGraph == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_node_check(hNode);
  if (result == CUDA_SUCCESS)
    *phGraph = hNode->graph;
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphNodeGetToolsId(CUgraphNode hNode, unsigned long long *toolsNodeId) {
  if (toolsNodeId == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_node_check(hNode);
  if (result == CUDA_SUCCESS)
    *toolsNodeId = hNode->id;
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphNodeGetLocalId(CUgraphNode hNode, unsigned int *nodeId) {
  if (nodeId == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_node_check(hNode);
  if (result == CUDA_SUCCESS)
    *nodeId = (unsigned)hNode->id;
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphGetId(CUgraph hGraph, unsigned int *graphId) {
  if (graphId == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_check(hGraph);
  if (result == CUDA_SUCCESS)
    *graphId = (unsigned)hGraph->id;
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphExecGetId(CUgraphExec hGraphExec, unsigned int *graphId) {
  if (graphId == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_exec_check(hGraphExec);
  if (result == CUDA_SUCCESS)
    *graphId = (unsigned)hGraphExec->id;
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t *flags) {
  if (flags == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_exec_check(hGraphExec);
  if (result == CUDA_SUCCESS)
    *flags = hGraphExec->flags;
  graph_unlock();
  return result;
}
