// sources: shim/gate.c shim/gate_wait.c shim/gate_stream.c shim/gate_marker.c shim/gate_cost.c shim/gate_watch.c shim/gate_capture.c shim/gate_batch.c
/* What the gate adds to a launch, in nanoseconds: the driver costs nothing here, markers included.
 * Least of several rounds, as a busy machine only ever adds. Prints JSON. */
#include "gate_card.h"

#define LAUNCHES 200000u
#define ROUNDS 15

static CUresult record_nothing(CUevent event, CUstream stream) {
  (void)event, (void)stream;
  return CUDA_SUCCESS;
}
static CUresult finished(CUevent event) {
  (void)event;
  return CUDA_SUCCESS;
}
static CUresult stream_finished(CUstream stream) {
  (void)stream;
  return CUDA_SUCCESS;
}

static double round_ns(unsigned streams) {
  uint64_t began_ns = futex_now_ns();
  for (unsigned i = 0; i < LAUNCHES; i++) {
    CUresult result;
    GATE_LAUNCH(result, cg_driver(), CG_WORK_KERNEL, STREAM(i % streams), 0x5000, CUDA_SUCCESS);
  }
  return (double)(futex_now_ns() - began_ns) / LAUNCHES;
}

static double least_ns(unsigned streams) {
  double least = 1e9;
  for (int i = 0; i < ROUNDS; i++) {
    gate_cost_learn(0x5000, 64);
    double ns = round_ns(streams);
    if (ns < least) least = ns;
    rest_until(futex_now_ns() + 5 * MS); /* the watcher retires the round */
  }
  return least;
}

static double clock_ns(void) {
  uint64_t began_ns = futex_now_ns(), last_ns = 0;
  for (unsigned i = 0; i < LAUNCHES; i++) last_ns = futex_now_ns();
  return (double)(last_ns - began_ns) / LAUNCHES;
}

int main(void) {
  set_up();
  driver.x_cuEventRecord = record_nothing;
  driver.x_cuEventQuery = finished;
  driver.x_cuStreamQuery = stream_finished;
  driver.x_cuEventElapsedTime = card_event_elapsed;
  grants.gpu[ROW].quantum_ns = 1000 * MS; /* the queue is never full */
  grant(CGPU_GRANT_FREE, 0, 0);
  double free_slot_ns = least_ns(1);
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 1);
  double alone_ns = least_ns(1), alone_streams_ns = least_ns(4);
  grant(CGPU_GRANT_OPEN, futex_now_ns() + 3600000 * MS, 2);
  double slot_ns = least_ns(1);
  printf("{\"native_policy_ns\": %.1f, \"alone_ns\": %.1f, \"alone_4_streams_ns\": %.1f, \"in_a_slot_ns\": %.1f, "
         "\"one_clock_reading_ns\": %.1f}\n",
         free_slot_ns, alone_ns, alone_streams_ns, slot_ns, clock_ns());
  return 0;
}
