/* cuda_graph_object.c - user objects: a destructor that is called once nobody refers to it any more.
 *
 * Graphs hold references; an executable graph takes over what its graph held at the instantiation. The
 * destructor is called without locks, on the thread that lets go of the last reference.
 */
#include <limits.h>
#include <stdlib.h>

#include "cuda_graph.h"

struct CUuserObject_st {
  uint32_t magic;
  unsigned references;
  CUhostFn destroy;
  void *argument;
  struct CUuserObject_st *next_dead;
};

/* Objects without references, until the lock is given up: graphs let go of them while they hold it. */
static struct CUuserObject_st *dead;

static void release(CUuserObject object, unsigned count) {
  object->references -= count;
  if (object->references == 0) {
    graph_leave(object);
    object->next_dead = dead;
    dead = object;
  }
}

void graph_objects_bury(void) {
  struct CUuserObject_st *list;
  graph_lock();
  list = dead;
  dead = NULL;
  graph_unlock();
  while (list) {
    struct CUuserObject_st *object = list;
    list = object->next_dead;
    object->destroy(object->argument);
    free(object);
  }
}

static struct graph_user_reference **find(CUgraph graph, CUuserObject object) {
  struct graph_user_reference **link = &graph->references;
  while (*link && (*link)->object != object)
    link = &(*link)->next;
  return link;
}

/* The graph gets `count` references more, which are there already. */
static CUresult attach(CUgraph graph, CUuserObject object, unsigned count) {
  struct graph_user_reference **link = find(graph, object);
  if (*link == NULL) {
    *link = calloc(1, sizeof **link);
    if (*link == NULL)
      return CUDA_ERROR_OUT_OF_MEMORY;
    (*link)->object = object;
  }
  (*link)->count += count;
  return CUDA_SUCCESS;
}

CUresult graph_references_copy(CUgraph from, CUgraph to) {
  CUresult result = CUDA_SUCCESS;
  for (struct graph_user_reference *each = from->references; each && result == CUDA_SUCCESS; each = each->next) {
    result = attach(to, each->object, each->count);
    if (result == CUDA_SUCCESS)
      each->object->references += each->count;
  }
  return result;
}

void graph_references_release(CUgraph graph) {
  while (graph->references) {
    struct graph_user_reference *each = graph->references;
    graph->references = each->next;
    release(each->object, each->count);
    free(each);
  }
}

static CUresult check(CUuserObject object, unsigned count) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  return graph_known(object, SIM_MAGIC_USER_OBJECT) && count > 0 && count <= INT_MAX ? CUDA_SUCCESS
                                                                                    : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuUserObjectCreate(CUuserObject *object_out, void *ptr, CUhostFn destroy, unsigned int initialRefcount,
                                    unsigned int flags) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (object_out == NULL || destroy == NULL || initialRefcount == 0 || initialRefcount > INT_MAX ||
      flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)
    return CUDA_ERROR_INVALID_VALUE;
  CUuserObject object = calloc(1, sizeof *object);
  if (object == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  object->references = initialRefcount;
  object->destroy = destroy;
  object->argument = ptr;
  graph_lock();
  result = graph_enter(object, SIM_MAGIC_USER_OBJECT);
  graph_unlock();
  if (result == CUDA_SUCCESS)
    *object_out = object;
  else
    free(object);
  return result;
}

CUresult CUDAAPI cuUserObjectRetain(CUuserObject object, unsigned int count) {
  graph_lock();
  CUresult result = check(object, count);
  if (result == CUDA_SUCCESS)
    object->references += count;
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuUserObjectRelease(CUuserObject object, unsigned int count) {
  graph_lock();
  CUresult result = check(object, count);
  if (result == CUDA_SUCCESS && count > object->references)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    release(object, count);
  graph_unlock();
  graph_objects_bury();
  return result;
}

/* With CU_GRAPH_USER_OBJECT_MOVE the caller's references become the graph's. */
CUresult CUDAAPI cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count, unsigned int flags) {
  graph_lock();
  CUresult result = graph_check(graph);
  if (result == CUDA_SUCCESS)
    result = check(object, count);
  if (result == CUDA_SUCCESS && (flags & ~(unsigned)CU_GRAPH_USER_OBJECT_MOVE) != 0)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    result = attach(graph, object, count);
  if (result == CUDA_SUCCESS && (flags & CU_GRAPH_USER_OBJECT_MOVE) == 0)
    object->references += count;
  graph_unlock();
  return result;
}

CUresult CUDAAPI cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned int count) {
  graph_lock();
  CUresult result = graph_check(graph);
  if (result == CUDA_SUCCESS)
    result = check(object, count);
  if (result == CUDA_SUCCESS) {
    struct graph_user_reference **link = find(graph, object), *found = *link;
    if (found == NULL || found->count < count) {
      result = CUDA_ERROR_INVALID_VALUE;
    } else {
      found->count -= count;
      if (found->count == 0) {
        *link = found->next;
        free(found);
      }
      release(object, count);
    }
  }
  graph_unlock();
  graph_objects_bury();
  return result;
}
