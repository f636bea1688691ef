/* cuda_graph.c - graphs as such: handles, nodes, edges, copies and order. */
#include "cuda_graph.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"

static pthread_mutex_t graphs_mutex = PTHREAD_MUTEX_INITIALIZER;
static void *handles;        /* search.h tree of all valid handles by address, guarded by the lock */
static uint64_t walks;       /* number of the latest walk over a graph */

/* A forked child has one thread, and perhaps a lock that one of the parent's held. */
void graph_lock(void) {
  if (!sim_forked())
    pthread_mutex_lock(&graphs_mutex);
}

void graph_unlock(void) {
  if (!sim_forked())
    pthread_mutex_unlock(&graphs_mutex);
}

/* ---- handles: every object begins with its magic ---- */

static int compare_pointers(const void *left, const void *right) {
  return (uintptr_t)left < (uintptr_t)right ? -1 : (uintptr_t)left > (uintptr_t)right;
}

bool graph_known(const void *object, uint32_t magic) {
  return object && tfind(object, &handles, compare_pointers) && *(const uint32_t *)object == magic;
}

CUresult graph_enter(void *object, uint32_t magic) {
  *(uint32_t *)object = magic;
  return tsearch(object, &handles, compare_pointers) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

void graph_leave(void *object) {
  tdelete(object, &handles, compare_pointers);
  *(uint32_t *)object = 0;
}

static CUresult known(const void *object, uint32_t magic) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  return graph_known(object, magic) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult graph_check(CUgraph graph) { return known(graph, SIM_MAGIC_GRAPH); }
CUresult graph_node_check(CUgraphNode node) { return known(node, SIM_MAGIC_NODE); }
CUresult graph_exec_check(CUgraphExec exec) { return known(exec, SIM_MAGIC_EXEC); }

/* ---- edges ---- */

static CUresult edges_add(struct graph_edges *edges, CUgraphNode from, const CUgraphEdgeData *data) {
  if (edges->count == edges->capacity) {
    size_t capacity = edges->capacity ? 2 * edges->capacity : 4;
    struct graph_edge *rows = realloc(edges->rows, capacity * sizeof *rows);
    if (rows == NULL)
      return CUDA_ERROR_OUT_OF_MEMORY;
    edges->rows = rows;
    edges->capacity = capacity;
  }
  edges->rows[edges->count++] = (struct graph_edge){.from = from, .data = data ? *data : (CUgraphEdgeData){0}};
  return CUDA_SUCCESS;
}

static struct graph_edge *edges_find(const struct graph_edges *edges, CUgraphNode from) {
  for (size_t i = 0; i < edges->count; i++)
    if (edges->rows[i].from == from)
      return &edges->rows[i];
  return NULL;
}

static void edges_remove(struct graph_edges *edges, struct graph_edge *edge) {
  size_t at = (size_t)(edge - edges->rows);
  memmove(edge, edge + 1, (edges->count - at - 1) * sizeof *edge);
  edges->count--;
}

/* A walk against the edges, from `to` back; a node is marked with the number of the walk. */
static bool reaches(CUgraphNode from, CUgraphNode to, uint64_t walk) {
  if (to == from)
    return true;
  if (to->mark == walk)
    return false;
  to->mark = walk;
  for (size_t i = 0; i < to->dependencies.count; i++)
    if (reaches(from, to->dependencies.rows[i].from, walk))
      return true;
  return false;
}

bool graph_reaches(CUgraphNode from, CUgraphNode to) { return reaches(from, to, ++walks); }

CUgraphNode *graph_order(CUgraph graph) {
  CUgraphNode *order = malloc((graph->node_count + 1) * sizeof(CUgraphNode));
  if (order == NULL)
    return NULL;
  const uint64_t done = ++walks;
  size_t placed = 0, before;
  do { /* each round places the nodes whose dependencies are all placed */
    before = placed;
    for (CUgraphNode node = graph->nodes; node; node = node->next) {
      bool ready = node->mark != done;
      for (size_t i = 0; i < node->dependencies.count && ready; i++)
        ready = node->dependencies.rows[i].from->mark == done;
      if (ready) {
        node->mark = done;
        order[placed++] = node;
      }
    }
  } while (placed < graph->node_count && placed > before);
  if (placed == graph->node_count)
    return order;
  free(order);
  return NULL;
}

/* ---- nodes ---- */

static CUresult check_dependencies(CUgraph graph, const CUgraphNode *dependencies, size_t count) {
  if (count != 0 && dependencies == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; i++) {
    if (!graph_known(dependencies[i], SIM_MAGIC_NODE) || dependencies[i]->graph != graph)
      return CUDA_ERROR_INVALID_VALUE;
    for (size_t j = 0; j < i; j++)
      if (dependencies[j] == dependencies[i])
        return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult graph_node_new(CUgraph graph, CUgraphNodeType type, const CUgraphNode *dependencies,
                        const CUgraphEdgeData *data, size_t count, CUgraphNode *node) {
  CUresult result = check_dependencies(graph, dependencies, count);
  if (result != CUDA_SUCCESS)
    return result;
  CUgraphNode fresh = calloc(1, sizeof *fresh);
  if (fresh == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  fresh->graph = graph;
  fresh->type = type;
  fresh->id = sim_next_id();
  fresh->work.kind = SIM_WORK_EMPTY;
  for (size_t i = 0; i < count && result == CUDA_SUCCESS; i++)
    result = edges_add(&fresh->dependencies, dependencies[i], data ? &data[i] : NULL);
  if (result == CUDA_SUCCESS)
    result = graph_enter(fresh, SIM_MAGIC_NODE);
  if (result != CUDA_SUCCESS) {
    free(fresh->dependencies.rows);
    free(fresh);
    return result;
  }
  *graph->nodes_end = fresh;
  graph->nodes_end = &fresh->next;
  graph->node_count++;
  *node = fresh;
  return CUDA_SUCCESS;
}

/* All that the node owns; it is on no list any more. */
static void node_end(CUgraphNode node) {
  graph_leave(node);
  sim_work_clear(&node->work);
  if (node->child)
    graph_free(node->child);
  if (node->allocation)
    graph_allocation_release(node->allocation);
  free(node->parameters);
  free(node->dependencies.rows);
  free(node);
}

void graph_node_free(CUgraphNode node) {
  CUgraph graph = node->graph;
  CUgraphNode *link = &graph->nodes;
  for (CUgraphNode each = graph->nodes; each; each = each->next) {
    struct graph_edge *edge = edges_find(&each->dependencies, node);
    if (edge)
      edges_remove(&each->dependencies, edge);
  }
  while (*link != node)
    link = &(*link)->next;
  *link = node->next;
  if (graph->nodes_end == &node->next)
    graph->nodes_end = link;
  graph->node_count--;
  node_end(node);
}

/* ---- graphs ---- */

CUgraph graph_new(void) {
  CUgraph graph = calloc(1, sizeof *graph);
  if (graph == NULL)
    return NULL;
  graph->id = sim_next_id();
  graph->nodes_end = &graph->nodes;
  if (graph_enter(graph, SIM_MAGIC_GRAPH) == CUDA_SUCCESS)
    return graph;
  free(graph);
  return NULL;
}

void graph_free(CUgraph graph) {
  graph_leave(graph);
  while (graph->nodes) {
    CUgraphNode node = graph->nodes;
    graph->nodes = node->next;
    node_end(node);
  }
  graph_references_release(graph);
  free(graph);
}

CUgraphNode graph_find_copy(CUgraph graph, CUgraphNode origin) {
  for (CUgraphNode node = graph->nodes; node; node = node->next) {
    if (node->origin == origin->id)
      return node;
    CUgraphNode inside = node->child ? graph_find_copy(node->child, origin) : NULL;
    if (inside)
      return inside;
  }
  return NULL;
}

bool graph_has_memory_nodes(CUgraph graph) {
  for (CUgraphNode node = graph->nodes; node; node = node->next)
    if (node->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || node->type == CU_GRAPH_NODE_TYPE_MEM_FREE ||
        (node->child && graph_has_memory_nodes(node->child)))
      return true;
  return false;
}

static CUresult copy_node(CUgraphNode from, bool executable, CUgraph to) {
  CUgraphNode node;
  CUresult result = graph_node_new(to, from->type, NULL, NULL, 0, &node);
  if (result != CUDA_SUCCESS)
    return result;
  node->origin = from->id;
  node->disabled = from->disabled;
  node->allocation = from->allocation;
  if (node->allocation)
    graph_allocation_retain(node->allocation);
  result = sim_work_copy(&from->work, &node->work);
  if (result != CUDA_SUCCESS)
    node->work.kind = SIM_WORK_EMPTY;
  if (result == CUDA_SUCCESS && from->child) {
    result = graph_copy(from->child, executable, &node->child);
    if (result == CUDA_SUCCESS)
      node->child->parent = node;
  }
  return result;
}

static CUresult copy_edges(CUgraph from, CUgraph to) {
  CUgraphNode copy = to->nodes;
  for (CUgraphNode node = from->nodes; node; node = node->next, copy = copy->next)
    for (size_t i = 0; i < node->dependencies.count; i++) {
      const struct graph_edge *edge = &node->dependencies.rows[i];
      CUgraphNode source = to->nodes;
      while (source->origin != edge->from->id)
        source = source->next;
      CUresult result = edges_add(&copy->dependencies, source, &edge->data);
      if (result != CUDA_SUCCESS)
        return result;
    }
  return CUDA_SUCCESS;
}

CUresult graph_copy(CUgraph from, bool executable, CUgraph *copy) {
  CUgraph graph = graph_new();
  if (graph == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  graph->executable = executable;
  CUresult result = CUDA_SUCCESS;
  for (CUgraphNode node = from->nodes; node && result == CUDA_SUCCESS; node = node->next)
    result = copy_node(node, executable, graph);
  if (result == CUDA_SUCCESS)
    result = copy_edges(from, graph);
  if (result == CUDA_SUCCESS)
    result = graph_references_copy(from, graph);
  if (result != CUDA_SUCCESS) {
    graph_free(graph);
    return result;
  }
  *copy = graph;
  return CUDA_SUCCESS;
}

/* ---- the driver's functions on graphs and edges ---- */

CUresult CUDAAPI cuGraphCreate(CUgraph *phGraph, unsigned int flags) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (phGraph == NULL || flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  *phGraph = graph_new();
  graph_unlock();
  return *phGraph ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult CUDAAPI cuGraphDestroy(CUgraph hGraph) {
  graph_lock();
  CUresult result = graph_check(hGraph);
  if (result == CUDA_SUCCESS && (hGraph->parent || hGraph->executable || hGraph->captures))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    graph_free(hGraph);
  graph_unlock();
  graph_objects_bury();
  return result;
}

/* Graphs with memory nodes cannot be cloned. */
CUresult CUDAAPI cuGraphClone(CUgraph *phGraphClone, CUgraph originalGraph) {
  if (phGraphClone == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_check(originalGraph);
  if (result == CUDA_SUCCESS && graph_has_memory_nodes(originalGraph))
    result = CUDA_ERROR_NOT_SUPPORTED;
  if (result == CUDA_SUCCESS)
    result = graph_copy(originalGraph, false, phGraphClone);
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphNodeFindInClone(CUgraphNode *phNode, CUgraphNode hOriginalNode, CUgraph hClonedGraph) {
  if (phNode == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  graph_lock();
  CUresult result = graph_check(hClonedGraph);
  if (result == CUDA_SUCCESS)
    result = graph_node_check(hOriginalNode);
  if (result == CUDA_SUCCESS) {
    CUgraphNode found = graph_find_copy(hClonedGraph, hOriginalNode);
    if (found)
      *phNode = found;
    else
      result = CUDA_ERROR_INVALID_VALUE;
  }
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphDestroyNode(CUgraphNode hNode) {
  graph_lock();
  CUresult result = graph_node_check(hNode);
  if (result == CUDA_SUCCESS && graph_has_memory_nodes(hNode->graph))
    result = CUDA_ERROR_NOT_SUPPORTED; /* nodes and edges of such graphs cannot be removed */
  if (result == CUDA_SUCCESS)
    graph_node_free(hNode);
  graph_unlock();
  graph_objects_bury();
  return result;
}

static CUresult add_edge(CUgraph graph, CUgraphNode from, CUgraphNode to, const CUgraphEdgeData *data) {
  if (!graph_known(from, SIM_MAGIC_NODE) || !graph_known(to, SIM_MAGIC_NODE) || from->graph != graph || to->graph != graph ||
      graph_reaches(to, from) || edges_find(&to->dependencies, from))
    return CUDA_ERROR_INVALID_VALUE;
  return edges_add(&to->dependencies, from, data);
}

/* All of them or none. */
static CUresult add_edges(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *data,
                          size_t count) {
  if (count != 0 && (from == NULL || to == NULL))
    return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; i++) {
    CUresult result = add_edge(graph, from[i], to[i], data ? &data[i] : NULL);
    if (result == CUDA_SUCCESS)
      continue;
    while (i-- > 0)
      edges_remove(&to[i]->dependencies, edges_find(&to[i]->dependencies, from[i]));
    return result;
  }
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                                           const CUgraphEdgeData *edgeData, size_t numDependencies) {
  graph_lock();
  CUresult result = graph_check(hGraph);
  if (result == CUDA_SUCCESS)
    result = add_edges(hGraph, from, to, edgeData, numDependencies);
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                                        size_t numDependencies) {
  return cuGraphAddDependencies_v2(hGraph, from, to, NULL, numDependencies);
}

static bool same_edge(const struct graph_edge *edge, const CUgraphEdgeData *data) {
  static const CUgraphEdgeData full = {0};
  return memcmp(&edge->data, data ? data : &full, sizeof full) == 0;
}

static CUresult remove_edges(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *data,
                             size_t count) {
  if (count != 0 && (from == NULL || to == NULL))
    return CUDA_ERROR_INVALID_VALUE;
  if (graph_has_memory_nodes(graph))
    return CUDA_ERROR_NOT_SUPPORTED;
  for (size_t i = 0; i < count; i++) {
    if (!graph_known(from[i], SIM_MAGIC_NODE) || !graph_known(to[i], SIM_MAGIC_NODE) || to[i]->graph != graph)
      return CUDA_ERROR_INVALID_VALUE;
    const struct graph_edge *edge = edges_find(&to[i]->dependencies, from[i]);
    if (edge == NULL || !same_edge(edge, data ? &data[i] : NULL))
      return CUDA_ERROR_INVALID_VALUE;
  }
  for (size_t i = 0; i < count; i++) {
    struct graph_edge *edge = edges_find(&to[i]->dependencies, from[i]);
    if (edge)
      edges_remove(&to[i]->dependencies, edge);
  }
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                                              const CUgraphEdgeData *edgeData, size_t numDependencies) {
  graph_lock();
  CUresult result = graph_check(hGraph);
  if (result == CUDA_SUCCESS)
    result = remove_edges(hGraph, from, to, edgeData, numDependencies);
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                                           size_t numDependencies) {
  return cuGraphRemoveDependencies_v2(hGraph, from, to, NULL, numDependencies);
}
