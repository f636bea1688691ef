/* cuda_process.h - seams between the files of the driver base that no other part needs. */
#ifndef CGPU_SIM_CUDA_PROCESS_H
#define CGPU_SIM_CUDA_PROCESS_H

#include "cuda_internal.h"

/* cuda_init.c */
bool sim_forked(void);
int sim_device_count(void);
void sim_uuid_text(const uint8_t *uuid, char text[41]); /* "GPU-8-4-4-4-12" */

/* cuda_error.c: asks the card whether a fault has killed the context; the sticky error if so. */
CUresult sim_context_probe(CUcontext context);

/* cuda_address.c */
CUresult sim_address_space_open(void); /* once, in cuInit */
/* As sim_segment_create, with an address below 4 GiB. */
CUresult sim_segment_create_low(int card, uint64_t bytes, sg_phys *object, uint64_t *address);
/* As sim_segment_create, exempt from r615 limits and visible to the host. */
CUresult sim_segment_create_managed(int card, uint64_t bytes, sg_phys *object, uint64_t *address);
/* A part of a slab of the context, opening a new one when none has room; and its end. */
CUresult sim_slab_take(CUcontext context, uint64_t bytes, struct sim_slab **slab, uint64_t *address);
void sim_slab_give(struct sim_slab *slab, uint64_t address, uint64_t bytes);
sg_phys sim_slab_object(const struct sim_slab *slab, uint64_t address, uint64_t *offset);

/* cuda_context.c */
CUresult sim_context_new(CUdevice device, unsigned flags, unsigned api_version, bool primary, CUcontext *context);
CUresult sim_context_end(CUcontext context);
/* Makes a context or a view valid, takes it off again (false: it was not valid), and remembers it as one
 * that was. Whoever takes it off must bury it. */
void sim_context_enlist(CUcontext context);
bool sim_context_delist(CUcontext context);
void sim_context_bury(CUcontext context);
/* The view of a green context, living or ended; NULL when there never was one. */
CUcontext sim_context_view(CUgreenCtx green);

/* cuda_memory.c */
CUresult sim_allocating_call(CUcontext *context); /* current context, capture rules, slowness on demand */
uint64_t sim_usable_bytes(int card);
/* `destroy` of a block that dies with its context. */
void sim_memory_owned_destroy(struct sim_owned *owned);

/* cuda_thread.c: what belongs to one thread. */
struct sim_thread_stream {
  CUcontext context;
  CUstream stream;
  struct sim_thread_stream *next;
};
struct sim_thread {
  CUcontext *stack;
  unsigned depth, capacity;
  struct sim_thread_stream *streams; /* per-thread default streams, one per context */
};
struct sim_thread *sim_thread(void); /* NULL only for want of host memory */
bool sim_in_callback(void);
void sim_set_in_callback(bool inside);

/* cuda_stream.c */
#define SIM_HIGHEST_PRIORITY (-5) /* the least is 0 */
/* `home` is a context or a view here: a view stands for its own streams, a context for all of them,
 * those of its green contexts too. */
CUresult sim_stream_new(CUcontext home, unsigned flags, int priority, CUstream *stream);
void sim_stream_destroy(CUstream stream); /* deferred until its work is done */
CUresult sim_streams_wait(CUcontext home);
/* Makes `stream` wait for what is in the streams now; all streams wait for a fence. */
CUresult sim_streams_join(CUcontext home, CUstream stream);
CUresult sim_streams_hold(CUcontext home, sg_fence fence, uint64_t value);
void sim_streams_end(CUcontext context); /* after the context's channels are gone */

/* cuda_stream_api.c: as cuStreamCreateWithPriority in `home`. */
CUresult sim_stream_create(CUcontext home, unsigned flags, int priority, CUstream *stream);

/* cuda_event.c: as cuCtxRecordEvent and cuCtxWaitEvent. */
CUresult sim_home_record(CUcontext home, CUevent event);
CUresult sim_home_wait(CUcontext home, CUevent event);
/* Inside begin/end of the stream */
CUresult sim_event_put_record(CUstream stream, CUevent event);
CUresult sim_event_put_wait(CUstream stream, CUevent event);

/* cuda_copy.c, inside begin/end of the stream; checks without queueing anything */
CUresult sim_copy_put(CUstream stream, const struct sim_copy *copy);
CUresult sim_copy_check(const struct sim_copy *copy);
/* Which ends are host memory, and whether any is pageable (unknown to the driver). */
struct sim_copy_hosts {
  bool source, destination, source_pageable, destination_pageable;
  uint64_t bytes;
};
CUresult sim_copy_hosts(const struct sim_copy *copy, struct sim_copy_hosts *hosts);
CUresult sim_memset_put(CUstream stream, const struct sim_memset *set);
CUresult sim_memset_check(const struct sim_memset *set);

/* cuda_memcpy.c: checks, captures or submits, and waits as the kind of call and of memory demand. */
CUresult sim_copy_call(CUstream handle, const struct sim_copy *copy, bool synchronous);

/* cuda_launch.c, the same */
CUresult sim_launch_put(CUstream stream, const struct sim_launch *launch);
CUresult sim_launch_check(const struct sim_launch *launch, CUcontext context);

/* cuda_module.c */
struct sim_jit_log { /* where cuModuleLoadDataEx and cuLink* report in words */
  char *info, *error;
  size_t info_bytes, error_bytes;
  void **info_bytes_out, **error_bytes_out, **wall_time_out;
};
struct sim_jit_log sim_jit_log(unsigned count, const CUjit_option *options, void **values);
void sim_jit_report(const struct sim_jit_log *log, CUresult result);
/* A module of the context; `size` as for sim_image_read. */
CUresult sim_module_load(CUcontext context, const void *data, size_t size, CUlibrary library, CUmodule *module);
void sim_module_unload(CUmodule module); /* if the context's end has not done so already */
CUfunction sim_module_function(CUmodule module, const char *name);
struct sim_global *sim_module_global(CUmodule module, const char *name);

/* cuda_function.c: attributes that functions and kernels share */
CUresult sim_function_get(int *value, CUfunction_attribute attribute, CUfunction function);
CUresult sim_function_set(CUfunction_attribute attribute, int value, CUfunction function);
CUresult sim_function_parameter(CUfunction function, size_t index, size_t *offset, size_t *bytes);

/* cuda_library.c: a kernel in a context; a module's end takes it off its library */
CUresult sim_kernel_function(CUkernel kernel, CUcontext context, CUfunction *function);
void sim_library_forget(CUmodule module);

/* cuda_worker.c: effects in stream order, on threads of the driver. */
/* Queues an item, under the stream's lock (see sim_stream_local). `may_block`: it runs user code,
 * which gets a thread of its own, so that copies go on while it waits. */
CUresult sim_worker_queue(CUstream stream, enum sg_engine engine, uint64_t duration_ns, bool may_block,
                          void (*run)(void *), void (*drop)(void *), void *argument);
/* After the context's channels are gone: waits until none of its items is running, drops the rest. */
void sim_worker_forget_context(CUcontext context);

#endif
