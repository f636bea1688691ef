// sources: shim/gate.c shim/gate_wait.c shim/gate_stream.c shim/gate_marker.c shim/gate_cost.c shim/gate_watch.c shim/gate_capture.c shim/gate_batch.c
// sanitizers: no
/* The gate in the child of a fork: nothing is in flight there, and no thread of the parent's is. (The
 * sanitizers do not allow new threads in the child of a process with several.) */
#include <sys/wait.h>

#include "gate_card.h"

static void child(void) {
  cg_gate_after_fork();
  region.slot = 4;
  usage.slot[4] = (struct cgpu_usage_slot){.header.state = CGPU_SLOT_LIVE};
  CHECK(!gate_gpu_used(ROW) && !gate_capturing());
  launch(STREAM(0), 0x5000, MS);
  CHECK(usage.slot[4].gpu[ROW].gate == CGPU_GATE_BUSY);
  while (atomic_load(ATOMIC(&usage.slot[4].gpu[ROW].gate))) rest_until(futex_now_ns() + MS);
}

int main(void) {
  set_up();
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  launch(STREAM(0), 0x5000, 20 * MS);
  cg_gate_capture(STREAM(1), true);
  gate_lock(); /* as another thread of the parent might, at that very moment */
  pid_t pid = fork();
  if (pid == 0) {
    child();
    _exit(0);
  }
  gate_unlock();
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  cg_gate_capture(STREAM(1), false);
  CHECK(await(CGPU_GATE_BUSY, 0));
  return 0;
}
