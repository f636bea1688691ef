/* gate_collective - one process on two cards whose kernels wait for each other, as a collective's do.
 *
 *   gate_collective ROUNDS FIRST
 *
 * In each round a barrier of two kernels, one per card, launched on card FIRST first, and some work of
 * each card's own. Says "ready", begins at a line of input, and says "done". */
#include "gate_client.h"

int main(int count, char **words) {
  if (count != 3) return 2;
  unsigned rounds = (unsigned)strtoul(words[1], NULL, 10), first = (unsigned)strtoul(words[2], NULL, 10) % 2;
  char line[16];
  CUcontext context[2];
  CUfunction barrier[2], spin[2];
  CUdeviceptr word[2];
  void *memory;
  for (int i = 0; i < 2; i++) {
    context[i] = context_on(i);
    barrier[i] = function("barrier");
    spin[i] = function("spin");
  }
  DO(cuMemHostAlloc, &memory, 4096, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
  memset(memory, 0, 4096);
  for (int i = 0; i < 2; i++) {
    DO(cuCtxSetCurrent, context[i]);
    DO(cuMemHostGetDevicePointer_v2, &word[i], memory, 0);
  }
  puts("ready");
  fflush(stdout);
  if (!fgets(line, sizeof line, stdin)) return 0;
  for (unsigned round = 1; round <= rounds; round++) {
    unsigned parties = 2 * round;
    unsigned long long length_ns = 2000000;
    for (unsigned i = 0; i < 2; i++) {
      unsigned card = (first + i) % 2;
      void *meet[] = {&word[card], &parties}, *work[] = {&length_ns};
      DO(cuCtxSetCurrent, context[card]);
      DO(cuLaunchKernel, barrier[card], 1, 1, 1, 1, 1, 1, 0, NULL, meet, NULL);
      DO(cuLaunchKernel, spin[card], 1, 1, 1, 1, 1, 1, 0, NULL, work, NULL);
    }
  }
  for (int i = 0; i < 2; i++) {
    DO(cuCtxSetCurrent, context[i]);
    DO(cuCtxSynchronize);
  }
  puts("done");
  return 0;
}
