/* cuda_function.c - attributes of functions, and the deprecated ways to set them up. */
#include "cuda_image.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"

static CUresult check_function(CUfunction handle, CUfunction *function) {
  CUkernel kernel;
  CUresult result = sim_ready();
  return result == CUDA_SUCCESS ? sim_launch_function(handle, function, &kernel) : result;
}

/* ---- attributes ---- */

/* Counts that are never negative otherwise; -1: not one of them. */
static int fixed_attribute(CUfunction_attribute attribute, CUfunction function) {
  const struct sg_card_info *info = sg_card(function->module->context->card);
  unsigned binary_version = function->module->image->binary_version;
  switch (attribute) {
  case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    return (int)function->max_threads;
  case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
    return (int)function->shared_bytes;
  case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
    return (int)function->const_bytes;
  case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
    return (int)function->local_bytes;
  case CU_FUNC_ATTRIBUTE_NUM_REGS:
    return (int)function->registers;
  case CU_FUNC_ATTRIBUTE_PTX_VERSION: /* both are architectures: PTX is compiled for the card's own */
  case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
    return (int)(binary_version ? binary_version : info->cc_major * 10 + info->cc_minor);
  case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
    return 0;
  default:
    return -1;
  }
}

/* The attributes that cuFuncSetAttribute changes, in place; NULL for others. */
static int *variable_attribute(CUfunction_attribute attribute, CUfunction function) {
  switch (attribute) {
  case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
    return &function->max_dynamic_shared;
  case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    return &function->carveout;
  case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
  case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
  case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
    return &function->cluster[attribute - CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH];
  case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
    return &function->nonportable_cluster;
  case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    return &function->cluster_policy;
  default:
    return NULL;
  }
}

CUresult sim_function_get(int *value, CUfunction_attribute attribute, CUfunction function) {
  const int *variable = variable_attribute(attribute, function);
  if (attribute == CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET)
    *value = function->cluster_must_be_set;
  else
    *value = variable ? *variable : fixed_attribute(attribute, function);
  return variable || *value >= 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static bool in_range(CUfunction_attribute attribute, int value, CUfunction function) {
  int most;
  switch (attribute) {
  case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
    return cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                                function->module->context->device) == CUDA_SUCCESS &&
           value >= 0 && value <= most - (int)function->shared_bytes;
  case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    return value >= -1 && value <= 100;
  default:
    return value >= 0;
  }
}

CUresult sim_function_set(CUfunction_attribute attribute, int value, CUfunction function) {
  int *variable = variable_attribute(attribute, function);
  if (!variable || !in_range(attribute, value, function))
    return CUDA_ERROR_INVALID_VALUE;
  *variable = value;
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc) {
  CUfunction function;
  CUresult result = check_function(hfunc, &function);
  if (result != CUDA_SUCCESS)
    return result;
  return pi ? sim_function_get(pi, attrib, function) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value) {
  CUfunction function;
  CUresult result = check_function(hfunc, &function);
  return result == CUDA_SUCCESS ? sim_function_set(attrib, value, function) : result;
}

CUresult cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config) {
  CUfunction function;
  CUresult result = check_function(hfunc, &function);
  if (result == CUDA_SUCCESS && (unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    function->cache_config = config;
  return result;
}

CUresult cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig config) {
  CUfunction function;
  CUresult result = check_function(hfunc, &function);
  if (result == CUDA_SUCCESS && (unsigned)config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE)
    result = CUDA_ERROR_INVALID_VALUE; /* banks cannot be configured since compute capability 5 */
  return result;
}

/* ---- identity ---- */

CUresult cuFuncGetModule(CUmodule *hmod, CUfunction hfunc) {
  CUfunction function;
  CUresult result = check_function(hfunc, &function);
  if (result == CUDA_SUCCESS && !hmod)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *hmod = function->module;
  return result;
}

CUresult cuFuncGetName(const char **name, CUfunction hfunc) {
  CUfunction function;
  CUresult result = check_function(hfunc, &function);
  if (result == CUDA_SUCCESS && !name)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *name = function->name;
  return result;
}

CUresult sim_function_parameter(CUfunction function, size_t index, size_t *offset, size_t *bytes) {
  if (!offset || index >= function->parameter_count)
    return CUDA_ERROR_INVALID_VALUE;
  *offset = function->parameters[index].offset;
  if (bytes)
    *bytes = function->parameters[index].bytes;
  return CUDA_SUCCESS;
}

CUresult cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t *paramOffset, size_t *paramSize) {
  CUfunction function;
  CUresult result = check_function(func, &function);
  return result == CUDA_SUCCESS ? sim_function_parameter(function, paramIndex, paramOffset, paramSize) : result;
}

CUresult cuFuncGetParamCount(CUfunction func, size_t *paramCount) {
  CUfunction function;
  CUresult result = check_function(func, &function);
  if (result == CUDA_SUCCESS && !paramCount)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *paramCount = function->parameter_count;
  return result;
}

CUresult cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function) {
  CUfunction found;
  CUresult result = check_function(function, &found);
  if (result == CUDA_SUCCESS && !state)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *state = CU_FUNCTION_LOADING_STATE_LOADED;
  return result;
}

CUresult cuFuncLoad(CUfunction function) {
  CUfunction found;
  return check_function(function, &found);
}

/* ---- launch state kept in the function (deprecated since CUDA 4.0) ---- */

CUresult cuFuncSetBlockShape(CUfunction hfunc, int x, int y, int z) {
  CUfunction function;
  CUresult result = check_function(hfunc, &function);
  if (result == CUDA_SUCCESS && (x < 1 || y < 1 || z < 1))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS) {
    function->block_shape[0] = (unsigned)x;
    function->block_shape[1] = (unsigned)y;
    function->block_shape[2] = (unsigned)z;
  }
  return result;
}

CUresult cuFuncSetSharedSize(CUfunction hfunc, unsigned int bytes) {
  CUfunction function;
  CUresult result = check_function(hfunc, &function);
  if (result == CUDA_SUCCESS)
    function->dynamic_shared = bytes;
  return result;
}

static CUresult set_parameter(CUfunction handle, int offset, const void *value, size_t bytes) {
  CUfunction function;
  CUresult result = check_function(handle, &function);
  if (result != CUDA_SUCCESS)
    return result;
  if (offset < 0 || !value || (size_t)offset + bytes > function->parameter_bytes)
    return CUDA_ERROR_INVALID_VALUE;
  if (!function->legacy_parameters)
    function->legacy_parameters = calloc(1, function->parameter_bytes);
  if (!function->legacy_parameters)
    return CUDA_ERROR_OUT_OF_MEMORY;
  memcpy(function->legacy_parameters + offset, value, bytes);
  return CUDA_SUCCESS;
}

CUresult cuParamSeti(CUfunction hfunc, int offset, unsigned int value) {
  return set_parameter(hfunc, offset, &value, sizeof value);
}
CUresult cuParamSetf(CUfunction hfunc, int offset, float value) {
  return set_parameter(hfunc, offset, &value, sizeof value);
}
CUresult cuParamSetv(CUfunction hfunc, int offset, void *ptr, unsigned int numbytes) {
  return set_parameter(hfunc, offset, ptr, numbytes);
}

CUresult cuParamSetSize(CUfunction hfunc, unsigned int numbytes) {
  CUfunction function;
  CUresult result = check_function(hfunc, &function);
  if (result == CUDA_SUCCESS && numbytes > function->parameter_bytes)
    result = CUDA_ERROR_INVALID_VALUE;
  return result;
}
