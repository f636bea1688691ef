// sources: simgpu/cuda_image.c simgpu/cuda_image_elf.c simgpu/cuda_image_ptx.c
/* Images of device code, as the simulated driver reads them and as the shim estimates their size. */
#include <stdio.h>
#include <sys/mman.h>

#include "cuda_image.h"
#include "reading.h"

/* ---- the card that the images are for ---- */

static const struct sg_card_info card = {.cc_major = 8, .cc_minor = 6};
const struct sg_card_info *sg_card(int index) { return index ? NULL : &card; }
int sim_cuda_version(void) { return 13000; }

/* ---- the shim's reader, which is private to its file ---- */

#include "../shim/hooks_module.c" // NOLINT: see above

_Atomic(const struct cg_driver *) cg_driver_table;
const struct cg_driver *cg_driver_fill(void) { return NULL; }
const struct cg_region *cg_region(void) { return NULL; }
int cg_gpu_current(void) { return -1; }
enum cg_verdict cg_reserve_estimate(int gpu, uint64_t bytes) { return (void)gpu, (void)bytes, CG_PASS; }
void cg_return_estimate(int gpu, uint64_t bytes) { (void)gpu, (void)bytes; }
bool cg_block_add(const struct cg_block *block) { return !block; }
bool cg_block_take(enum cg_kind kind, uint64_t key, struct cg_block *removed) { return (void)kind, (void)key, !removed; }
void cg_block_return(const struct cg_block *block) { (void)block; }

/* ---- */

/* What callers do with an image: look at all of it. */
static void use(const struct sim_image *image) {
  uint64_t sum = 0;
  for (unsigned i = 0; i < image->function_count; i++) {
    const struct sim_image_function *function = &image->functions[i];
    sum += strlen(function->name) + function->max_threads;
    HOLDS(function->parameter_count <= SIM_MAX_PARAMETERS);
    for (unsigned k = 0; k < function->parameter_count; k++) {
      const struct sim_parameter *parameter = &function->parameters[k];
      HOLDS((uint64_t)parameter->offset + parameter->bytes <= function->parameter_bytes);
    }
  }
  for (unsigned i = 0; i < image->global_count; i++) {
    const struct sim_image_global *global = &image->globals[i];
    sum += strlen(global->name);
    for (uint64_t k = 0; global->initial && k < global->bytes && k < 1u << 20; k++) sum += global->initial[k];
  }
  HOLDS(sum + 1); /* so that it is not left out */
}

static CUresult read_image(const void *data, size_t size, int for_card) {
  struct sim_image *image;
  CUresult result = sim_image_read(data, size, for_card, &image);
  if (result == CUDA_SUCCESS) {
    use(image);
    sim_image_release(image);
  }
  return result;
}

/* Wrappers point, so they are none of the inputs. This one points to itself. */
static void wrap_a_wrapper(void) {
  struct fat_wrapper itself = {.version = 1, .data = &itself};
  memcpy(&itself.magic, WRAPPER_MAGIC, sizeof itself.magic);
  HOLDS(image_bytes((const char *)&itself) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static int file = -1;
  char path[32];
  if (file < 0) {
    file = memfd_create("image", MFD_CLOEXEC);
    wrap_a_wrapper();
  }
  CUresult alone = read_image(data, size, -1);
  read_image(data, size, 0);
  const struct sim_image_part parts[] = {{data, size}, {data, size}};
  void *joined;
  size_t joined_bytes;
  if (sim_image_join(parts, 2, &joined, &joined_bytes) == CUDA_SUCCESS) {
    CUresult twice = read_image(joined, joined_bytes, -1);
    HOLDS(alone == CUDA_SUCCESS || twice != CUDA_SUCCESS);
    free(joined);
  }
  if (ftruncate(file, (off_t)size) || pwrite(file, data, size, 0) != (ssize_t)size) abort();
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  HOLDS(file_bytes(path) || !size || size >= sizeof(Elf64_Ehdr));
  return 0;
}
