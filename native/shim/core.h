/* core.h - the seams between the parts of the shim. Hooks are thin; the core behind them is here:
 *
 *   entry.c     which function answers a name: dlsym, dlvsym, cuGetProcAddress, direct linking
 *   driver.c    the real driver: the one libcuda and libnvidia-ml that the process has loaded
 *   region.c    the tenant's files: find, map, register a process slot, survive fork and loss
 *   account.c   charging memory (region.h says how), and the table of live blocks
 *   gate.c      when work may go to the card
 *   hooks_*.c   the bodies of hooks.def
 *   nvml_*.c    the tenant's own view through NVML
 *
 * Rules for all of it: no lock is held across a call of the real driver; nothing runs at process
 * exit; errno is preserved; no signals, umask, environment, stdout or exit are touched; errors are
 * the driver's own codes, and each cause is named once on stderr through cg_say().
 */
#ifndef CGPU_SHIM_CORE_H
#define CGPU_SHIM_CORE_H

#define __CUDA_API_VERSION_INTERNAL /* declare every version of every function, rename none */
#include <cuda.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "region.h"

#define CG_EXPORT __attribute__((visibility("default")))
#define CG_HIDDEN __attribute__((visibility("hidden"))) /* variables that inline functions read */
#define CG_LIKELY(condition) __builtin_expect(!!(condition), 1)
#define CG_NULL(stream) ((stream) ? (stream) : CU_STREAM_LEGACY)
#define CG_PTSZ(stream) ((stream) ? (stream) : CU_STREAM_PER_THREAD)

/* One line on stderr, prefixed "cgpu: ", at most once per call site and process. It ends with a code that
 * `cgpu explain` knows: src/cgpu/doctor/data/codes.toml has each format. */
void cg_say_once(bool *said, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define cg_say(...)                      \
  do {                                   \
    static bool cg_said_;                \
    cg_say_once(&cg_said_, __VA_ARGS__); \
  } while (0)

/* ---- driver.c ---- */

/* The real functions, one typed pointer per row of hooks.def plus the extra ones that the core
 * itself calls; null where this driver does not export the name. Filled on first use. */
#define CG_HOOK(since, name, category, params, args) CUresult(*name) params;
#define CG_SUBMIT(since, name, category, stream, params, args) CUresult(*name) params;
struct cg_driver {
#include "hooks.def"
#include "driver_extra.def" /* CG_EXTRA rows: cuCtxGetCurrent, cuEventRecord, cuStreamIsCapturing... */
};
#undef CG_HOOK
#undef CG_SUBMIT

extern CG_HIDDEN _Atomic(const struct cg_driver *) cg_driver_table; /* null: not filled yet */
const struct cg_driver *cg_driver_fill(void);

/* The table, or null when no libcuda is loaded in this process. Never loads one. Thread safe. */
static inline const struct cg_driver *cg_driver(void) {
  const struct cg_driver *ready = atomic_load_explicit(&cg_driver_table, memory_order_acquire);
  return CG_LIKELY(ready) ? ready : cg_driver_fill();
}

/* ---- region.c ---- */

enum cg_region_state {
  CG_REGION_NONE,   /* not a tenant: everything passes through untouched */
  CG_REGION_READY,  /* mapped, and this process owns a slot */
  CG_REGION_BROKEN, /* a tenant whose region cannot be used: allocations and contexts are refused */
};

struct cg_region {
  enum cg_region_state state;
  const struct cgpu_grants *grants; /* read-only */
  struct cgpu_usage *usage;
  unsigned slot; /* own index into usage->slot */
};

/* Maps the region and registers a slot on the first call in this process (and again in a forked
 * child); later calls cost one load. Never null. */
const struct cg_region *cg_region(void);

/* Makes sure that the slot is still this process's own, and takes another when it is not; for who waits long. */
void cg_keep_slot(void);

/* The region's GPU row of a device, matched by UUID; -1 when the device is not the tenant's. */
int cg_gpu_of_device(CUdevice device);
/* The same for the calling thread's current context; -1 also when there is none. */
int cg_gpu_current(void);

/* ---- account.c ---- */

enum cg_verdict {
  CG_GRANTED,
  CG_PASS,    /* not a tenant, or the device is not managed: do not account */
  CG_REFUSED, /* over the quota, or region broken: answer CUDA_ERROR_OUT_OF_MEMORY */
};

/* Reserves `bytes` (rounded up to units) on a GPU row for this process: one atomic step, before the
 * real call. cg_return gives back what a failed call or a free no longer holds. */
enum cg_verdict cg_reserve(int gpu, uint64_t bytes);
void cg_return(int gpu, uint64_t bytes);

/* What this tenant holds on the GPU row, overhead included, and its quota. */
void cg_usage_now(int gpu, uint64_t *used_bytes, uint64_t *quota_bytes);

/* Live blocks of this process by key, O(1) whatever their number. The key is a device pointer or a
 * driver handle; kinds keep equal values of different types apart. */
enum cg_kind {
  CG_KIND_POINTER, CG_KIND_ARRAY, CG_KIND_MIPMAP, CG_KIND_PHYSICAL, CG_KIND_POOL,
  CG_KIND_CONTEXT, CG_KIND_MODULE, CG_KIND_LIBRARY, CG_KIND_GRAPH, CG_KIND_IPC,
};
struct cg_block {
  uint64_t key;
  uint64_t bytes;    /* charged */
  CUcontext context; /* whose destruction frees it; null: none */
  uint8_t kind;
  uint8_t gpu;
  uint16_t references; /* mappings and retained handles of physical memory */
};
bool cg_block_add(const struct cg_block *block);                               /* false: no memory */
bool cg_block_take(enum cg_kind kind, uint64_t key, struct cg_block *removed); /* false: unknown */
/* Removes all blocks of a destroyed context and returns their charges. */
void cg_blocks_drop_context(CUcontext context);

/* ---- gate.c ---- */

enum cg_work { CG_WORK_KERNEL, CG_WORK_GRAPH, CG_WORK_MEMOP };

struct cg_pass {
  int gpu; /* -1: not gated */
  CUstream stream;
  enum cg_work work;
  uint64_t key; /* what runs: CUfunction, CUgraphExec, or a class of copies; for learnt costs */
  uint64_t opaque[4];
};

/* Before work goes to the card: returns at once inside the tenant's slot, otherwise waits for it.
 * Not gated, not charged: no tenant, policy 5, a stream that is being captured. Never fails. */
void cg_gate_enter(struct cg_pass *pass, enum cg_work work, CUstream stream, uint64_t key);
/* After the real call; `result` is its status. */
void cg_gate_leave(struct cg_pass *pass, CUresult result);
/* Capture of a stream began or ended. */
void cg_gate_capture(CUstream stream, bool capturing);
/* A stream or context is about to go: nothing of the gate's may use it any more. */
void cg_gate_forget_stream(CUstream stream);
void cg_gate_forget_context(CUcontext context);
/* In the child of a fork. */
void cg_gate_after_fork(void);

/* ---- entry.c ---- */

/* The pointer that the caller must get instead of `real`, which the driver gave for `name`: ours
 * where we hook that export, else `real` itself. */
void *cg_entry_replace(const char *name, void *real);

#endif
