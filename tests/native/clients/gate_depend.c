/* gate_depend - work that waits for other work of the same process, in every way but the right order.
 *
 *   gate_depend ROUNDS
 *
 * Each round: a kernel that spins until copies have brought it a word; a stream that waits for a value
 * which another stream writes behind a kernel; a kernel that spins until a later kernel sets its flag.
 * Says "ready", begins at a line of input, and says "done". */
#include "gate_client.h"

static CUstream stream(void) {
  CUstream stream;
  DO(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
  return stream;
}

static CUdeviceptr word(void) {
  CUdeviceptr address;
  DO(cuMemAlloc_v2, &address, 4096);
  DO(cuMemsetD32_v2, address, 0, 1024);
  return address;
}

static void launch(CUfunction kernel, CUstream stream, CUdeviceptr address, unsigned value) {
  void *arguments[] = {&address, &value};
  DO(cuLaunchKernel, kernel, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
}

static void spin(CUfunction kernel, CUstream stream, unsigned long long length_ns) {
  void *arguments[] = {&length_ns};
  DO(cuLaunchKernel, kernel, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
}

int main(int count, char **words) {
  if (count != 2) return 2;
  unsigned rounds = (unsigned)strtoul(words[1], NULL, 10);
  char line[16];
  context_on(0);
  CUfunction hold = function("hold"), set = function("set"), busy = function("spin");
  CUstream first = stream(), second = stream();
  CUdeviceptr fed = word(), written = word(), flag = word();
  puts("ready");
  fflush(stdout);
  if (!fgets(line, sizeof line, stdin)) return 0;
  for (unsigned round = 1; round <= rounds; round++) {
    launch(hold, first, fed, round * 4);
    for (unsigned part = 1; part <= 4; part++) {
      unsigned value = (round - 1) * 4 + part;
      DO(cuMemcpyHtoDAsync_v2, fed, &value, sizeof value, second);
      DO(cuStreamSynchronize, second);
      struct timespec pause = {.tv_nsec = 7000000}; /* so that it goes on after the slot's end */
      nanosleep(&pause, NULL);
    }
    DO(cuStreamWaitValue32_v2, first, written, round, CU_STREAM_WAIT_VALUE_GEQ);
    spin(busy, first, 1000000);
    spin(busy, second, 1000000);
    DO(cuStreamWriteValue32_v2, second, written, round, 0);
    launch(hold, first, flag, round);
    launch(set, second, flag, round);
    DO(cuCtxSynchronize);
  }
  puts("done");
  return 0;
}
