/* cuda_capture.h - stream capture: seam between what capture forbids (cuda_capture.c) and how it begins,
 * grows and ends (cuda_capture_stream.c). Guarded by the lock of cuda_graph.h.
 */
#ifndef CGPU_SIM_CUDA_CAPTURE_H
#define CGPU_SIM_CUDA_CAPTURE_H

#include "cuda_graph.h"

/* One capture sequence, from cuStreamBeginCapture to cuStreamEndCapture. Events that were recorded in
 * it outlive its end. */
struct capture_sequence {
  uint64_t id;
  CUstreamCaptureMode mode;
  pthread_t thread;      /* that began it */
  CUgraph graph;         /* NULL after the end */
  bool to_graph;         /* the graph is the user's (cuStreamBeginCaptureToGraph) */
  bool invalid;
  unsigned references;   /* streams and events */
  struct sim_capture *origin, *streams;
  struct capture_sequence *next;
};

struct capture_nodes { /* what the next node in a stream depends on */
  size_t count, capacity;
  CUgraphNode *nodes;
  CUgraphEdgeData *data;
};

/* A stream that takes part. */
struct sim_capture {
  struct capture_sequence *sequence;
  CUstream stream;
  struct capture_nodes last;
  struct sim_capture *next; /* in the same sequence */
};

/* An event as it was recorded in a capturing stream. */
struct sim_captured_event {
  struct capture_sequence *sequence;
  struct capture_nodes last;
};

/* Adds the node to the set, unless it is there; `data` may be NULL. */
CUresult capture_nodes_add(struct capture_nodes *set, CUgraphNode node, const CUgraphEdgeData *data);

/* The sequences under way. */
struct capture_sequence *capture_sequences(void);
void capture_sequence_begin(struct capture_sequence *sequence);
void capture_sequence_end(struct capture_sequence *sequence);

#endif
