/* gate_capture - captures launches into graphs, in a mode and by threads of choice.
 *
 *   gate_capture global|thread-local|relaxed one|launches|end
 *
 * one: one thread captures; launches: another one makes half of the launches; end: it ends the capture
 * too. Says "ready", then obeys its input, a line at a time, and answers each with a line:
 *
 *   rounds SHAPE N    captures N graphs, each of which runs twice, while other threads launch without
 *                     waiting; pauses in between, so that whatever else asks the driver about streams
 *                     has time to spoil a capture; answers "done"
 *   capture SHAPE N   captures a graph of N kernels, with nothing else going on; answers the ns it took
 *   run               runs the graph that was captured last, and waits; answers "done"
 *
 * SHAPE: one (a stream), fork (to two more streams, through events, one from the other), graph (into a
 * graph that is there already, behind a node of it, with a graph of shape fork launched in between).
 * What was captured must be the kernels and nothing else. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "gate_client.h"

#define KERNEL_NS 200000ull
#define ROUND_KERNELS 20u

enum { ORIGIN, JOINED, NESTED, STREAMS };
static const char *const modes[] = {"global", "thread-local", "relaxed"}; /* CUstreamCaptureMode */

static CUcontext context;
static CUfunction spin;
static CUstreamCaptureMode mode;
static bool others_launch, others_end;
static CUstream streams[STREAMS];
static CUevent forks[STREAMS], joins[STREAMS];
static _Atomic(int) ended;
static uint64_t capturing_ns; /* between the beginnings and ends of captures */

static void pause_ms(long ms) {
  struct timespec pause = {.tv_nsec = ms * 1000000};
  nanosleep(&pause, NULL);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void launch(CUstream stream, unsigned long long length_ns) {
  void *arguments[] = {&length_ns};
  DO(cuLaunchKernel, spin, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
}

/* ---- other threads ---- */

static void in_other_thread(void *(*body)(void *), void *argument) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, body, argument) || pthread_join(thread, NULL)) exit(1);
}

static void *launch_in_default_stream(void *unused) {
  unsigned long long length_ns = 300000;
  void *arguments[] = {&length_ns};
  DO(cuCtxSetCurrent, context);
  while (!atomic_load(&ended)) DO(cuLaunchKernel_ptsz, spin, 1, 1, 1, 1, 1, 1, 0, NULL, arguments, NULL);
  return unused;
}

static void *launch_in_own_stream(void *stream) {
  DO(cuCtxSetCurrent, context);
  while (!atomic_load(&ended)) launch(stream, 100000);
  return NULL;
}

static void *launch_now_and_then(void *stream) {
  DO(cuCtxSetCurrent, context);
  while (!atomic_load(&ended)) {
    launch(stream, 300000);
    pause_ms(1);
  }
  return NULL;
}

/* ---- capture ---- */

struct part { /* of the kernels: each `step`-th from `first` on, in `width` streams by turns */
  unsigned first, step, count, width;
  bool slowly;
};

static void *launch_part(void *argument) {
  const struct part *part = argument;
  DO(cuCtxSetCurrent, context);
  for (unsigned i = part->first; i < part->count; i += part->step) {
    launch(streams[i % part->width], KERNEL_NS);
    if (part->slowly && i % 7 == 0) pause_ms(2);
  }
  return NULL;
}

static void *end_capture(void *graph) {
  DO(cuCtxSetCurrent, context);
  DO(cuStreamEndCapture, streams[ORIGIN], (CUgraph *)graph);
  return NULL;
}

static void follow(CUstream stream, CUstream before, CUevent event) {
  DO(cuEventRecord, event, before);
  DO(cuStreamWaitEvent, stream, event, 0);
}

/* Captures so many kernels in as many streams as `width`. */
static void capture_kernels(unsigned count, unsigned width, bool slowly) {
  struct part part = {.step = others_launch ? 2 : 1, .count = count, .width = width, .slowly = slowly};
  for (unsigned i = 1; i < width; i++) follow(streams[i], streams[i - 1], forks[i]);
  launch_part(&part);
  part.first = 1;
  if (others_launch) in_other_thread(launch_part, &part);
  for (unsigned i = width - 1; i > 0; i--) follow(streams[i - 1], streams[i], joins[i]);
}

static CUgraph end(void) {
  CUgraph graph;
  if (others_end) in_other_thread(end_capture, &graph);
  else end_capture(&graph);
  return graph;
}

static CUgraph capture_new(unsigned count, unsigned width, bool slowly) {
  uint64_t began_ns = now_ns();
  DO(cuStreamBeginCapture_v2, streams[ORIGIN], mode);
  capture_kernels(count, width, slowly);
  CUgraph graph = end();
  capturing_ns += now_ns() - began_ns;
  return graph;
}

/* Half of the kernels are in a graph of their own, which is launched into the capture. */
static CUgraph capture_to_graph(unsigned count, bool slowly) {
  CUgraph inner = capture_new(count / 2, STREAMS, slowly), outer;
  CUgraphExec exec;
  CUgraphNode root;
  DO(cuGraphInstantiateWithFlags, &exec, inner, 0);
  DO(cuGraphDestroy, inner);
  DO(cuGraphCreate, &outer, 0);
  DO(cuGraphAddEmptyNode, &root, outer, NULL, 0);
  uint64_t began_ns = now_ns();
  DO(cuStreamBeginCaptureToGraph, streams[ORIGIN], outer, &root, NULL, 1, mode);
  DO(cuGraphLaunch, exec, streams[ORIGIN]);
  capture_kernels(count - count / 2, STREAMS, slowly);
  if (end() != outer) exit(1);
  capturing_ns += now_ns() - began_ns;
  DO(cuGraphExecDestroy, exec);
  return outer;
}

static unsigned kernels_in(CUgraph graph) {
  CUgraphNode nodes[256];
  size_t count = sizeof nodes / sizeof *nodes;
  unsigned kernels = 0;
  DO(cuGraphGetNodes, graph, nodes, &count);
  for (size_t i = 0; i < count; i++) {
    CUgraphNodeType type;
    CUgraph child;
    DO(cuGraphNodeGetType, nodes[i], &type);
    if (type == CU_GRAPH_NODE_TYPE_KERNEL) {
      kernels++;
    } else if (type == CU_GRAPH_NODE_TYPE_GRAPH) {
      DO(cuGraphChildGraphNodeGetGraph, nodes[i], &child);
      kernels += kernels_in(child);
    } else if (type != CU_GRAPH_NODE_TYPE_EMPTY) {
      fprintf(stderr, "a node of type %d was captured\n", (int)type);
      exit(1);
    }
  }
  return kernels;
}

static CUgraphExec capture(const char *shape, unsigned count, bool slowly) {
  CUgraphExec exec;
  CUgraph graph = strcmp(shape, "graph") == 0 ? capture_to_graph(count, slowly)
                                              : capture_new(count, strcmp(shape, "fork") == 0 ? STREAMS : 1, slowly);
  if (kernels_in(graph) != count) {
    fprintf(stderr, "%u kernels of %u were captured\n", kernels_in(graph), count);
    exit(1);
  }
  DO(cuGraphInstantiateWithFlags, &exec, graph, 0);
  DO(cuGraphDestroy, graph);
  return exec;
}

/* ---- commands ---- */

static void rounds(const char *shape, unsigned count) {
  static void *(*const bodies[])(void *) = {launch_in_default_stream, launch_in_own_stream, launch_now_and_then};
  enum { THREADS = sizeof bodies / sizeof *bodies };
  pthread_t threads[THREADS];
  CUstream own[THREADS];
  atomic_store(&ended, 0);
  for (unsigned i = 0; i < THREADS; i++) {
    DO(cuStreamCreate, &own[i], CU_STREAM_NON_BLOCKING);
    if (pthread_create(&threads[i], NULL, bodies[i], own[i])) exit(1);
  }
  for (unsigned round = 0; round < count; round++) {
    launch(streams[ORIGIN], 3000000); /* in flight when it begins */
    CUgraphExec exec = capture(shape, ROUND_KERNELS, true);
    DO(cuGraphLaunch, exec, streams[ORIGIN]);
    DO(cuGraphLaunch, exec, streams[JOINED]);
    DO(cuStreamDestroy_v2, streams[JOINED]); /* while its work runs */
    DO(cuStreamCreate, &streams[JOINED], CU_STREAM_NON_BLOCKING);
    DO(cuStreamSynchronize, streams[ORIGIN]);
    DO(cuGraphExecDestroy, exec);
  }
  atomic_store(&ended, 1);
  for (unsigned i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  DO(cuCtxSynchronize);
  for (unsigned i = 0; i < THREADS; i++) DO(cuStreamDestroy_v2, own[i]);
  puts("done");
}

static bool obey(const char *line) {
  static CUgraphExec captured;
  char shape[8];
  unsigned count;
  if (sscanf(line, "rounds %7s %u", shape, &count) == 2) {
    rounds(shape, count);
  } else if (sscanf(line, "capture %7s %u", shape, &count) == 2) {
    if (captured) DO(cuGraphExecDestroy, captured);
    capturing_ns = 0;
    captured = capture(shape, count, false);
    printf("%llu\n", (unsigned long long)capturing_ns);
  } else if (strcmp(line, "run\n") == 0 && captured) {
    DO(cuGraphLaunch, captured, streams[ORIGIN]);
    DO(cuStreamSynchronize, streams[ORIGIN]);
    puts("done");
  } else {
    return false;
  }
  return fflush(stdout) == 0;
}

int main(int count, char **words) {
  char line[64];
  if (count != 3) return 2;
  for (int i = 0; i < 3; i++) {
    if (strcmp(words[1], modes[i]) == 0) mode = (CUstreamCaptureMode)i;
  }
  others_end = strcmp(words[2], "end") == 0;
  others_launch = others_end || strcmp(words[2], "launches") == 0;
  context = context_on(0);
  spin = function("spin");
  for (int i = 0; i < STREAMS; i++) {
    DO(cuStreamCreate, &streams[i], CU_STREAM_NON_BLOCKING);
    DO(cuEventCreate, &forks[i], CU_EVENT_DISABLE_TIMING);
    DO(cuEventCreate, &joins[i], CU_EVENT_DISABLE_TIMING);
  }
  puts("ready");
  fflush(stdout);
  while (fgets(line, sizeof line, stdin) && obey(line)) continue;
  return ferror(stdout) != 0;
}
