// sources: shim/gate.c shim/gate_wait.c shim/gate_stream.c shim/gate_marker.c shim/gate_cost.c shim/gate_watch.c shim/gate_capture.c shim/gate_batch.c
// emulated: no
/* The gate of one process, with the test as arbiter and a card that keeps to the clock. */
#include "gate_card.h"

enum { KERNEL_KEY = 0x5000, OTHER_KEY = 0x6000, LONG_KEY = 0x7000, SHORT_KEY = 0x8000, COPY_KEY = 1, WORD_KEY = 2 };

/* A launch by another thread, which may have to wait. */
struct waiting {
  pthread_t thread;
  enum cg_work work;
  CUstream stream;
  uint64_t key, length_ns;
  _Atomic(bool) through;
};

static void *launch_waiting(void *argument) {
  struct waiting *waiting = argument;
  current = CONTEXT;
  launch_as(waiting->work, waiting->stream, waiting->key, waiting->length_ns, CUDA_SUCCESS);
  atomic_store(&waiting->through, true);
  return NULL;
}

static void start(struct waiting *waiting, enum cg_work work, CUstream stream, uint64_t key, uint64_t length_ns) {
  *waiting = (struct waiting){.work = work, .stream = stream, .key = key, .length_ns = length_ns};
  CHECK(pthread_create(&waiting->thread, NULL, launch_waiting, waiting) == 0);
}

static void settle(void) {
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  CHECK(await(CGPU_GATE_BUSY | CGPU_GATE_WANT, 0));
}

static void test_free_grant_passes_everything(void) {
  grant(CGPU_GRANT_FREE, 0, 0);
  for (int i = 0; i < 100; i++) launch(STREAM(0), KERNEL_KEY, 0);
  CHECK(gate_word() == 0 && records == 0);
}

static void test_busy_is_shown_and_taken_back(void) {
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  uint32_t rung = doorbell();
  launch(STREAM(0), KERNEL_KEY, MS);
  CHECK(gate_word() == CGPU_GATE_BUSY);
  CHECK(await(CGPU_GATE_BUSY, 0));
  CHECK(futex_now_ns() >= done_ns[0]);
  CHECK(doorbell() > rung); /* a rival waits for the idle card */
  CHECK(usage.slot[5].gpu[ROW].launches == 1);
}

static void test_cost_is_learnt(void) {
  for (int i = 0; i < 3; i++) launch(STREAM(0), KERNEL_KEY, MS);
  settle();
  bool doubtful;
  uint64_t known_ns = gate_cost_known(KERNEL_KEY, &doubtful);
  CHECK(known_ns >= MS && known_ns < 3 * MS);
}

/* What a key costs after these measurements, and whether its next launch is to be measured too. */
static bool in_doubt_after(uint64_t key, const uint64_t *costs_ns, int count, uint64_t *known_ns) {
  bool doubtful;
  for (int i = 0; i < count; i++) gate_cost_learn(key, costs_ns[i]);
  *known_ns = gate_cost_known(key, &doubtful);
  return doubtful;
}

/* While others were on the card a kernel of 10 ms took 18: until that is forgotten each launch is measured. */
static void test_long_work_is_measured_until_measurements_agree(void) {
  const uint64_t key = 0x77700, steady[] = {10 * MS, 10 * MS}, disturbed[] = {18 * MS}, again[] = {10 * MS};
  uint64_t known_ns;
  CHECK(!in_doubt_after(key, steady, 2, &known_ns) && known_ns == 10 * MS);
  CHECK(in_doubt_after(key, disturbed, 1, &known_ns) && known_ns / MS == 18);
  int measured = 0;
  while (in_doubt_after(key, again, 1, &known_ns)) measured++;
  CHECK(measured < 16 && known_ns < 11 * MS);
}

static void test_short_work_is_sampled_now_and_then_whatever_it_cost(void) {
  const uint64_t key = 0x77800, changing[] = {MS / 100, MS / 10, MS / 50};
  uint64_t known_ns;
  bool doubtful;
  CHECK(gate_cost_known(key, &doubtful) == 0 && doubtful);
  CHECK(!in_doubt_after(key, changing, 3, &known_ns) && known_ns > MS / 50);
}

static void test_without_a_rival_idle_is_not_rung(void) {
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 1);
  uint32_t rung = doorbell();
  launch(STREAM(0), KERNEL_KEY, MS);
  CHECK(await(CGPU_GATE_BUSY, 0));
  CHECK(doorbell() == rung);
}

static void test_closed_slot_waits(void) {
  struct waiting waiting;
  settle();
  grant(CGPU_GRANT_CLOSED, 0, 2);
  uint32_t rung = doorbell();
  start(&waiting, CG_WORK_KERNEL, STREAM(0), KERNEL_KEY, MS);
  CHECK(await(CGPU_GATE_WANT, CGPU_GATE_WANT));
  CHECK(doorbell() > rung && !(gate_word() & CGPU_GATE_BUSY));
  rest_until(futex_now_ns() + 20 * MS);
  CHECK(!atomic_load(&waiting.through));
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  pthread_join(waiting.thread, NULL);
  CHECK(!(gate_word() & CGPU_GATE_WANT));
  CHECK(usage.slot[5].gpu[ROW].waited_ns >= 20 * MS);
  settle();
}

static void test_closing_drains_at_once(void) {
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  launch(STREAM(0), KERNEL_KEY, 5 * MS);
  grant(CGPU_GRANT_CLOSED, 0, 2);
  CHECK(await(CGPU_GATE_BUSY, 0));
  CHECK(futex_now_ns() >= done_ns[0]);
  CHECK(usage.slot[5].gpu[ROW].drained_ns >= done_ns[0]);
  settle();
}

static void test_host_synchronisation_clears_without_the_watcher(void) {
  struct gate_sync sync;
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  launch(STREAM(0), KERNEL_KEY, MS);
  gate_sync_stream(&sync, STREAM(0));
  rest_until(done_ns[0]);
  grant(CGPU_GRANT_CLOSED, 0, 2);
  gate_sync_end(&sync, CUDA_SUCCESS);
  CHECK(gate_word() == 0);
  settle();
}

/* Queued work stays within the quantum plus one launch. */
static void test_queue_is_bounded(void) {
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  uint64_t deepest_ns = 0;
  for (int i = 0; i < 40; i++) {
    launch(STREAM(0), KERNEL_KEY, MS);
    uint64_t now_ns = futex_now_ns();
    if (free_ns > now_ns && free_ns - now_ns > deepest_ns) deepest_ns = free_ns - now_ns;
  }
  CHECK(deepest_ns <= QUANTUM + 2 * MS && deepest_ns >= QUANTUM / 4);
  settle();
}

static void test_queue_ends_with_the_slot(void) {
  uint64_t deadline_ns = futex_now_ns() + 5 * MS;
  struct waiting waiting;
  grant(CGPU_GRANT_OPEN, deadline_ns, 2);
  int before_end = 0;
  while (before_end < 4) {
    launch(STREAM(0), KERNEL_KEY, MS);
    before_end++;
  }
  start(&waiting, CG_WORK_KERNEL, STREAM(0), LONG_KEY, MS); /* of unknown cost: a quantum */
  CHECK(await(CGPU_GATE_WANT, CGPU_GATE_WANT) || atomic_load(&waiting.through));
  CHECK(free_ns <= deadline_ns + 2 * MS);
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  pthread_join(waiting.thread, NULL);
  settle();
}

/* A kernel that spins until the next launch sets its flag: that launch goes although the queue is
 * full of unknown work, now or in a later slot. */
static void test_work_that_waits_for_itself(void) {
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  hold_stream(STREAM(1), true);
  launch(STREAM(1), OTHER_KEY, 0);
  struct waiting waiting;
  start(&waiting, CG_WORK_KERNEL, STREAM(2), LONG_KEY + 1, MS);
  grant(CGPU_GRANT_OPEN, futex_now_ns() + 3600000 * MS, 2);
  pthread_join(waiting.thread, NULL); /* in the end */
  hold_stream(STREAM(1), false);
  settle();
}

static void test_copies_feed_a_running_kernel(void) {
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  hold_stream(STREAM(1), true);
  launch(STREAM(1), OTHER_KEY, 0);
  grant(CGPU_GRANT_CLOSED, 0, 2);
  launch_as(CG_WORK_MEMOP, STREAM(2), COPY_KEY, MS, CUDA_SUCCESS);
  launch_as(CG_WORK_MEMOP, STREAM(2), WORD_KEY, 0, CUDA_SUCCESS);
  struct waiting waiting;
  start(&waiting, CG_WORK_KERNEL, STREAM(3), KERNEL_KEY, MS); /* not so a kernel */
  CHECK(await(CGPU_GATE_WANT, CGPU_GATE_WANT) && !atomic_load(&waiting.through));
  hold_stream(STREAM(1), false);
  CHECK(await(CGPU_GATE_BUSY, 0) && !atomic_load(&waiting.through));
  struct waiting copy;
  start(&copy, CG_WORK_MEMOP, STREAM(2), COPY_KEY, MS); /* nor a copy that feeds nothing */
  rest_until(futex_now_ns() + 5 * MS);
  CHECK(!atomic_load(&copy.through));
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  pthread_join(waiting.thread, NULL);
  pthread_join(copy.thread, NULL);
  settle();
}

/* Whether something behind the stream's last marker is in flight. */
static bool unmarked(CUstream handle) {
  struct gate_stream *stream = gate_contexts()->streams;
  while (stream->stream != handle) stream = stream->next;
  return atomic_load(&stream->submitted) != atomic_load(&stream->marked);
}

static void test_captured_launches_are_not_gated(void) {
  settle();
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  do {
    launch(STREAM(5), KERNEL_KEY, MS); /* its tail gets a marker when the capture begins */
  } while (!unmarked(STREAM(5)));
  do {
    launch(CU_STREAM_LEGACY, KERNEL_KEY, MS); /* this one cannot, and may not be asked for meanwhile */
  } while (!unmarked(CU_STREAM_LEGACY));
  cg_gate_capture(STREAM(4), true);
  capturing[4] = true;
  CHECK(!unmarked(STREAM(5)) && unmarked(CU_STREAM_LEGACY));
  grant(CGPU_GRANT_CLOSED, 0, 2);
  for (int i = 0; i < 100; i++) launch(STREAM(4), KERNEL_KEY, MS);
  capturing[6] = true; /* joined through an event, which no hook saw */
  launch(STREAM(6), KERNEL_KEY, MS);
  CHECK(!(gate_word() & CGPU_GATE_WANT));
  rest_until(free_ns + 5 * MS);
  CHECK(atomic_load(&illegal) == 0);
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  launch(STREAM(5), KERNEL_KEY, MS); /* beside the capture: marked at once, queried by event only */
  rest_until(free_ns + 2 * MS);
  capturing[4] = capturing[6] = false;
  cg_gate_capture(STREAM(4), false);
  CHECK(!gate_capturing());
  settle();
  CHECK(atomic_load(&illegal) == 0);
}

static void test_failed_launch_leaves_nothing(void) {
  settle();
  launch_as(CG_WORK_KERNEL, STREAM(0), KERNEL_KEY, 0, CUDA_ERROR_INVALID_VALUE);
  CHECK(atomic_load(&gate_gpu(ROW)->inflight) <= GATE_FLAG_BUSY);
  settle();
}

static void test_lost_context_counts_as_drained(void) {
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  hold_stream(STREAM(1), true);
  launch(STREAM(1), KERNEL_KEY, 0);
  atomic_store(&sticky, CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK(await(CGPU_GATE_BUSY, 0));
  atomic_store(&sticky, CUDA_SUCCESS);
  hold_stream(STREAM(1), false);
}

static void test_destroyed_stream_is_watched_to_its_end(void) {
  grant(CGPU_GRANT_CLOSED, 0, 2);
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  for (int i = 0; i < 5; i++) launch(STREAM(7), KERNEL_KEY, MS);
  uint64_t end_ns = done_ns[7];
  unsigned queries = stream_queries;
  cg_gate_forget_stream(STREAM(7));
  queries = stream_queries;
  done_ns[7] = 0; /* the handle is another stream's now */
  grant(CGPU_GRANT_CLOSED, 0, 2);
  CHECK(await(CGPU_GATE_BUSY, 0));
  CHECK(futex_now_ns() >= end_ns && stream_queries == queries);
  settle();
}

static void test_destroyed_context_takes_its_work_along(void) {
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  hold_stream(STREAM(1), true);
  launch(STREAM(1), KERNEL_KEY, 0);
  grant(CGPU_GRANT_CLOSED, 0, 2);
  cg_gate_forget_context(CONTEXT);
  CHECK(gate_word() == 0);
  hold_stream(STREAM(1), false);
  settle();
  launch(STREAM(1), KERNEL_KEY, MS); /* a new context at the same address */
  settle();
}

static void *launch_in_default_stream(void *unused) {
  current = CONTEXT;
  launch(CU_STREAM_PER_THREAD, KERNEL_KEY, MS);
  return unused;
}

static void test_default_streams_of_threads(void) {
  pthread_t thread;
  settle();
  unsigned queries = stream_queries;
  gate_cost_learn(SHORT_KEY, 1000); /* so that no marker is due for another reason */
  for (int i = 0; i < 5; i++) {
    launch(CU_STREAM_PER_THREAD, SHORT_KEY, MS / 10);
    CHECK(!unmarked(CU_STREAM_PER_THREAD));
  }
  CHECK(pthread_create(&thread, NULL, launch_in_default_stream, NULL) == 0);
  pthread_join(thread, NULL);
  uint64_t end_ns = done_ns[index_of(CU_STREAM_PER_THREAD)];
  grant(CGPU_GRANT_CLOSED, 0, 2);
  CHECK(await(CGPU_GATE_BUSY, 0));
  CHECK(futex_now_ns() >= end_ns);
  settle();
  CHECK(stream_queries == queries); /* handle 2 would be the watcher's own */
}

/* The watcher looks while the marker of a thread's launch is still being recorded. */
static void test_marker_that_comes_late(void) {
  settle();
  grant(CGPU_GRANT_CLOSED, 0, 2);
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  record_delay_ns = 20 * MS;
  launch(CU_STREAM_PER_THREAD, KERNEL_KEY, 200 * MS);
  record_delay_ns = 0;
  grant(CGPU_GRANT_CLOSED, 0, 2);
  CHECK(await(CGPU_GATE_BUSY, 0));
  CHECK(futex_now_ns() >= done_ns[index_of(CU_STREAM_PER_THREAD)]);
  settle();
}

/* Without a heartbeat the tenant runs in its own part of the window, until the arbiter is back. */
static void test_alone_against_the_clock(void) {
  settle();
  struct cgpu_grants_gpu *gpu = &grants.gpu[ROW];
  gpu->share_ppm = 250000;
  gpu->share_offset_ppm = 500000;
  gpu->share_window_ns = 40 * MS;
  grant(CGPU_GRANT_CLOSED, 0, 2);
  atomic_store(ATOMIC(&grants.header.heartbeat_ns), 0);
  uint64_t until_ns = futex_now_ns() + 200 * MS, inside = 0;
  while (futex_now_ns() < until_ns) {
    launch(STREAM(0), KERNEL_KEY, MS / 2);
    uint64_t into_ns = futex_now_ns() % (40 * MS);
    inside += into_ns >= 20 * MS && into_ns < 32 * MS;
    CHECK(into_ns >= 20 * MS); /* late is possible, early is not */
  }
  CHECK(inside > 10);
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  for (int i = 0; i < 100; i++) launch(STREAM(0), KERNEL_KEY, MS / 10);
  settle();
  CHECK(!atomic_load(&gate_gpu(ROW)->alone));
}

/* ---- batches: short launches of known cost, one after another ---- */

static uint64_t launched(void) { return atomic_load(ATOMIC(&usage.slot[5].gpu[ROW].launches)); }

/* So many launches of work whose cost is known, short enough for batches. */
static void launch_short(CUstream stream, unsigned count) {
  gate_cost_learn(SHORT_KEY, 1000);
  for (unsigned i = 0; i < count; i++) launch(stream, SHORT_KEY, 0);
}

/* The thread's batch is open, and something has gone in it. */
static bool in_batch(void) {
  return gate_own_batch && atomic_load(&gate_own_batch->open) && gate_own_batch->epoch == atomic_load(&gate_epoch);
}

static bool await_batch(CUstream stream) {
  uint64_t until_ns = futex_now_ns() + 2000 * MS;
  while (!in_batch() && futex_now_ns() < until_ns) launch_short(stream, 1);
  return in_batch();
}

static void test_every_launch_of_a_batch_is_counted(void) {
  settle();
  uint64_t before = launched();
  launch_short(STREAM(0), 1000);
  launch(STREAM(0), OTHER_KEY, 0); /* another kernel, a copy, another stream, a failure in between */
  launch_short(STREAM(0), 100);
  launch_as(CG_WORK_MEMOP, STREAM(0), COPY_KEY, 0, CUDA_SUCCESS);
  launch_short(STREAM(0), 100);
  launch_short(STREAM(1), 100);
  launch_as(CG_WORK_KERNEL, STREAM(1), SHORT_KEY, 0, CUDA_ERROR_INVALID_VALUE);
  launch_short(STREAM(1), 100);
  settle();
  CHECK(launched() - before == 1402);
  CHECK(!atomic_load(&gate_gpu(ROW)->inflight));
}

static void test_room_that_is_not_used_comes_back(void) {
  settle();
  CHECK(await_batch(STREAM(0)));
  CHECK(gate_cost_ns(atomic_load(&gate_gpu(ROW)->inflight)) > 0 && gate_word() == CGPU_GATE_BUSY);
  CHECK(await(CGPU_GATE_BUSY, 0)); /* though this thread says nothing more */
  CHECK(!in_batch() && !atomic_load(&gate_gpu(ROW)->inflight));
}

static void *batch_of_another_thread(void *through) {
  current = CONTEXT;
  launch_short(STREAM(3), 500);
  atomic_store((_Atomic(bool) *)through, true);
  return NULL; /* its batch ends with it */
}

static void test_closed_slot_ends_a_batch(void) {
  struct waiting waiting;
  _Atomic(bool) other = false;
  pthread_t thread;
  settle();
  CHECK(pthread_create(&thread, NULL, batch_of_another_thread, &other) == 0);
  pthread_join(thread, NULL);
  CHECK(atomic_load(&other) && await_batch(STREAM(0)));
  grant(CGPU_GRANT_CLOSED, 0, 2);
  CHECK(!gate_batch_enter(cg_driver(), CG_WORK_KERNEL, STREAM(0), SHORT_KEY)); /* this one has to wait now */
  start(&waiting, CG_WORK_KERNEL, STREAM(1), SHORT_KEY, 0);
  CHECK(await(CGPU_GATE_WANT | CGPU_GATE_BUSY, CGPU_GATE_WANT));
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  pthread_join(waiting.thread, NULL);
  settle();
  CHECK(!atomic_load(&gate_gpu(ROW)->inflight));
}

static void test_word_that_somebody_has_cleared_is_said_again(void) {
  struct waiting waiting;
  settle();
  grant(CGPU_GRANT_CLOSED, 0, 2);
  start(&waiting, CG_WORK_KERNEL, STREAM(1), SHORT_KEY, 0);
  CHECK(await(CGPU_GATE_WANT, CGPU_GATE_WANT));
  atomic_store(ATOMIC(&usage.slot[5].gpu[ROW].gate), 0);
  CHECK(await(CGPU_GATE_WANT, CGPU_GATE_WANT));
  grant(CGPU_GRANT_OPEN, UINT64_MAX, 2);
  pthread_join(waiting.thread, NULL);
  settle();
}

static void test_no_batch_for_what_takes_long_or_is_not_known(void) {
  settle();
  gate_cost_learn(LONG_KEY, 15 * MS);
  for (int i = 0; i < 6; i++) launch(STREAM(0), LONG_KEY, 0);
  CHECK(!in_batch());
  for (uint64_t i = 0; i < 20; i++) launch(STREAM(0), 0x9000 + 64 * i, 0);
  CHECK(!in_batch());
  settle();
}

static void test_a_stream_or_capture_ends_batches(void) {
  settle();
  CHECK(await_batch(STREAM(4)));
  cg_gate_forget_stream(STREAM(4));
  current = CONTEXT; /* the simple driver's stack of contexts has one place */
  CHECK(!in_batch());
  CHECK(await_batch(STREAM(0)));
  capturing[1] = true;
  cg_gate_capture(STREAM(1), true);
  CHECK(!in_batch());
  launch_short(STREAM(0), 20);
  CHECK(!in_batch() && atomic_load(&illegal) == 0);
  capturing[1] = false;
  cg_gate_capture(STREAM(1), false);
  settle();
  CHECK(!atomic_load(&gate_gpu(ROW)->inflight));
}

int main(void) {
  set_up();
  test_free_grant_passes_everything();
  test_busy_is_shown_and_taken_back();
  test_cost_is_learnt();
  test_long_work_is_measured_until_measurements_agree();
  test_short_work_is_sampled_now_and_then_whatever_it_cost();
  test_without_a_rival_idle_is_not_rung();
  test_closed_slot_waits();
  test_closing_drains_at_once();
  test_host_synchronisation_clears_without_the_watcher();
  test_queue_is_bounded();
  test_queue_ends_with_the_slot();
  test_work_that_waits_for_itself();
  test_copies_feed_a_running_kernel();
  test_captured_launches_are_not_gated();
  test_failed_launch_leaves_nothing();
  test_lost_context_counts_as_drained();
  test_destroyed_stream_is_watched_to_its_end();
  test_destroyed_context_takes_its_work_along();
  test_default_streams_of_threads();
  test_marker_that_comes_late();
  test_every_launch_of_a_batch_is_counted();
  test_room_that_is_not_used_comes_back();
  test_closed_slot_ends_a_batch();
  test_word_that_somebody_has_cleared_is_said_again();
  test_no_batch_for_what_takes_long_or_is_not_known();
  test_a_stream_or_capture_ends_batches();
  test_alone_against_the_clock();
  return 0;
}
