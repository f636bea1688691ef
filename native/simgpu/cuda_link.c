/* cuda_link.c - the linker of the driver: puts images into one that loads as a module. Nothing is
 * resolved between them; a name that two of them define is an error, as for a real linker. */
#include "cuda_image.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"

struct CUlinkState_st {
  uint32_t magic;
  unsigned count;
  struct sim_image_part *parts; /* their data is malloc'ed */
  struct sim_jit_log log;
  void *output;
  size_t output_bytes;
};

static CUresult create(unsigned count, CUjit_option *options, void **values, CUlinkState *state) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!state || (count && (!options || !values)))
    return CUDA_ERROR_INVALID_VALUE;
  struct CUlinkState_st *fresh = calloc(1, sizeof *fresh);
  if (!fresh)
    return CUDA_ERROR_OUT_OF_MEMORY;
  fresh->magic = SIM_MAGIC_LINK;
  fresh->log = sim_jit_log(count, options, values);
  *state = fresh;
  return CUDA_SUCCESS;
}

CUresult cuLinkCreate(unsigned int numOptions, CUjit_option *options, void **optionValues, CUlinkState *stateOut) {
  return create(numOptions, options, optionValues, stateOut);
}
CUresult cuLinkCreate_v2(unsigned int numOptions, CUjit_option *options, void **optionValues, CUlinkState *stateOut) {
  return create(numOptions, options, optionValues, stateOut);
}

static CUresult check_state(CUlinkState state) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  return state && state->magic == SIM_MAGIC_LINK ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

/* Takes over `data`, of which a 0 follows the `size` bytes. */
static CUresult append(CUlinkState state, void *data, size_t size) {
  struct sim_image *image;
  struct sim_image_part *grown = realloc(state->parts, (state->count + 1) * sizeof *grown);
  if (!grown) {
    free(data);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  state->parts = grown;
  CUresult result = sim_image_read(data, size, -1, &image);
  if (result != CUDA_SUCCESS) {
    free(data);
    return result;
  }
  sim_image_release(image);
  state->parts[state->count++] = (struct sim_image_part){data, size};
  return CUDA_SUCCESS;
}

/* Host objects and archives would need a real linker. */
static bool linkable(CUjitInputType type) {
  return type == CU_JIT_INPUT_CUBIN || type == CU_JIT_INPUT_PTX || type == CU_JIT_INPUT_FATBINARY;
}

static CUresult add_data(CUlinkState state, CUjitInputType type, const void *data, size_t size) {
  CUresult result = check_state(state);
  if (result != CUDA_SUCCESS)
    return result;
  if (!data || !size || state->output)
    return CUDA_ERROR_INVALID_VALUE;
  if (!linkable(type))
    return CUDA_ERROR_NOT_SUPPORTED;
  char *copy = malloc(size + 1);
  if (!copy)
    return CUDA_ERROR_OUT_OF_MEMORY;
  memcpy(copy, data, size);
  copy[size] = 0;
  result = append(state, copy, size);
  sim_jit_report(&state->log, result);
  return result;
}

CUresult cuLinkAddData(CUlinkState state, CUjitInputType type, void *data, size_t size, const char *name,
                       unsigned int numOptions, CUjit_option *options, void **optionValues) {
  return cuLinkAddData_v2(state, type, data, size, name, numOptions, options, optionValues);
}
CUresult cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t size, const char *name,
                          unsigned int numOptions, CUjit_option *options, void **optionValues) {
  (void)name;
  if (numOptions && (!options || !optionValues))
    return CUDA_ERROR_INVALID_VALUE;
  return add_data(state, type, data, size);
}

CUresult cuLinkAddFile(CUlinkState state, CUjitInputType type, const char *path, unsigned int numOptions,
                       CUjit_option *options, void **optionValues) {
  return cuLinkAddFile_v2(state, type, path, numOptions, options, optionValues);
}
CUresult cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char *path, unsigned int numOptions,
                          CUjit_option *options, void **optionValues) {
  void *data;
  size_t size;
  if (!path || (numOptions && (!options || !optionValues)))
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_image_file(path, &data, &size);
  if (result != CUDA_SUCCESS)
    return result;
  result = add_data(state, type, data, size);
  free(data);
  return result;
}

static bool defined_twice(const struct sim_image *image) {
  for (unsigned i = 0; i < image->function_count; i++)
    for (unsigned other = 0; other < i; other++)
      if (!strcmp(image->functions[i].name, image->functions[other].name))
        return true;
  return false;
}

static CUresult complete(CUlinkState state) {
  struct sim_image *image;
  if (!state->count)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_image_join(state->parts, state->count, &state->output, &state->output_bytes);
  if (result == CUDA_SUCCESS)
    result = sim_image_read(state->output, state->output_bytes, -1, &image);
  if (result != CUDA_SUCCESS)
    return result;
  if (defined_twice(image))
    result = CUDA_ERROR_INVALID_PTX; /* what the driver's linker answers to multiple definitions */
  sim_image_release(image);
  return result;
}

CUresult cuLinkComplete(CUlinkState state, void **cubinOut, size_t *sizeOut) {
  CUresult result = check_state(state);
  if (result != CUDA_SUCCESS)
    return result;
  if (!cubinOut || state->output)
    return CUDA_ERROR_INVALID_VALUE;
  result = complete(state);
  sim_jit_report(&state->log, result);
  if (result != CUDA_SUCCESS)
    return result;
  *cubinOut = state->output;
  if (sizeOut)
    *sizeOut = state->output_bytes;
  return CUDA_SUCCESS;
}

CUresult cuLinkDestroy(CUlinkState state) {
  CUresult result = check_state(state);
  if (result != CUDA_SUCCESS)
    return result;
  state->magic = 0;
  for (unsigned i = 0; i < state->count; i++)
    free((void *)(uintptr_t)state->parts[i].data);
  free(state->parts);
  free(state->output);
  free(state);
  return CUDA_SUCCESS;
}
