/* cuda_launch.c - kernels: what a launch takes, and the few kernels that do something.
 *
 * A kernel occupies the card for sg_kernel_ns (card.h): waves of blocks over the SMs. It has no
 * effect on memory, whatever its code says. The exceptions are built-in test kernels. They exist in
 * test modules (cuda_image.c) under these names, and in PTX or cubins with "cgpu_" before the name and the
 * same parameters, so that the same client runs on a real card with real code:
 *
 *   spin(u64 ns)                takes exactly ns of the card's time
 *   set(u32 *word, u32 value)   takes its modelled time, then *word = value
 *   hold(u32 *word, u32 value)  a persistent kernel: runs until *word == value
 *   barrier(u32 *count, u32 n)  a collective: adds 1 to *count when it starts, runs until *count >= n
 *
 * An address that a built-in kernel cannot reach ends the context with ILLEGAL_ADDRESS.
 */
#include "cuda_internal.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"

/* ---- parameters ---- */

static CUresult pack_extra(struct sim_launch *launch, void **extra) {
  const void *buffer = NULL;
  size_t bytes = 0;
  for (; *extra != CU_LAUNCH_PARAM_END; extra += 2) {
    if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER)
      buffer = extra[1];
    else if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE)
      bytes = *(const size_t *)extra[1];
    else
      return CUDA_ERROR_INVALID_VALUE;
  }
  if (bytes > launch->parameter_bytes || (bytes && !buffer))
    return CUDA_ERROR_INVALID_VALUE;
  if (bytes)
    memcpy(launch->parameters, buffer, bytes);
  return CUDA_SUCCESS;
}

static CUresult pack_pointers(struct sim_launch *launch, void **parameters) {
  CUfunction function = launch->function;
  for (unsigned i = 0; i < function->parameter_count; i++) {
    if (!parameters[i])
      return CUDA_ERROR_INVALID_VALUE;
    memcpy((char *)launch->parameters + function->parameters[i].offset, parameters[i], function->parameters[i].bytes);
  }
  return CUDA_SUCCESS;
}

CUresult sim_launch_pack(struct sim_launch *launch, void **parameters, void **extra) {
  launch->parameter_bytes = launch->function->parameter_bytes;
  launch->parameters = NULL;
  if (parameters && extra)
    return CUDA_ERROR_INVALID_VALUE;
  if (launch->parameter_bytes == 0)
    return CUDA_SUCCESS;
  if (!parameters && !extra)
    return CUDA_ERROR_INVALID_VALUE;
  launch->parameters = calloc(1, launch->parameter_bytes);
  if (!launch->parameters)
    return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = extra ? pack_extra(launch, extra) : pack_pointers(launch, parameters);
  if (result != CUDA_SUCCESS) {
    free(launch->parameters);
    launch->parameters = NULL;
  }
  return result;
}

CUresult sim_launch_function(CUfunction handle, CUfunction *function, CUkernel *kernel) {
  const uint32_t *magic = (const uint32_t *)(const void *)handle;
  CUcontext context;
  if (!handle)
    return CUDA_ERROR_INVALID_HANDLE;
  *kernel = NULL;
  *function = handle;
  if (*magic == SIM_MAGIC_FUNCTION)
    return CUDA_SUCCESS;
  if (*magic != SIM_MAGIC_KERNEL)
    return CUDA_ERROR_INVALID_HANDLE;
  *kernel = (CUkernel)(void *)handle;
  CUresult result = sim_current(&context);
  return result == CUDA_SUCCESS ? sim_kernel_function(*kernel, context, function) : result;
}

/* ---- what a card takes ---- */

static bool sound_shape(const struct sim_launch *launch) {
  const unsigned *grid = launch->grid, *block = launch->block;
  if (!grid[0] || !grid[1] || !grid[2] || !block[0] || !block[1] || !block[2])
    return false;
  if (grid[0] > 0x7fffffff || grid[1] > 65535 || grid[2] > 65535)
    return false;
  return block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 && (uint64_t)block[0] * block[1] * block[2] <= 1024;
}

/* A block needs its registers and shared memory at once on one SM. */
static CUresult check_resources(const struct sim_launch *launch) {
  CUfunction function = launch->function;
  unsigned threads = launch->block[0] * launch->block[1] * launch->block[2];
  if (threads > function->max_threads || (uint64_t)threads * function->registers > 65536)
    return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  return launch->shared_bytes > (unsigned)function->max_dynamic_shared ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

/* All blocks of a cooperative launch must be resident. */
static bool all_resident(const struct sim_launch *launch, const struct sg_card_info *info) {
  uint64_t processors = launch->sm_count ? launch->sm_count : info->sm_count;
  uint64_t threads = (uint64_t)launch->block[0] * launch->block[1] * launch->block[2];
  uint64_t blocks = (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2];
  return blocks <= processors * (info->max_threads_per_sm / threads);
}

static CUresult check_cluster(const struct sim_launch *launch, const struct sg_card_info *info) {
  const unsigned *cluster = launch->cluster;
  if (cluster[0] * cluster[1] * cluster[2] <= 1)
    return CUDA_SUCCESS;
  if (info->cc_major < 9 || (uint64_t)cluster[0] * cluster[1] * cluster[2] > 16)
    return CUDA_ERROR_INVALID_CLUSTER_SIZE;
  for (int i = 0; i < 3; i++)
    if (cluster[i] == 0 || launch->grid[i] % cluster[i])
      return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

CUresult sim_launch_check(const struct sim_launch *launch, CUcontext context) {
  const struct sg_card_info *info = sg_card(context->card);
  if (!launch->function || launch->function->magic != SIM_MAGIC_FUNCTION ||
      launch->function->module->context != context->base)
    return CUDA_ERROR_INVALID_HANDLE;
  if (!sound_shape(launch))
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = check_resources(launch);
  if (result == CUDA_SUCCESS)
    result = check_cluster(launch, info);
  if (result == CUDA_SUCCESS && launch->cooperative && !all_resident(launch, info))
    result = CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
  return result;
}

/* ---- into a stream ---- */

static CUresult put_kernel(CUstream stream, uint64_t duration_ns) {
  const struct sg_item kernel = {.op = SG_OP_KERNEL, .engine = SG_ENGINE_COMPUTE, .duration_ns = duration_ns};
  return sim_stream_item(stream, &kernel);
}

struct word_arguments {
  CUdeviceptr address;
  uint32_t value;
};

struct store {
  uint32_t *word, value;
};

static void run_store(void *argument) {
  const struct store *store = argument;
  __atomic_store_n(store->word, store->value, __ATOMIC_RELEASE);
}

static CUresult put_set(CUstream stream, uint32_t *word, uint32_t value, uint64_t duration_ns) {
  struct store *store = malloc(sizeof *store);
  if (!store)
    return CUDA_ERROR_OUT_OF_MEMORY;
  *store = (struct store){word, value};
  CUresult result = put_kernel(stream, duration_ns);
  if (result == CUDA_SUCCESS)
    result = sim_stream_local(stream, SG_ENGINE_NONE, 0, run_store, free, store);
  if (result != CUDA_SUCCESS)
    free(store);
  return result;
}

static void arrive(void *word) { __atomic_fetch_add((uint32_t *)word, 1, __ATOMIC_ACQ_REL); }

/* The kernels that name a word of memory. */
static CUresult put_word_kernel(CUstream stream, const struct sim_launch *launch, uint64_t duration_ns) {
  struct word_arguments arguments;
  void *alias;
  bool pageable = false;
  memcpy(&arguments.address, launch->parameters, sizeof arguments.address);
  memcpy(&arguments.value, (const char *)launch->parameters + sizeof arguments.address, sizeof arguments.value);
  if (arguments.address % sizeof(uint32_t) ||
      sim_resolve(arguments.address, sizeof(uint32_t), true, &alias, &pageable) != CUDA_SUCCESS || pageable) {
    int sound = CUDA_SUCCESS;
    atomic_compare_exchange_strong(&stream->context->sticky, &sound, CUDA_ERROR_ILLEGAL_ADDRESS);
    return CUDA_SUCCESS; /* as a real launch: what goes wrong on the card is told later */
  }
  bool barrier = launch->function->builtin == SIM_KERNEL_BARRIER;
  const struct sim_watch watch = {.alias = alias, .bytes = 4, .value = arguments.value, .context = stream->context,
                                  .condition = barrier ? CU_STREAM_WAIT_VALUE_GEQ : CU_STREAM_WAIT_VALUE_EQ};
  if (launch->function->builtin == SIM_KERNEL_SET)
    return put_set(stream, alias, arguments.value, duration_ns);
  return sim_stream_watch(stream, &watch, true, barrier ? arrive : NULL, alias);
}

CUresult sim_launch_put(CUstream stream, const struct sim_launch *launch) {
  struct sg_card_info info = *sg_card(stream->context->card);
  if (launch->sm_count)
    info.sm_count = launch->sm_count;
  uint64_t duration_ns = sg_kernel_ns(&info, launch->grid, launch->block);
  switch (launch->function->builtin) {
  case SIM_KERNEL_MODELLED:
    return put_kernel(stream, duration_ns);
  case SIM_KERNEL_SPIN:
    memcpy(&duration_ns, launch->parameters, sizeof duration_ns);
    return put_kernel(stream, duration_ns);
  default:
    return put_word_kernel(stream, launch, duration_ns);
  }
}
