/* cuda_graph.h - graphs: seams between building (cuda_graph*.c), running (cuda_graph_exec.c,
 * cuda_graph_launch.c), their memory (cuda_graph_memory.c) and capture (cuda_capture.c).
 *
 * A node is a struct sim_work with dependencies. An executable graph owns a copy of the whole graph,
 * each node of which knows the node it was made from.
 *
 * One lock guards graphs, nodes, executable graphs, user objects and captures. It is taken before the
 * pool lock and the process lock, never together with a stream's lock. Functions declared here are
 * called with it held unless they say otherwise.
 */
#ifndef CGPU_SIM_CUDA_GRAPH_H
#define CGPU_SIM_CUDA_GRAPH_H

#include "cuda_internal.h"

struct graph_edge {
  CUgraphNode from;
  CUgraphEdgeData data;
};

struct graph_edges { /* of one node, in the order in which they were added */
  size_t count, capacity;
  struct graph_edge *rows;
};

struct graph_allocation;

struct CUgraphNode_st {
  uint32_t magic;
  CUgraph graph;
  uint64_t id;
  CUgraphNodeType type;
  struct sim_work work;  /* not of GRAPH nodes */
  CUgraph child;         /* GRAPH nodes: the node's own copy */
  struct graph_edges dependencies;
  struct graph_allocation *allocation; /* MEM_ALLOC nodes */
  void **parameters;     /* kernel nodes: pointers into work.launch.parameters, for GetParams */
  bool disabled;         /* cuGraphNodeSetEnabled, in executable graphs */
  uint64_t origin;       /* of a copy: id of the node that it is a copy of, which may be gone */
  uint64_t mark;         /* scratch of the walks in cuda_graph.c */
  size_t step;           /* in an executable graph: its place in the plan */
  CUgraphNode next;      /* in the order of creation */
};

struct graph_user_reference {
  CUuserObject object;
  unsigned count;
  struct graph_user_reference *next;
};

struct CUgraph_st {
  uint32_t magic;
  uint64_t id;
  CUgraphNode nodes, *nodes_end;
  size_t node_count;
  CUgraphNode parent;    /* the node whose child graph this is: not the user's to destroy */
  bool executable;       /* the copy inside a CUgraphExec */
  unsigned executions;   /* CUgraphExecs of a graph with memory nodes: one at a time */
  unsigned captures;     /* captures that still add to it */
  struct graph_user_reference *references;
};

void graph_lock(void);
void graph_unlock(void);

/* ---- cuda_graph.c ---- */
/* Handles: INVALID_VALUE for what is none. The graphs inside executable graphs are none. */
CUresult graph_check(CUgraph graph);
CUresult graph_node_check(CUgraphNode node);
CUresult graph_exec_check(CUgraphExec exec);
CUresult graph_enter(void *object, uint32_t magic); /* makes it a valid handle */
void graph_leave(void *object);
bool graph_known(const void *object, uint32_t magic);

CUgraph graph_new(void);
void graph_free(CUgraph graph); /* with nodes and children; lets go of allocations and user objects */
/* A copy of everything; edges lead to the copies of the nodes. */
CUresult graph_copy(CUgraph from, bool executable, CUgraph *copy);
/* The copy in `graph`, children included, of the node; NULL if there is none. */
CUgraphNode graph_find_copy(CUgraph graph, CUgraphNode origin);
bool graph_has_memory_nodes(CUgraph graph);

/* A node of the type, without work yet, entered as a handle. INVALID_VALUE for dependencies that are
 * not different nodes of the graph; `data` may be NULL. */
CUresult graph_node_new(CUgraph graph, CUgraphNodeType type, const CUgraphNode *dependencies,
                        const CUgraphEdgeData *data, size_t count, CUgraphNode *node);
void graph_node_free(CUgraphNode node); /* and its edges in both directions */
/* The nodes in an order that respects the dependencies; malloc. NULL for want of memory or a cycle. */
CUgraphNode *graph_order(CUgraph graph);
/* Whether `to` depends on `from`, directly or through others. */
bool graph_reaches(CUgraphNode from, CUgraphNode to);

/* ---- cuda_graph_node.c ---- */
CUgraphNodeType graph_type_of(enum sim_work_kind kind);
/* Adds a node with a copy of the work, after checking it (without the lock held). */
CUresult graph_add_work(CUgraph graph, const struct sim_work *work, const CUgraphNode *dependencies,
                        const CUgraphEdgeData *data, size_t count, CUgraphNode *node);
/* Gives a node new work of the same kind; `check_kind` INVALID_VALUE otherwise. */
CUresult graph_set_work(CUgraphNode node, const struct sim_work *work);

/* ---- cuda_graph_params.c: what users call a node's parameters, as work and back ---- */
CUresult graph_kernel_work(const CUDA_KERNEL_NODE_PARAMS_v2 *parameters, struct sim_work *work);
CUresult graph_copy_work(const CUDA_MEMCPY3D *parameters, CUcontext context, struct sim_work *work);
CUresult graph_memset_work(const CUDA_MEMSET_NODE_PARAMS_v1 *parameters, CUcontext context, struct sim_work *work);
CUresult graph_host_work(const CUDA_HOST_NODE_PARAMS_v1 *parameters, struct sim_work *work);
CUresult graph_memop_work(const CUDA_BATCH_MEM_OP_NODE_PARAMS_v1 *parameters, struct sim_work *work);
CUresult graph_event_work(enum sim_work_kind kind, CUevent event, struct sim_work *work);
/* Any type but GRAPH and MEM_ALLOC; NOT_SUPPORTED for what is not modelled. */
CUresult graph_generic_work(const CUgraphNodeParams *parameters, struct sim_work *work);
CUresult graph_kernel_parameters(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v2 *parameters);

/* ---- cuda_graph_memory.c ---- */
/* Addresses for an allocation, whose memory comes at the launch. */
CUresult graph_allocation_new(const CUDA_MEM_ALLOC_NODE_PARAMS_v1 *parameters, struct graph_allocation **allocation);
CUdeviceptr graph_allocation_address(const struct graph_allocation *allocation);
const CUDA_MEM_ALLOC_NODE_PARAMS_v1 *graph_allocation_parameters(const struct graph_allocation *allocation);
void graph_allocation_retain(struct graph_allocation *allocation);
void graph_allocation_release(struct graph_allocation *allocation); /* it stays while it is in use */
bool graph_allocation_at(CUdeviceptr address); /* whether a node's allocation begins there */
/* Memory behind all allocations of the graph. For a launch, they are in use from then on, and those that
 * the graph frees itself are no longer the user's to free: INVALID_VALUE when an earlier launch's
 * allocation is still in use (unless `free_first`), or when something that is not allocated is freed. */
CUresult graph_memory_bind(CUgraph graph, CUcontext context);
CUresult graph_memory_start(CUgraph graph, CUcontext context, bool free_first);
void graph_memory_cancel(CUgraph graph); /* the launch that was to follow has failed */
/* A MEM_FREE node of a started graph, inside begin/end of the stream, without the lock. */
CUresult graph_memory_put_free(CUstream stream, CUdeviceptr address);

/* ---- cuda_graph_object.c ---- */
CUresult graph_references_copy(CUgraph from, CUgraph to);
void graph_references_release(CUgraph graph);
void graph_objects_bury(void); /* without the lock, after graphs have gone: calls due destructors */

/* ---- cuda_graph_exec.c, cuda_graph_launch.c ---- */

/* An executable graph. Its graph and plan are guarded by `launching`, which is taken after the lock of
 * graphs and held alone while work is put into streams. */
struct CUgraphExec_st {
  uint32_t magic;
  uint64_t id, flags;
  CUgraph graph;   /* its own copy */
  CUgraph source;  /* what it was made from, valid only while the id there is `source_id` */
  uint64_t source_id;
  struct graph_plan *plan;
  pthread_mutex_t launching;
};

/* The work of all nodes of a graph of the same shape; INVALID_VALUE for another shape. */
CUresult graph_take_over(CUgraph to, CUgraph from);

/* How the graph runs: a sequence of steps on one or more lanes (streams). NULL for want of memory. */
struct graph_plan *graph_plan_new(CUgraph graph);
void graph_plan_free(struct graph_plan *plan);

/* ---- cuda_capture.c ---- */
/* A graph launched into a capturing stream becomes a child graph there. */
CUresult graph_capture_child(CUstream stream, CUgraph graph);

#endif
