/* check.h - the frame of the checks of the simulated libcuda: what a check is, and how it fails. */
#ifndef CGPU_TESTS_SIM_CUDA_CHECK_H
#define CGPU_TESTS_SIM_CUDA_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_internal.h"

#define REQUIRE(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      _exit(1); \
    } \
  } while (0)
#define RESULT(call, wanted) \
  do { \
    CUresult got_ = (call); \
    if (got_ != (wanted)) { \
      fprintf(stderr, "%s:%d: %s answers %d, not %d\n", __FILE__, __LINE__, #call, (int)got_, (int)(wanted)); \
      _exit(1); \
    } \
  } while (0)
#define OK(call) RESULT(call, CUDA_SUCCESS)

#define MIB (1u << 20)
#define MILLISECOND 1000000ull

/* Every check: a function of its name, run in a process of its own after cuInit. */
#define CHECKS(X) \
  X(devices) X(errors) X(context_stack) X(context_end) X(primary_context) X(limits) \
  X(granules) X(out_of_memory) X(host_cannot_reach) X(pointers) X(narrow_pointers) X(host_memory) X(managed) \
  X(linear_copies) X(boxes) X(batches) X(fills) X(large_zeros) X(staging) \
  X(stream_order) X(legacy_stream) X(thread_stream) X(events) X(event_life) X(context_events) \
  X(host_functions) X(callbacks_block_no_copy) X(persistent_kernel) X(collective) X(end_with_work) X(stream_end) \
  X(test_modules) X(ptx) X(bad_ptx) X(cubin) X(fatbin) X(foreign_bytes) X(links) X(libraries) \
  X(launch_rules) X(old_launches) \
  X(forked_child) X(lost_card) X(xid) X(card_out_of_memory) X(many_threads) \
  X(green_split) X(green_descriptors) X(green_life) X(green_time) X(green_nodes) X(green_streams) \
  X(green_events) X(green_detached) X(rdma_flush) X(host_function_modes) \
  X(pool_threads) X(pool_end) X(graph_threads) X(graph_end) X(capture_threads) X(mapping_threads)

#define DECLARE_CHECK(name) void check_##name(void);
CHECKS(DECLARE_CHECK)
#undef DECLARE_CHECK

extern const char test_module[]; /* spin, hold, set, barrier, a global of 100 bytes */

CUcontext use_device(CUdevice device); /* a new context, current */
uint64_t used_bytes(int card);         /* the card's truth */
CUfunction kernel(const char *name);   /* of the test module, loaded in the current context */
/* Launches one thread; at most two arguments, of 8 and 4 bytes. */
CUresult launch(CUfunction function, CUstream stream, uint64_t first, uint32_t second);
CUdeviceptr zeroed_word(void);         /* 4 bytes of device memory */
uint32_t word_at(CUdeviceptr word);    /* read by a stream that waits for nobody */
void set_word(CUdeviceptr word, uint32_t value);
CUstream free_stream(void);            /* non-blocking */

#endif
