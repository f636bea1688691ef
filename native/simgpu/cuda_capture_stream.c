/* cuda_capture_stream.c - stream capture itself: begin, join, record, update, end.
 *
 * A capturing stream has a set of last nodes. Work becomes a node that depends on them and replaces
 * them; an event remembers them; a stream that waits for that event takes part in the capture from
 * then on, with the event's nodes among its own.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_capture.h"

/* ---- sets of nodes ---- */

static CUresult nodes_reserve(struct capture_nodes *set, size_t count) {
  if (count <= set->capacity)
    return CUDA_SUCCESS;
  CUgraphNode *nodes = realloc(set->nodes, count * sizeof *nodes);
  if (nodes)
    set->nodes = nodes;
  CUgraphEdgeData *data = nodes ? realloc(set->data, count * sizeof *data) : NULL;
  if (data == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  set->data = data;
  set->capacity = count;
  return CUDA_SUCCESS;
}

CUresult capture_nodes_add(struct capture_nodes *set, CUgraphNode node, const CUgraphEdgeData *data) {
  for (size_t i = 0; i < set->count; i++)
    if (set->nodes[i] == node)
      return CUDA_SUCCESS;
  CUresult result = set->count < set->capacity ? CUDA_SUCCESS : nodes_reserve(set, 2 * set->count + 4);
  if (result != CUDA_SUCCESS)
    return result;
  set->nodes[set->count] = node;
  set->data[set->count++] = data ? *data : (CUgraphEdgeData){0};
  return CUDA_SUCCESS;
}

static CUresult nodes_add_all(struct capture_nodes *set, const struct capture_nodes *more) {
  CUresult result = CUDA_SUCCESS;
  for (size_t i = 0; i < more->count && result == CUDA_SUCCESS; i++)
    result = capture_nodes_add(set, more->nodes[i], &more->data[i]);
  return result;
}

static void nodes_clear(struct capture_nodes *set) {
  free(set->nodes);
  free(set->data);
  *set = (struct capture_nodes){0};
}

/* ---- who takes part ---- */

static void sequence_release(struct capture_sequence *sequence) {
  if (--sequence->references == 0)
    free(sequence);
}

static void set_capture(CUstream stream, struct sim_capture *capture) {
  sim_lock();
  stream->capture = capture;
  sim_unlock();
}

static CUresult stream_join(struct capture_sequence *sequence, CUstream stream, struct sim_capture **capture) {
  struct sim_capture *fresh = calloc(1, sizeof *fresh);
  if (fresh == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  fresh->sequence = sequence;
  fresh->stream = stream;
  fresh->next = sequence->streams;
  sequence->streams = fresh;
  sequence->references++;
  set_capture(stream, fresh);
  *capture = fresh;
  return CUDA_SUCCESS;
}

static void stream_leave(struct sim_capture *capture) {
  struct capture_sequence *sequence = capture->sequence;
  struct sim_capture **link = &sequence->streams;
  while (*link != capture)
    link = &(*link)->next;
  *link = capture->next;
  if (sequence->origin == capture)
    sequence->origin = NULL;
  set_capture(capture->stream, NULL);
  nodes_clear(&capture->last);
  free(capture);
  sequence_release(sequence);
}

/* All streams leave; the graph stays with the caller. */
static void sequence_close(struct capture_sequence *sequence) {
  sequence->references++;
  while (sequence->streams)
    stream_leave(sequence->streams);
  capture_sequence_end(sequence);
  sequence->graph = NULL;
  sequence_release(sequence);
}

static void event_forget(CUevent event) {
  struct sim_captured_event *captured = event->captured;
  if (captured == NULL)
    return;
  event->captured = NULL;
  nodes_clear(&captured->last);
  sequence_release(captured->sequence);
  free(captured);
}

void sim_capture_forget_event(CUevent event) {
  if (event->captured == NULL)
    return;
  graph_lock();
  event_forget(event);
  graph_unlock();
}

/* Without its first stream a capture cannot be ended any more; without another it stays unjoined. */
void sim_capture_forget_stream(CUstream stream) {
  if (stream->capture == NULL)
    return;
  graph_lock();
  struct sim_capture *capture = stream->capture;
  if (capture) {
    struct capture_sequence *sequence = capture->sequence;
    sequence->invalid = true;
    if (sequence->origin == capture) {
      CUgraph graph = sequence->graph;
      graph->captures--;
      bool own = !sequence->to_graph;
      sequence_close(sequence);
      if (own)
        graph_free(graph);
    } else {
      stream_leave(capture);
    }
  }
  graph_unlock();
  graph_objects_bury();
}

/* ---- begin ---- */

static CUresult check_begin(CUstream stream, CUstreamCaptureMode mode) {
  if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED)
    return CUDA_ERROR_INVALID_VALUE;
  if (stream->is_legacy)
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return stream->capture ? CUDA_ERROR_ILLEGAL_STATE : CUDA_SUCCESS;
}

static CUresult check_nodes(CUgraph graph, const CUgraphNode *nodes, size_t count) {
  if (count != 0 && nodes == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; i++)
    if (!graph_known(nodes[i], SIM_MAGIC_NODE) || nodes[i]->graph != graph)
      return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

struct begin { /* arguments of cuStreamBeginCaptureToGraph */
  CUgraph graph; /* NULL: a new one */
  const CUgraphNode *dependencies;
  const CUgraphEdgeData *data;
  size_t count;
};

static CUresult begin_locked(CUstream stream, CUstreamCaptureMode mode, const struct begin *begin) {
  struct sim_capture *capture;
  CUresult result = check_begin(stream, mode);
  if (result == CUDA_SUCCESS && begin->graph) {
    result = graph_check(begin->graph);
    if (result == CUDA_SUCCESS)
      result = check_nodes(begin->graph, begin->dependencies, begin->count);
  }
  if (result != CUDA_SUCCESS)
    return result;
  struct capture_sequence *sequence = calloc(1, sizeof *sequence);
  CUgraph graph = begin->graph ? begin->graph : graph_new();
  if (sequence == NULL || graph == NULL || stream_join(sequence, stream, &capture) != CUDA_SUCCESS) {
    if (graph && graph != begin->graph)
      graph_free(graph);
    free(sequence);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  sequence->id = sim_next_id();
  sequence->mode = mode;
  sequence->thread = pthread_self();
  sequence->graph = graph;
  sequence->to_graph = begin->graph != NULL;
  sequence->origin = capture;
  graph->captures++;
  capture_sequence_begin(sequence);
  for (size_t i = 0; i < begin->count && result == CUDA_SUCCESS; i++)
    result = capture_nodes_add(&capture->last, begin->dependencies[i], begin->data ? &begin->data[i] : NULL);
  return result;
}

static CUresult begin_capture(CUstream handle, CUstreamCaptureMode mode, const struct begin *begin) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  graph_lock();
  result = begin_locked(stream, mode, begin);
  graph_unlock();
  sim_stream_put_back(stream);
  return result;
}

static const struct begin new_graph;

/* The first version has no mode: it is CU_STREAM_CAPTURE_MODE_GLOBAL. */
CUresult CUDAAPI cuStreamBeginCapture(CUstream hStream) {
  return begin_capture(sim_null_legacy(hStream), CU_STREAM_CAPTURE_MODE_GLOBAL, &new_graph);
}

CUresult CUDAAPI cuStreamBeginCapture_ptsz(CUstream hStream) {
  return begin_capture(sim_null_thread(hStream), CU_STREAM_CAPTURE_MODE_GLOBAL, &new_graph);
}

CUresult CUDAAPI cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) {
  return begin_capture(sim_null_legacy(hStream), mode, &new_graph);
}

CUresult CUDAAPI cuStreamBeginCapture_v2_ptsz(CUstream hStream, CUstreamCaptureMode mode) {
  return begin_capture(sim_null_thread(hStream), mode, &new_graph);
}

CUresult CUDAAPI cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
                                             const CUgraphEdgeData *dependencyData, size_t numDependencies,
                                             CUstreamCaptureMode mode) {
  const struct begin begin = {hGraph, dependencies, dependencyData, numDependencies};
  return hGraph ? begin_capture(sim_null_legacy(hStream), mode, &begin) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuStreamBeginCaptureToGraph_ptsz(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
                                                  const CUgraphEdgeData *dependencyData, size_t numDependencies,
                                                  CUstreamCaptureMode mode) {
  const struct begin begin = {hGraph, dependencies, dependencyData, numDependencies};
  return hGraph ? begin_capture(sim_null_thread(hStream), mode, &begin) : CUDA_ERROR_INVALID_VALUE;
}

/* ---- what is captured ---- */

/* The capture of the stream, if it can grow. */
static CUresult growing(CUstream stream, struct sim_capture **capture) {
  *capture = stream->capture;
  if (*capture == NULL)
    return CUDA_ERROR_ILLEGAL_STATE; /* ended by another thread meanwhile */
  return (*capture)->sequence->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
}

static CUresult break_capture(struct sim_capture *capture, CUresult why) {
  capture->sequence->invalid = true;
  return why;
}

/* The node is the only last one from now on. */
static CUresult follow(struct sim_capture *capture, CUgraphNode node) {
  capture->last.count = 0;
  return capture_nodes_add(&capture->last, node, NULL);
}

static CUresult add_node(struct sim_capture *capture, const struct sim_work *work, CUgraphNode *node) {
  CUresult result = graph_add_work(capture->sequence->graph, work, capture->last.nodes, capture->last.data,
                                   capture->last.count, node);
  return result == CUDA_SUCCESS ? follow(capture, *node) : result;
}

static CUresult record_event(struct sim_capture *capture, CUevent event) {
  struct sim_captured_event *captured = calloc(1, sizeof *captured);
  if (captured == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  captured->sequence = capture->sequence;
  captured->sequence->references++;
  CUresult result = nodes_add_all(&captured->last, &capture->last);
  event_forget(event);
  event->captured = captured;
  return result;
}

static CUresult wait_event(struct sim_capture *capture, CUevent event) {
  if (event->captured == NULL || event->captured->sequence->graph == NULL)
    return break_capture(capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
  if (event->captured->sequence != capture->sequence) {
    event->captured->sequence->invalid = true;
    return break_capture(capture, CUDA_ERROR_STREAM_CAPTURE_MERGE);
  }
  return nodes_add_all(&capture->last, &event->captured->last);
}

static CUresult add_locked(CUstream stream, const struct sim_work *work) {
  struct sim_capture *capture;
  CUgraphNode node;
  CUresult result = growing(stream, &capture);
  if (result != CUDA_SUCCESS)
    return result;
  if (work->kind == SIM_WORK_EVENT_RECORD && (work->event.flags & CU_EVENT_RECORD_EXTERNAL) == 0)
    return record_event(capture, work->event.event);
  if (work->kind == SIM_WORK_EVENT_WAIT && (work->event.flags & CU_EVENT_WAIT_EXTERNAL) == 0)
    return wait_event(capture, work->event.event);
  if (work->kind == SIM_WORK_HOST && work->host.callback)
    return break_capture(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  if (work->kind == SIM_WORK_FREE && !graph_allocation_at(work->pool.address))
    return break_capture(capture, CUDA_ERROR_INVALID_VALUE);
  return add_node(capture, work, &node);
}

CUresult sim_capture_add(CUstream stream, const struct sim_work *work) {
  graph_lock();
  CUresult result = add_locked(stream, work);
  graph_unlock();
  return result;
}

CUresult sim_capture_alloc(CUstream stream, CUDA_MEM_ALLOC_NODE_PARAMS *parameters) {
  struct graph_allocation *allocation;
  struct sim_capture *capture;
  CUgraphNode node;
  const struct sim_work work = {.kind = SIM_WORK_ALLOC, .pool = {.allocation = *parameters}};
  CUresult result = graph_allocation_new(parameters, &allocation);
  if (result != CUDA_SUCCESS)
    return result;
  graph_lock();
  result = growing(stream, &capture);
  if (result == CUDA_SUCCESS)
    result = add_node(capture, &work, &node);
  if (result == CUDA_SUCCESS) {
    node->allocation = allocation;
    parameters->dptr = graph_allocation_address(allocation);
  } else {
    graph_allocation_release(allocation);
  }
  graph_unlock();
  return result;
}

CUresult graph_capture_child(CUstream stream, CUgraph graph) {
  struct sim_capture *capture;
  CUgraphNode node;
  CUresult result = growing(stream, &capture);
  if (result == CUDA_SUCCESS && graph_has_memory_nodes(graph))
    result = break_capture(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  if (result == CUDA_SUCCESS)
    result = graph_node_new(capture->sequence->graph, CU_GRAPH_NODE_TYPE_GRAPH, capture->last.nodes, capture->last.data,
                            capture->last.count, &node);
  if (result != CUDA_SUCCESS)
    return result;
  result = graph_copy(graph, false, &node->child);
  if (result != CUDA_SUCCESS) {
    graph_node_free(node);
    return result;
  }
  node->child->parent = node;
  return follow(capture, node);
}

CUresult sim_capture_join(CUstream stream, CUevent event) {
  struct sim_capture *capture;
  CUresult result = CUDA_SUCCESS;
  graph_lock();
  struct capture_sequence *sequence = event->captured ? event->captured->sequence : NULL;
  if (sequence && sequence->graph == NULL) {
    result = CUDA_ERROR_CAPTURED_EVENT; /* its capture has ended: nothing will ever record it */
  } else if (sequence && sequence->invalid) {
    result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  } else if (sequence && stream->is_legacy) {
    sequence->invalid = true;
    result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  } else if (sequence) {
    result = stream_join(sequence, stream, &capture);
    if (result == CUDA_SUCCESS)
      result = nodes_add_all(&capture->last, &event->captured->last);
  }
  graph_unlock();
  return result;
}

/* ---- end ---- */

/* Whether everything that the other streams captured comes before the end of the first one. */
static bool joined(const struct capture_sequence *sequence) {
  for (const struct sim_capture *each = sequence->streams; each; each = each->next)
    for (size_t i = 0; i < each->last.count; i++) {
      bool reached = false;
      for (size_t j = 0; j < sequence->origin->last.count && !reached; j++)
        reached = graph_reaches(each->last.nodes[i], sequence->origin->last.nodes[j]);
      if (!reached)
        return false;
    }
  return true;
}

static CUresult end_locked(CUstream stream, CUgraph *graph) {
  struct sim_capture *capture = stream->capture;
  if (capture == NULL)
    return CUDA_ERROR_ILLEGAL_STATE;
  struct capture_sequence *sequence = capture->sequence;
  if (sequence->origin != capture)
    return break_capture(capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
  if (sequence->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(sequence->thread, pthread_self()))
    return break_capture(capture, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
  CUresult result = CUDA_SUCCESS;
  if (sequence->invalid)
    result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  else if (!joined(sequence))
    result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  CUgraph captured = sequence->graph;
  bool own = !sequence->to_graph;
  captured->captures--;
  sequence_close(sequence);
  if (result != CUDA_SUCCESS && own)
    graph_free(captured);
  else if (result == CUDA_SUCCESS)
    *graph = captured;
  return result;
}

static CUresult end_capture(CUstream handle, CUgraph *graph) {
  CUstream stream;
  if (graph == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *graph = NULL;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  graph_lock();
  result = end_locked(stream, graph);
  graph_unlock();
  graph_objects_bury();
  sim_stream_put_back(stream);
  return result;
}

CUresult CUDAAPI cuStreamEndCapture(CUstream hStream, CUgraph *phGraph) {
  return end_capture(sim_null_legacy(hStream), phGraph);
}

CUresult CUDAAPI cuStreamEndCapture_ptsz(CUstream hStream, CUgraph *phGraph) {
  return end_capture(sim_null_thread(hStream), phGraph);
}
