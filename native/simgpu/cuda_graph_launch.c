/* cuda_graph_launch.c - running an executable graph.
 *
 * The plan puts the nodes, child graphs unfolded, in an order that respects the dependencies, and each
 * on a lane: a chain of nodes that follow each other stays on one lane, branches get lanes of their
 * own as long as there are any. Lane 0 is the stream of the launch, the others are streams of the
 * graph. Where a dependency crosses lanes, a fence of the earlier lane is signalled and waited for.
 * Launches of one executable graph follow each other, whatever streams they are put into.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_graph.h"
#include "cuda_process.h"

#define LANES 8u

struct step {
  CUgraphNode node; /* NULL: joins what it depends on, around a child graph */
  unsigned lane;
  bool signals;     /* somebody on another lane waits for it */
  uint64_t value;   /* of the lane's fence, in the launch under way */
  size_t dependency_count, *dependencies;
};

struct graph_plan {
  size_t count, capacity;
  struct step *steps;
  unsigned lanes;
  size_t tail[LANES]; /* last step of each lane */
  bool failed;        /* while it is made: no host memory */
  /* made at the first launch: */
  uint64_t context_id; /* that the lanes' streams belong to; 0: none */
  CUcontext context;
  CUstream streams[LANES]; /* [0] is the launch's own, and valid only during it */
  sg_fence fences[LANES];
  uint64_t signalled[LANES];
  sg_fence done;       /* counts the launches that are complete */
  uint64_t launches;
};

/* ---- the plan ---- */

static size_t step_new(struct graph_plan *plan, CUgraphNode node, size_t dependency_count) {
  if (plan->count == plan->capacity) {
    size_t capacity = plan->capacity ? 2 * plan->capacity : 32;
    struct step *steps = realloc(plan->steps, capacity * sizeof *steps);
    if (steps == NULL) {
      plan->failed = true;
      return 0;
    }
    plan->steps = steps;
    plan->capacity = capacity;
  }
  struct step *step = &plan->steps[plan->count];
  *step = (struct step){.node = node};
  step->dependencies = malloc((dependency_count + 1) * sizeof *step->dependencies);
  if (step->dependencies == NULL)
    plan->failed = true;
  return plan->count++;
}

static void depend(struct graph_plan *plan, size_t step, size_t on) {
  struct step *later = &plan->steps[step];
  if (later->dependencies)
    later->dependencies[later->dependency_count++] = on;
}

static bool has_dependents(CUgraphNode node) {
  for (CUgraphNode each = node->graph->nodes; each; each = each->next)
    for (size_t i = 0; i < each->dependencies.count; i++)
      if (each->dependencies.rows[i].from == node)
        return true;
  return false;
}

/* Adds the steps of a graph. Its first nodes depend on the step `entry` (SIZE_MAX: on nothing). */
static void plan_graph(struct graph_plan *plan, CUgraph graph, size_t entry);

/* A child graph lies between two steps without work. The second one stands for the node. */
static void plan_child(struct graph_plan *plan, CUgraphNode node, size_t entry) {
  plan_graph(plan, node->child, entry);
  node->step = step_new(plan, NULL, node->child->node_count + 1);
  if (plan->failed)
    return;
  depend(plan, node->step, entry);
  for (CUgraphNode each = node->child->nodes; each; each = each->next)
    if (!has_dependents(each))
      depend(plan, node->step, each->step);
}

static void plan_graph(struct graph_plan *plan, CUgraph graph, size_t entry) {
  CUgraphNode *order = graph_order(graph);
  if (order == NULL)
    plan->failed = true;
  for (size_t i = 0; i < graph->node_count && !plan->failed; i++) {
    CUgraphNode node = order[i];
    size_t step = step_new(plan, node->child ? NULL : node, node->dependencies.count + 1);
    if (plan->failed)
      break;
    node->step = step;
    for (size_t j = 0; j < node->dependencies.count; j++)
      depend(plan, step, node->dependencies.rows[j].from->step);
    if (node->dependencies.count == 0 && entry != SIZE_MAX)
      depend(plan, step, entry);
    if (node->child)
      plan_child(plan, node, step);
  }
  free(order);
}

/* Continues the lane of a dependency that is the last there; otherwise opens one, or shares. */
static unsigned choose_lane(const struct graph_plan *plan, const struct step *step) {
  for (size_t i = 0; i < step->dependency_count; i++) {
    unsigned lane = plan->steps[step->dependencies[i]].lane;
    if (plan->tail[lane] == step->dependencies[i])
      return lane;
  }
  if (plan->lanes < LANES)
    return plan->lanes;
  return step->dependency_count ? plan->steps[step->dependencies[0]].lane : 0;
}

static void assign_lanes(struct graph_plan *plan) {
  for (size_t i = 0; i < plan->count; i++) {
    struct step *step = &plan->steps[i];
    step->lane = choose_lane(plan, step);
    if (step->lane == plan->lanes)
      plan->lanes++;
    plan->tail[step->lane] = i;
    for (size_t j = 0; j < step->dependency_count; j++) {
      struct step *before = &plan->steps[step->dependencies[j]];
      before->signals |= before->lane != step->lane;
    }
  }
  for (unsigned lane = 1; lane < plan->lanes; lane++)
    plan->steps[plan->tail[lane]].signals = true; /* the end of the launch waits for each lane */
}

struct graph_plan *graph_plan_new(CUgraph graph) {
  struct graph_plan *plan = calloc(1, sizeof *plan);
  if (plan == NULL)
    return NULL;
  plan_graph(plan, graph, SIZE_MAX);
  if (plan->failed) {
    graph_plan_free(plan);
    return NULL;
  }
  assign_lanes(plan);
  return plan;
}

/* Fences and streams end by themselves once their queued work is done. */
static void close_lanes(struct graph_plan *plan) {
  bool alive = plan->context_id && sim_context_valid(plan->context) && plan->context->id == plan->context_id;
  for (unsigned lane = 1; lane < plan->lanes; lane++)
    if (plan->streams[lane]) {
      if (alive)
        sim_stream_destroy(plan->streams[lane]);
      plan->streams[lane] = NULL;
    }
  plan->context_id = 0;
}

void graph_plan_free(struct graph_plan *plan) {
  close_lanes(plan);
  for (unsigned lane = 0; lane < LANES; lane++)
    if (plan->fences[lane])
      sg_fence_destroy(plan->fences[lane]);
  if (plan->done)
    sg_fence_destroy(plan->done);
  for (size_t i = 0; i < plan->count; i++)
    free(plan->steps[i].dependencies);
  free(plan->steps);
  free(plan);
}

/* ---- a launch ---- */

static CUresult open_lanes(struct graph_plan *plan, CUstream stream) {
  CUcontext context = stream->context;
  CUresult result = CUDA_SUCCESS;
  if (plan->context_id != context->id)
    close_lanes(plan);
  plan->context = context;
  plan->context_id = context->id;
  plan->streams[0] = stream;
  if (plan->done == 0)
    result = sim_result(sg_fence_create(&plan->done));
  for (unsigned lane = 0; lane < plan->lanes && plan->lanes > 1 && result == CUDA_SUCCESS; lane++) {
    if (plan->fences[lane] == 0)
      result = sim_result(sg_fence_create(&plan->fences[lane]));
    if (result == CUDA_SUCCESS && plan->streams[lane] == NULL)
      result = sim_stream_new(context, CU_STREAM_NON_BLOCKING, stream->priority, &plan->streams[lane]);
  }
  return result;
}

struct launch { /* under way: the lane whose stream is begun, LANES for none */
  struct graph_plan *plan;
  unsigned lane;
  bool started[LANES];
  uint64_t start_value; /* of lane 0's fence: the launch has begun */
};

static CUresult put(struct launch *launch, uint8_t op, sg_fence fence, uint64_t value) {
  const struct sg_item item = {.op = op, .fence = fence, .value = value};
  return sim_stream_item(launch->plan->streams[launch->lane], &item);
}

static void leave_lane(struct launch *launch) {
  if (launch->lane == LANES)
    return;
  CUstream stream = launch->plan->streams[launch->lane];
  atomic_fetch_add(&stream->puts, 1);
  sim_stream_end(stream);
  launch->lane = LANES;
}

static CUresult enter_lane(struct launch *launch, unsigned lane) {
  struct graph_plan *plan = launch->plan;
  if (launch->lane == lane)
    return CUDA_SUCCESS;
  leave_lane(launch);
  CUresult result = sim_stream_begin(plan->streams[lane]);
  if (result != CUDA_SUCCESS)
    return result;
  launch->lane = lane;
  if (lane != 0 && !launch->started[lane])
    result = put(launch, SG_OP_WAIT, plan->fences[0], launch->start_value);
  launch->started[lane] = true;
  return result;
}

/* Lane 0 waits for the launch before, and lets the other lanes begin. */
static CUresult put_start(struct launch *launch) {
  struct graph_plan *plan = launch->plan;
  CUresult result = enter_lane(launch, 0);
  if (result == CUDA_SUCCESS && plan->launches)
    result = put(launch, SG_OP_WAIT, plan->done, plan->launches);
  if (result == CUDA_SUCCESS && plan->lanes > 1) {
    launch->start_value = ++plan->signalled[0];
    result = put(launch, SG_OP_SIGNAL, plan->fences[0], launch->start_value);
  }
  return result;
}

static CUresult put_node(CUstream stream, CUgraphNode node) {
  if (node == NULL || node->disabled)
    return CUDA_SUCCESS;
  if (node->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
    return graph_memory_put_free(stream, node->work.pool.address);
  return sim_stream_add(stream, &node->work);
}

static CUresult put_step(struct launch *launch, struct step *step) {
  struct graph_plan *plan = launch->plan;
  CUresult result = enter_lane(launch, step->lane);
  for (size_t i = 0; i < step->dependency_count && result == CUDA_SUCCESS; i++) {
    const struct step *before = &plan->steps[step->dependencies[i]];
    if (before->lane != step->lane)
      result = put(launch, SG_OP_WAIT, plan->fences[before->lane], before->value);
  }
  if (result == CUDA_SUCCESS)
    result = put_node(plan->streams[step->lane], step->node);
  if (result == CUDA_SUCCESS && step->signals) {
    step->value = ++plan->signalled[step->lane];
    result = put(launch, SG_OP_SIGNAL, plan->fences[step->lane], step->value);
  }
  return result;
}

static CUresult put_end(struct launch *launch) {
  struct graph_plan *plan = launch->plan;
  CUresult result = enter_lane(launch, 0);
  for (unsigned lane = 1; lane < plan->lanes && result == CUDA_SUCCESS; lane++)
    result = put(launch, SG_OP_WAIT, plan->fences[lane], plan->steps[plan->tail[lane]].value);
  if (result == CUDA_SUCCESS)
    result = put(launch, SG_OP_SIGNAL, plan->done, plan->launches + 1);
  if (result == CUDA_SUCCESS)
    plan->launches++;
  return result;
}

static CUresult run(struct graph_plan *plan, CUstream stream) {
  struct launch launch = {.plan = plan, .lane = LANES};
  CUresult result = open_lanes(plan, stream);
  if (result == CUDA_SUCCESS)
    result = put_start(&launch);
  for (size_t i = 0; i < plan->count && result == CUDA_SUCCESS; i++)
    result = put_step(&launch, &plan->steps[i]);
  if (result == CUDA_SUCCESS)
    result = put_end(&launch);
  leave_lane(&launch);
  plan->streams[0] = NULL;
  return result;
}

static CUresult launch_graph(CUgraphExec exec, CUstream stream) {
  graph_lock();
  CUresult result = graph_exec_check(exec);
  if (result != CUDA_SUCCESS) {
    graph_unlock();
    return result;
  }
  if (stream->capture) {
    result = graph_capture_child(stream, exec->graph);
    graph_unlock();
    return result;
  }
  pthread_mutex_lock(&exec->launching);
  graph_unlock();
  const bool free_first = (exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0;
  result = graph_memory_start(exec->graph, stream->context, free_first);
  if (result == CUDA_SUCCESS) {
    result = run(exec->plan, stream);
    if (result != CUDA_SUCCESS)
      graph_memory_cancel(exec->graph);
  }
  pthread_mutex_unlock(&exec->launching);
  return result;
}

static CUresult launch_call(CUgraphExec exec, CUstream handle) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (stream->is_legacy)
    result = sim_capture_check_legacy(stream->home);
  if (result == CUDA_SUCCESS)
    result = launch_graph(exec, stream);
  sim_stream_put_back(stream);
  return result;
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream) {
  return launch_call(hGraphExec, sim_null_legacy(hStream));
}

CUresult CUDAAPI cuGraphLaunch_ptsz(CUgraphExec hGraphExec, CUstream hStream) {
  return launch_call(hGraphExec, sim_null_thread(hStream));
}
