/* gate_capture - one thread captures graphs in global mode while another keeps launching.
 *
 *   gate_capture ROUNDS
 *
 * Each capture forks to a second stream through events and pauses in between, so that whatever else
 * asks the driver about streams has time to spoil it; then its graph runs twice. The other thread
 * uses its per-thread default stream. Says "ready", begins at a line of input, and says "done". */
#include <pthread.h>
#include <stdatomic.h>

#include "gate_client.h"

static CUcontext context;
static CUfunction spin;
static _Atomic(int) ended;

static void pause_ms(long ms) {
  struct timespec pause = {.tv_nsec = ms * 1000000};
  nanosleep(&pause, NULL);
}

static void *keep_launching(void *unused) {
  unsigned long long length_ns = 300000;
  void *arguments[] = {&length_ns};
  DO(cuCtxSetCurrent, context);
  while (!atomic_load(&ended)) {
    DO(cuLaunchKernel_ptsz, spin, 1, 1, 1, 1, 1, 1, 0, NULL, arguments, NULL);
    pause_ms(1);
  }
  return unused;
}

static CUgraphExec capture(CUstream origin, CUstream joined, CUevent fork, CUevent join) {
  unsigned long long length_ns = 200000;
  void *arguments[] = {&length_ns};
  CUgraph graph;
  CUgraphExec exec;
  DO(cuStreamBeginCapture_v2, origin, CU_STREAM_CAPTURE_MODE_GLOBAL);
  DO(cuEventRecord, fork, origin);
  DO(cuStreamWaitEvent, joined, fork, 0);
  for (int i = 0; i < 20; i++) {
    DO(cuLaunchKernel, spin, 1, 1, 1, 1, 1, 1, 0, i % 2 ? origin : joined, arguments, NULL);
    if (i % 7 == 0) pause_ms(2);
  }
  DO(cuEventRecord, join, joined);
  DO(cuStreamWaitEvent, origin, join, 0);
  DO(cuStreamEndCapture, origin, &graph);
  DO(cuGraphInstantiateWithFlags, &exec, graph, 0);
  DO(cuGraphDestroy, graph);
  return exec;
}

int main(int count, char **words) {
  if (count != 2) return 2;
  unsigned rounds = (unsigned)strtoul(words[1], NULL, 10);
  unsigned long long length_ns = 3000000;
  void *arguments[] = {&length_ns};
  char line[16];
  pthread_t thread;
  CUstream origin, joined;
  CUevent fork, join;
  context = context_on(0);
  spin = function("spin");
  DO(cuStreamCreate, &origin, CU_STREAM_NON_BLOCKING);
  DO(cuEventCreate, &fork, CU_EVENT_DISABLE_TIMING);
  DO(cuEventCreate, &join, CU_EVENT_DISABLE_TIMING);
  puts("ready");
  fflush(stdout);
  if (!fgets(line, sizeof line, stdin)) return 0;
  if (pthread_create(&thread, NULL, keep_launching, NULL)) return 1;
  for (unsigned round = 0; round < rounds; round++) {
    DO(cuStreamCreate, &joined, CU_STREAM_NON_BLOCKING);
    DO(cuLaunchKernel, spin, 1, 1, 1, 1, 1, 1, 0, origin, arguments, NULL); /* in flight when it begins */
    CUgraphExec exec = capture(origin, joined, fork, join);
    DO(cuGraphLaunch, exec, origin);
    DO(cuGraphLaunch, exec, joined);
    DO(cuStreamDestroy_v2, joined); /* while its work runs */
    DO(cuStreamSynchronize, origin);
    DO(cuGraphExecDestroy, exec);
  }
  atomic_store(&ended, 1);
  pthread_join(thread, NULL);
  DO(cuCtxSynchronize);
  puts("done");
  return 0;
}
