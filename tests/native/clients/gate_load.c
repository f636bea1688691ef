/* gate_load - a tenant with kernels to run: spins the card in kernels of a given length.
 *
 *   gate_load KERNEL_NS SYNC_EVERY GRAPH
 *
 * SYNC_EVERY: the host waits after so many kernels; 0: never. GRAPH: kernels per graph; 0: launches.
 * Says "ready" on a line when its context is there, begins at a line of input, ends when the input
 * does, and then says how many kernels it launched. */
#include "gate_client.h"

static int input(int timeout_ms) { /* 1: a line or the end is there */
  struct pollfd in = {.fd = 0, .events = POLLIN};
  return poll(&in, 1, timeout_ms);
}

static void launch(CUfunction spin, CUgraphExec graph, unsigned long long length_ns) {
  void *arguments[] = {&length_ns};
  if (graph) {
    DO(cuGraphLaunch, graph, NULL);
  } else {
    DO(cuLaunchKernel, spin, 1, 1, 1, 1, 1, 1, 0, NULL, arguments, NULL);
  }
}

static CUgraphExec make_graph(CUfunction spin, unsigned long long length_ns, unsigned kernels) {
  CUstream stream;
  CUgraph graph;
  CUgraphExec exec;
  void *arguments[] = {&length_ns};
  DO(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
  DO(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
  for (unsigned i = 0; i < kernels; i++) {
    DO(cuLaunchKernel, spin, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
  }
  DO(cuStreamEndCapture, stream, &graph);
  DO(cuGraphInstantiateWithFlags, &exec, graph, 0);
  return exec;
}

int main(int count, char **words) {
  if (count != 4) return 2;
  unsigned long long length_ns = strtoull(words[1], NULL, 10), launches = 0;
  unsigned long sync_every = strtoul(words[2], NULL, 10);
  unsigned in_graph = (unsigned)strtoul(words[3], NULL, 10);
  char line[16];
  context_on(0);
  CUfunction spin = function("spin");
  CUgraphExec graph = in_graph ? make_graph(spin, length_ns, in_graph) : NULL;
  puts("ready");
  fflush(stdout);
  if (!fgets(line, sizeof line, stdin)) return 0;
  while (input(0) == 0) {
    for (int i = 0; i < 16 && input(0) == 0; i++) {
      launch(spin, graph, length_ns);
      launches++;
      if (sync_every && launches % sync_every == 0) DO(cuCtxSynchronize);
    }
  }
  DO(cuCtxSynchronize);
  printf("%llu\n", launches);
  return 0;
}
