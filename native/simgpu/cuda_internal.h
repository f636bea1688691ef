/* cuda_internal.h - the process-local objects of the simulated libcuda.so.1.
 *
 * card.h is the machine: memory, channels, fences, time, shared by all processes. This file is what
 * a driver library keeps in one process: contexts, streams, events, the address space, modules, and
 * `struct sim_work`, one piece of work for the card. Work is either put into a stream now
 * (sim_submit) or recorded as a graph node (sim_capture_add), so that a graph replays exactly what
 * a stream would have run.
 *
 * Handles are pointers to the structs that cuda.h leaves opaque. Each begins with a magic word that
 * is cleared when the object dies.
 *
 * Locks, outermost first: a stream's `lock` (held while its items are queued, also while the
 * channel's ring is full), then the process lock (sim_lock: tables and lists; never held across a
 * card.h call that may wait, nor across a user's callback). The legacy stream's lock may be held while
 * another stream's is taken, never the other way round.
 */
#ifndef CGPU_SIM_CUDA_INTERNAL_H
#define CGPU_SIM_CUDA_INTERNAL_H

/* Every version of every function, each under its exported name; all of them exported. */
#define __CUDA_API_VERSION_INTERNAL
#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "card.h"

#define SIM_CONTAINER_OF(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

enum sim_magic {
  SIM_MAGIC_CONTEXT = 0x5c010001,
  SIM_MAGIC_STREAM,
  SIM_MAGIC_EVENT,
  SIM_MAGIC_MODULE,
  SIM_MAGIC_FUNCTION,
  SIM_MAGIC_LIBRARY,
  SIM_MAGIC_KERNEL,
  SIM_MAGIC_LINK,
  SIM_MAGIC_ARRAY,
  SIM_MAGIC_MIPMAP,
  SIM_MAGIC_POOL,
  SIM_MAGIC_GRAPH,
  SIM_MAGIC_NODE,
  SIM_MAGIC_EXEC,
  SIM_MAGIC_PHYSICAL, /* a handle of cuMemCreate */
  SIM_MAGIC_TEXTURE,
  SIM_MAGIC_SURFACE,
  SIM_MAGIC_USER_OBJECT,
};

/* ---- the process ---- */

void sim_lock(void);
void sim_unlock(void);

/* CUDA_SUCCESS after cuInit; NOT_INITIALIZED before it and in a forked child; NOT_PERMITTED on a
 * driver thread inside a user's callback. */
CUresult sim_ready(void);
/* The current context, alive and without a sticky error. */
CUresult sim_current(CUcontext *context);
/* The visible device `device` as a card of the machine; INVALID_DEVICE when there is none. */
CUresult sim_device_card(CUdevice device, int *card);
CUdevice sim_card_device(int card); /* -1 when it is not visible */
CUresult sim_result(int sg_error);  /* a card.h result as the driver reports it */
/* The same for a call on a context's own channel or memory: what is fatal there becomes the
 * context's sticky error. */
CUresult sim_context_result(CUcontext context, int sg_error);
int sim_cuda_version(void);
uint64_t sim_next_id(void); /* process-unique ids: contexts, streams, buffers, graphs; never 0 */

/* ---- contexts ---- */

/* Something that dies with its context. `destroy` is called without locks held, with the object
 * already taken off the list, and must not touch the context's channels (they are gone). */
struct sim_owned {
  struct sim_owned *next, **previous; /* previous is NULL when off the list */
  void (*destroy)(struct sim_owned *owned);
};

/* What a CUcontext handle points to: a context, or the view of a green context (cuCtxFromGreenCtx). A
 * view can be current and have streams: its `legacy`, `gate` and `sticky` count. All else is done in
 * the primary context behind it, which sim_current and sim_context_of answer in its place. */
struct CUctx_st {
  uint32_t magic;
  int card;
  CUdevice device;
  sg_context machine; /* the context in card.h */
  uint64_t id;
  unsigned flags, api_version;
  bool primary, destroyed;
  _Atomic int sticky; /* CUresult that every later call returns; CUDA_SUCCESS while sound */
  CUstream legacy;    /* the legacy default stream, there from the start */
  CUstream streams;   /* all of them */
  struct sim_owned *owned;
  struct sim_slab *slabs;
  size_t limits[CU_LIMIT_MAX];
  struct sim_block *limit_blocks[CU_LIMIT_MAX]; /* what a limit above its default holds */
  unsigned attached;  /* cuCtxAttach */
  sg_fence gate;      /* cuCtxWaitEvent: what streams that begin later wait for; 0: nothing */
  uint64_t gate_value;
  CUfunc_cache cache_config;
  CUsharedconfig shared_config;
  uint32_t peers; /* bit per card whose memory this context has enabled */
  CUcontext base;    /* itself; of a view: the primary context */
  CUgreenCtx green;  /* of a view: its green context; else NULL */
  uint32_t sm_count; /* of a view: of its green context; 0: all of the card's */
  struct CUctx_st *next_live;
};

/* Puts the object on the context's list of what dies with it, and takes it off again. sim_disown
 * answers false when the context's end has taken it already. */
void sim_own(CUcontext context, struct sim_owned *owned, void (*destroy)(struct sim_owned *));
bool sim_disown(struct sim_owned *owned);
/* Waits for all work of the context; returns its sticky error if there is one. */
CUresult sim_context_wait(CUcontext context);
bool sim_context_valid(CUcontext context); /* also for the view of a living green context */
/* `handle` if it is alive, the current context if it is NULL. */
CUresult sim_context_of(CUcontext handle, CUcontext *context);
/* As sim_context_of, with the view itself in *home where the handle is one. */
CUresult sim_home_of(CUcontext handle, CUcontext *home, CUcontext *context);
/* Retained primary context of a device, made current by nobody; and its release. */
CUresult sim_primary_retain(CUdevice device, CUcontext *context);
CUresult sim_primary_release(CUdevice device);
CUcontext sim_thread_context(void); /* top of this thread's stack or NULL; no checks */
/* Calls `visit` for every live context (no views), under the process lock. */
void sim_contexts_each(void (*visit)(CUcontext context, void *argument), void *argument);

/* ---- address space and memory ----
 *
 * One range of addresses is reserved per process without access (PROT_NONE). Its first half holds
 * device addresses, which host code therefore cannot dereference, as on a real card; the driver
 * reaches the same physical memory at the address plus a fixed offset (sim_shadow). Managed memory
 * is mapped at both. Host memory (allocated or registered) lies outside and is its own alias.
 */
enum sim_memory {
  SIM_MEMORY_DEVICE,     /* cuMemAlloc and friends */
  SIM_MEMORY_MANAGED,    /* cuMemAllocManaged */
  SIM_MEMORY_GLOBAL,     /* code or global variable of a module: freed with it alone */
  SIM_MEMORY_ARRAY,      /* behind a CUarray: has no address for users */
  SIM_MEMORY_POOL,       /* stream-ordered allocation */
  SIM_MEMORY_MAPPED,     /* cuMemMap */
  SIM_MEMORY_IPC,        /* another process's, opened here */
  SIM_MEMORY_HOST,       /* cuMemAllocHost, cuMemHostAlloc */
  SIM_MEMORY_REGISTERED, /* cuMemHostRegister */
};

struct sim_block { /* one allocation, found by any address inside it */
  uint64_t address, bytes; /* bytes as asked for; what is taken may be more */
  enum sim_memory kind;
  int card;            /* -1 for host memory */
  CUcontext context;   /* whose end frees it; NULL for pools and mappings */
  sg_phys object;      /* physical memory behind it; 0 for host memory */
  uint64_t offset;     /* of `address` in the object */
  struct sim_slab *slab; /* where it is sub-allocated from; NULL for one with granules of its own */
  uint64_t buffer_id;
  unsigned flags;      /* of the allocating call */
  bool accessible;     /* by copies and kernels: false for a mapping before cuMemSetAccess */
  bool read_only;
  bool sync_memops;    /* CU_POINTER_ATTRIBUTE_SYNC_MEMOPS */
  void *owner;         /* the kind's own: a CUmemoryPool, a mapping, ... */
  CUmemLocation preferred, prefetched; /* managed: advice and last prefetch */
  bool read_mostly;
  uint32_t accessed_by; /* bit per device */
  struct sim_owned owned;
};

bool sim_is_device_address(uint64_t address);
void *sim_shadow(uint64_t device_address); /* the driver's own alias; no check */

/* Addresses in the device range, multiples of a granule. `hint` 0 for anywhere. */
CUresult sim_va_reserve(uint64_t bytes, uint64_t alignment, uint64_t hint, uint64_t *address);
void sim_va_release(uint64_t address, uint64_t bytes);
/* Backs reserved addresses with physical memory; `host_visible` also at the device address itself. */
CUresult sim_va_back(uint64_t address, uint64_t bytes, sg_phys object, uint64_t offset, bool host_visible);
void sim_va_unback(uint64_t address, uint64_t bytes);

/* A new object of `bytes` rounded up to granules, with addresses and backing; and its end. */
CUresult sim_segment_create(int card, uint64_t bytes, bool host_visible, sg_phys *object, uint64_t *address);
void sim_segment_destroy(sg_phys object, uint64_t address, uint64_t bytes);

/* The index of blocks by address. Insertion fails (OUT_OF_MEMORY) only for want of host memory. */
CUresult sim_block_insert(struct sim_block *block);
void sim_block_remove(struct sim_block *block);
struct sim_block *sim_block_find(uint64_t address); /* call with the process lock held */

/* Device memory of a context as cuMemAlloc takes it: from 1 MiB on granules of its own, below that
 * a part (multiple of 512 bytes) of a 2 MiB slab. sim_memory_free does not wait for the card. */
CUresult sim_memory_alloc(CUcontext context, uint64_t bytes, enum sim_memory kind, struct sim_block **block);
void sim_memory_free(struct sim_block *block);

/* Where the driver reads or writes [address, address+bytes) of any kind of memory: INVALID_VALUE
 * when a part of it is device range that is not backed or not accessible. `*pageable` (may be NULL)
 * gets whether it is host memory the driver does not know. */
CUresult sim_resolve(uint64_t address, uint64_t bytes, bool write, void **alias, bool *pageable);

/* ---- arrays ---- rows lie `pitch` bytes apart, slices (depth or layers) `slice_pitch`. */

struct CUarray_st {
  uint32_t magic;
  CUDA_ARRAY3D_DESCRIPTOR descriptor;
  unsigned element_bytes;    /* channels x size of one */
  uint64_t width_bytes, rows, slices; /* at least 1 each */
  uint64_t pitch, slice_pitch;
  struct sim_block *block;   /* NULL while a sparse or deferred array has no memory */
  uint64_t base_offset;      /* of this level or plane within the block */
  CUmipmappedArray mipmap;   /* whose level this is, or NULL */
  CUcontext context;
  int card;
  struct sim_owned owned;
};

/* ---- work ---- */

enum sim_work_kind {
  SIM_WORK_KERNEL,
  SIM_WORK_COPY,
  SIM_WORK_MEMSET,
  SIM_WORK_HOST,
  SIM_WORK_EVENT_RECORD,
  SIM_WORK_EVENT_WAIT,
  SIM_WORK_MEMOP, /* put by sim_memop_put (cuda_memop.c) */
  SIM_WORK_ALLOC, /* put by sim_pool_put (cuda_pool.c) */
  SIM_WORK_FREE,
  SIM_WORK_EMPTY,
};

struct sim_launch {
  CUfunction function; /* of a module; sim_launch_function turns a CUkernel into one */
  CUkernel kernel;     /* what the user named, if a library's kernel; else NULL */
  unsigned grid[3], block[3], cluster[3], shared_bytes;
  bool cooperative;
  int priority;
  uint32_t sm_count;   /* of the green context it is launched in; 0: all of the card's */
  void *parameters;    /* packed at the offsets that function->parameters gives */
  size_t parameter_bytes;
};

struct sim_copy { /* the most general copy: others are special cases of it */
  CUDA_MEMCPY3D_PEER description; /* contexts may be NULL: the current one, or irrelevant */
  bool peer;                      /* the caller named the contexts */
  void *staging;                  /* pageable source copied at the call; freed by the put; not in graphs */
};

struct sim_memset {
  CUdeviceptr destination;
  size_t pitch, width, height; /* width in elements, pitch in bytes */
  unsigned value, element_bytes;
};

struct sim_host {
  CUhostFn function;           /* cuLaunchHostFunc */
  CUstreamCallback callback;   /* cuStreamAddCallback: exactly one of both is set */
  void *argument;
  CUstream stream;             /* the handle that the callback is given */
};

struct sim_memop {
  unsigned count, flags;
  CUstreamBatchMemOpParams *operations; /* owned by the work */
};

struct sim_pool_work {
  CUDA_MEM_ALLOC_NODE_PARAMS allocation; /* ALLOC in a graph: bytesize, poolProps, dptr */
  CUmemoryPool pool;                     /* ALLOC in a stream; NULL in a graph */
  CUdeviceptr address;                   /* FREE */
};

struct sim_work {
  enum sim_work_kind kind;
  CUcontext context; /* NULL: the stream's */
  union {
    struct sim_launch launch;
    struct sim_copy copy;
    struct sim_memset set;
    struct sim_host host;
    struct sim_memop memop;
    struct sim_pool_work pool;
    struct { CUevent event; unsigned flags; } event;
  };
};

/* Deep copy and its end: parameters and operation lists are the copy's own. */
CUresult sim_work_copy(const struct sim_work *from, struct sim_work *to);
void sim_work_clear(struct sim_work *work);
/* Checks what can be checked before it is queued: pointers, extents, function, grid. */
CUresult sim_work_check(const struct sim_work *work, CUcontext context);

/* ---- streams ---- */

struct CUstream_st {
  uint32_t magic;
  CUcontext context;
  CUcontext home; /* `context`, or the view of the green context that the stream belongs to */
  unsigned flags; /* CU_STREAM_NON_BLOCKING, or 0 */
  int priority;
  uint64_t id;
  bool per_thread, is_legacy;
  _Atomic int references;
  pthread_mutex_t lock;
  /* under `lock`: */
  _Atomic sg_channel channel; /* opened by the first work; 0 until then */
  _Atomic uint64_t puts;/* pieces of work so far */
  sg_fence marker;      /* made at first need: marker >= marker_value when work marker_puts is done */
  uint64_t marker_value, marker_puts;
  uint64_t legacy_seen; /* `puts` of the legacy stream that this one has been made to wait for */
  uint64_t seen_by_legacy; /* `puts` of this one that the legacy stream waits for; under the latter's lock */
  /* under the process lock: */
  struct sim_capture *capture; /* cuda_capture.c's; NULL while not capturing */
  CUaccessPolicyWindow access_window;
  CUsynchronizationPolicy sync_policy;
  bool dying;             /* destroyed by the user, still working */
  struct CUstream_st *next; /* of the context */
};

/* The handle that a null stream stands for in the plain and in the _ptsz/_ptds variant. */
static inline CUstream sim_null_legacy(CUstream stream) { return stream ? stream : CU_STREAM_LEGACY; }
static inline CUstream sim_null_thread(CUstream stream) { return stream ? stream : CU_STREAM_PER_THREAD; }

/* The stream that a handle names in the current context, retained; end with sim_stream_put_back. */
CUresult sim_stream_get(CUstream handle, CUstream *stream);
void sim_stream_put_back(CUstream stream);

/* Records into the stream's capture if there is one, otherwise submits. The usual way in. */
CUresult sim_enqueue(CUstream stream, const struct sim_work *work);
/* Submits, whatever the capture. */
CUresult sim_submit(CUstream stream, const struct sim_work *work);
/* The same in parts, for several pieces that belong together (a graph launch): begin takes the
 * stream's lock and makes it wait for what the default stream demands. */
CUresult sim_stream_begin(CUstream stream);
CUresult sim_stream_add(CUstream stream, const struct sim_work *work);
void sim_stream_end(CUstream stream);
/* Inside begin/end: a raw item, and an item for the worker thread. `run` is called in stream order,
 * not before `duration_ns` on `engine` have passed; `drop` (may be NULL) afterwards, or instead when
 * the context ends first. Neither may call the driver's exported functions. */
CUresult sim_stream_item(CUstream stream, const struct sg_item *item);
CUresult sim_stream_local(CUstream stream, enum sg_engine engine, uint64_t duration_ns, void (*run)(void *),
                          void (*drop)(void *), void *argument);
/* Inside begin/end: a fence value that is reached when everything put so far is done. */
CUresult sim_stream_mark(CUstream stream, sg_fence *fence, uint64_t *value);
CUresult sim_stream_wait(CUstream stream); /* until everything put so far is done */

/* A condition on a word of memory, for persistent kernels and cuStreamWaitValue. From sim_watch_arm
 * on the worker thread evaluates it after each effect and at short intervals, and signals `fence`
 * with 1 once it holds. The watch ends then, or with its context. */
struct sim_watch {
  const void *alias;    /* as sim_resolve gives it */
  unsigned bytes;       /* 4 or 8 */
  uint64_t value;
  CUstreamWaitValue_flags condition; /* GEQ, EQ, AND, NOR */
  CUcontext context;
};
/* Inside begin/end: arms a watch when the stream gets here, then stalls the stream (hold false) or
 * keeps the context busy like a persistent kernel (hold true) until the condition holds. `prepare`
 * (may be NULL) runs with `argument` just before arming. */
CUresult sim_stream_watch(CUstream stream, const struct sim_watch *watch, bool hold, void (*prepare)(void *),
                          void *argument);

/* ---- events ---- */

struct CUevent_st {
  uint32_t magic;
  CUcontext context;
  unsigned flags;
  _Atomic sg_fence fence;     /* made by the first record; 0 until then */
  _Atomic uint64_t value;     /* of the last record; 0: never recorded, which counts as complete */
  _Atomic uint64_t stream_id; /* of the last record */
  sg_fence recorded; /* interprocess events: counts the records of all processes; else 0 */
  struct sim_captured_event *captured; /* cuda_capture.c's: last recorded in a capturing stream */
  bool imported;
  struct sim_owned owned;
};

/* A new event in the current context (flags as cuEventCreate). */
CUresult sim_event_create(CUcontext context, unsigned flags, CUevent *event);
/* The fence value that stands for the event's last record; 0 when it counts as complete. */
CUresult sim_event_target(CUevent event, sg_fence *fence, uint64_t *value);

/* ---- modules and functions ---- */

#define SIM_MAX_PARAMETERS 512

enum sim_builtin { SIM_KERNEL_MODELLED, SIM_KERNEL_SPIN, SIM_KERNEL_HOLD, SIM_KERNEL_SET, SIM_KERNEL_BARRIER };

struct sim_parameter { uint32_t offset, bytes; };

struct CUfunc_st {
  uint32_t magic;
  CUmodule module;
  const char *name;
  enum sim_builtin builtin;
  unsigned parameter_count;
  const struct sim_parameter *parameters; /* in the packed buffer */
  size_t parameter_bytes;
  unsigned registers, shared_bytes, const_bytes, local_bytes, max_threads;
  int max_dynamic_shared, carveout; /* cuFuncSetAttribute */
  int cluster_must_be_set, cluster[3], nonportable_cluster, cluster_policy;
  CUfunc_cache cache_config;
  unsigned block_shape[3], dynamic_shared; /* cuFuncSetBlockShape, cuFuncSetSharedSize */
  unsigned char *legacy_parameters;        /* cuParamSet*; parameter_bytes of it once set */
};

struct sim_global { const char *name; struct sim_block *block; uint64_t bytes; };

struct CUmod_st {
  uint32_t magic;
  CUcontext context;
  CUlibrary library; /* that it belongs to, or NULL */
  struct sim_image *image;
  struct sim_block *code;
  unsigned function_count, global_count;
  struct CUfunc_st *functions;
  struct sim_global *globals;
  struct CUmod_st *next_of_library;
  struct sim_owned owned;
};

/* A CUfunction or CUkernel as a function of the current context (loading the library there). */
CUresult sim_launch_function(CUfunction handle, CUfunction *function, CUkernel *kernel);
/* Packs the user's kernelParams or extra (cuLaunchKernel) into launch->parameters (malloc). */
CUresult sim_launch_pack(struct sim_launch *launch, void **parameters, void **extra);

/* ---- what the other files provide (capture, pools, memory operations, procaddress) ---- */

/* cuda_capture.c: all return CUDA_SUCCESS when capture has nothing against it. */
CUresult sim_capture_add(CUstream stream, const struct sim_work *work); /* stream->capture is set */
/* EVENT_RECORD and EVENT_WAIT come here too; this one is for a stream that is not capturing and
 * waits for an event that was recorded in one that is: the stream joins that capture. */
CUresult sim_capture_join(CUstream stream, CUevent event);
/* cuMemAllocAsync in a capturing stream: an allocation node, whose address node->dptr gets. */
CUresult sim_capture_alloc(CUstream stream, CUDA_MEM_ALLOC_NODE_PARAMS *node);
CUresult sim_capture_refuse_sync(CUstream stream);  /* query or wait on a capturing stream: invalidates */
CUresult sim_capture_refuse_event(CUevent event);   /* the same for an event with `captured` set */
CUresult sim_capture_check_unsafe(void);            /* calls that a capture forbids (cuMemAlloc ...) */
/* Of a context or a view: its legacy stream is used while a blocking one of its streams captures, and
 * cuCtxSynchronize while any does. */
CUresult sim_capture_check_legacy(CUcontext home);
CUresult sim_capture_check_context(CUcontext home);
void sim_capture_forget_stream(CUstream stream);    /* it is being destroyed */
void sim_capture_forget_event(CUevent event);       /* destroyed, or recorded anew outside capture */

/* cuda_memop.c and cuda_pool.c, inside begin/end of the stream. */
CUresult sim_memop_put(CUstream stream, const struct sim_memop *memop);
CUresult sim_memop_check(const struct sim_memop *memop); /* addresses and flags */
CUresult sim_pool_put(CUstream stream, const struct sim_work *work);
/* cuda_pool.c: a context's end, after its channels are gone and before its owned objects die. */
void sim_pool_context_ends(CUcontext context);
/* cuMemFree on SIM_MEMORY_POOL, and cuMemFree on a mapping or import, which is INVALID_VALUE. */
CUresult sim_pool_free_now(struct sim_block *block);
/* To be called after every successful stream, event or context synchronisation, without locks held:
 * pools give back what they hold unused above their release threshold. */
void sim_pools_synchronized(void);

#endif
