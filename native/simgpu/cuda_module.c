/* cuda_module.c - modules: an image in a context. Code and globals take device memory for as long as
 * the module is loaded; all of it is loaded at once (CUDA_MODULE_LOADING=EAGER). */
#include "cuda_image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"

/* ---- life ---- */

static void free_module(CUmodule module) {
  module->magic = 0;
  for (unsigned i = 0; i < module->function_count; i++) {
    module->functions[i].magic = 0;
    free(module->functions[i].legacy_parameters);
  }
  for (unsigned i = 0; i < module->global_count; i++)
    sim_memory_free(module->globals[i].block);
  if (module->code)
    sim_memory_free(module->code);
  free(module->functions);
  free(module->globals);
  sim_image_release(module->image);
  free(module);
}

static void destroy_module(struct sim_owned *owned) {
  CUmodule module = SIM_CONTAINER_OF(owned, struct CUmod_st, owned);
  if (module->library)
    sim_library_forget(module);
  free_module(module);
}

static CUresult make_functions(CUmodule module) {
  const struct sim_image *image = module->image;
  module->functions = calloc(image->function_count + 1, sizeof *module->functions);
  if (!module->functions)
    return CUDA_ERROR_OUT_OF_MEMORY;
  for (unsigned i = 0; i < image->function_count; i++) {
    const struct sim_image_function *from = &image->functions[i];
    unsigned static_shared = from->shared_bytes;
    module->functions[i] = (struct CUfunc_st){
        .magic = SIM_MAGIC_FUNCTION, .module = module, .name = from->name, .builtin = from->builtin,
        .parameter_count = from->parameter_count, .parameters = from->parameters,
        .parameter_bytes = from->parameter_bytes, .registers = from->registers ? from->registers : 16,
        .shared_bytes = static_shared, .const_bytes = from->const_bytes, .local_bytes = from->local_bytes,
        .max_threads = from->max_threads, .carveout = -1, .block_shape = {1, 1, 1},
        .max_dynamic_shared = static_shared < (48u << 10) ? (int)((48u << 10) - static_shared) : 0,
    };
  }
  module->function_count = image->function_count;
  return CUDA_SUCCESS;
}

static CUresult make_globals(CUmodule module) {
  const struct sim_image *image = module->image;
  module->globals = calloc(image->global_count + 1, sizeof *module->globals);
  if (!module->globals)
    return CUDA_ERROR_OUT_OF_MEMORY;
  for (unsigned i = 0; i < image->global_count; i++) {
    const struct sim_image_global *from = &image->globals[i];
    struct sim_global *to = &module->globals[i];
    CUresult result = sim_memory_alloc(module->context, from->bytes, SIM_MEMORY_GLOBAL, &to->block);
    if (result != CUDA_SUCCESS)
      return result;
    to->name = from->name;
    to->bytes = from->bytes;
    module->global_count++;
    void *place = sim_shadow(to->block->address);
    if (from->initial)
      memcpy(place, from->initial, from->bytes);
    else
      memset(place, 0, from->bytes);
  }
  return CUDA_SUCCESS;
}

CUresult sim_module_load(CUcontext context, const void *data, size_t size, CUlibrary library, CUmodule *module) {
  struct CUmod_st *fresh = calloc(1, sizeof *fresh);
  if (!fresh)
    return CUDA_ERROR_OUT_OF_MEMORY;
  fresh->magic = SIM_MAGIC_MODULE;
  fresh->context = context;
  fresh->library = library;
  CUresult result = sim_image_read(data, size, context->card, &fresh->image);
  if (result != CUDA_SUCCESS) {
    free(fresh);
    return result;
  }
  if (fresh->image->code_bytes)
    result = sim_memory_alloc(context, fresh->image->code_bytes, SIM_MEMORY_GLOBAL, &fresh->code);
  if (result == CUDA_SUCCESS)
    result = make_functions(fresh);
  if (result == CUDA_SUCCESS)
    result = make_globals(fresh);
  if (result != CUDA_SUCCESS) {
    free_module(fresh);
    return result;
  }
  sim_own(context, &fresh->owned, destroy_module);
  *module = fresh;
  return CUDA_SUCCESS;
}

void sim_module_unload(CUmodule module) {
  if (sim_disown(&module->owned))
    free_module(module);
}

/* ---- loading calls ---- */

static CUresult load(CUmodule *module, const void *data, size_t size) {
  CUcontext context;
  CUresult result = sim_allocating_call(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (!module || !data)
    return CUDA_ERROR_INVALID_VALUE;
  return sim_module_load(context, data, size, NULL, module);
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) { return load(module, image, SIZE_MAX); }
CUresult cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin) { return load(module, fatCubin, SIZE_MAX); }

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions, CUjit_option *options,
                            void **optionValues) {
  if (numOptions && (!options || !optionValues))
    return CUDA_ERROR_INVALID_VALUE;
  const struct sim_jit_log log = sim_jit_log(numOptions, options, optionValues);
  CUresult result = load(module, image, SIZE_MAX);
  sim_jit_report(&log, result);
  return result;
}

CUresult cuModuleLoad(CUmodule *module, const char *fname) {
  void *data;
  size_t size;
  CUresult result = sim_ready();
  if (result == CUDA_SUCCESS)
    result = fname ? sim_image_file(fname, &data, &size) : CUDA_ERROR_INVALID_VALUE;
  if (result != CUDA_SUCCESS)
    return result;
  result = load(module, data, size);
  free(data);
  return result;
}

static CUresult check_module(CUmodule module) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  return module && module->magic == SIM_MAGIC_MODULE ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuModuleUnload(CUmodule hmod) {
  CUresult result = check_module(hmod);
  if (result == CUDA_SUCCESS && hmod->library)
    result = CUDA_ERROR_NOT_PERMITTED; /* it ends with its library */
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_context_wait(hmod->context);
  sim_module_unload(hmod);
  return result;
}

/* ---- contents ---- */

CUfunction sim_module_function(CUmodule module, const char *name) {
  for (unsigned i = 0; i < module->function_count; i++)
    if (!strcmp(module->functions[i].name, name))
      return &module->functions[i];
  return NULL;
}

struct sim_global *sim_module_global(CUmodule module, const char *name) {
  for (unsigned i = 0; i < module->global_count; i++)
    if (!strcmp(module->globals[i].name, name))
      return &module->globals[i];
  return NULL;
}

CUresult cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name) {
  CUresult result = check_module(hmod);
  if (result != CUDA_SUCCESS)
    return result;
  if (!hfunc || !name)
    return CUDA_ERROR_INVALID_VALUE;
  *hfunc = sim_module_function(hmod, name);
  return *hfunc ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuModuleGetFunctionCount(unsigned int *count, CUmodule mod) {
  CUresult result = check_module(mod);
  if (result == CUDA_SUCCESS && !count)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *count = mod->function_count;
  return result;
}

CUresult cuModuleEnumerateFunctions(CUfunction *functions, unsigned int numFunctions, CUmodule mod) {
  CUresult result = check_module(mod);
  if (result == CUDA_SUCCESS && !functions)
    result = CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; result == CUDA_SUCCESS && i < numFunctions && i < mod->function_count; i++)
    functions[i] = &mod->functions[i];
  return result;
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name) {
  CUresult result = check_module(hmod);
  if (result != CUDA_SUCCESS)
    return result;
  if (!name || (!dptr && !bytes))
    return CUDA_ERROR_INVALID_VALUE;
  const struct sim_global *global = sim_module_global(hmod, name);
  if (!global)
    return CUDA_ERROR_NOT_FOUND;
  if (dptr)
    *dptr = global->block->address;
  if (bytes)
    *bytes = global->bytes;
  return CUDA_SUCCESS;
}

/* Globals lie above 4 GiB, where a 32-bit device pointer does not reach. */
CUresult cuModuleGetGlobal(CUdeviceptr_v1 *dptr, unsigned int *bytes, CUmodule hmod, const char *name) {
  size_t size;
  CUresult result = cuModuleGetGlobal_v2(NULL, &size, hmod, name);
  if (result == CUDA_SUCCESS && dptr)
    result = CUDA_ERROR_NOT_SUPPORTED;
  if (result == CUDA_SUCCESS && bytes)
    *bytes = (unsigned)size;
  return result;
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *mode) {
  CUresult result = sim_ready();
  if (result == CUDA_SUCCESS && !mode)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *mode = CU_MODULE_EAGER_LOADING;
  return result;
}

/* ---- words for the caller's log buffers ---- */

struct sim_jit_log sim_jit_log(unsigned count, const CUjit_option *options, void **values) {
  struct sim_jit_log log = {0};
  for (unsigned i = 0; i < count; i++) {
    if (options[i] == CU_JIT_INFO_LOG_BUFFER)
      log.info = values[i];
    else if (options[i] == CU_JIT_ERROR_LOG_BUFFER)
      log.error = values[i];
    else if (options[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES)
      log.info_bytes = (size_t)(uintptr_t)*(log.info_bytes_out = &values[i]);
    else if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
      log.error_bytes = (size_t)(uintptr_t)*(log.error_bytes_out = &values[i]);
    else if (options[i] == CU_JIT_WALL_TIME)
      log.wall_time_out = &values[i];
  }
  return log;
}

static void say(char *buffer, size_t bytes, void **bytes_out, const char *text) {
  size_t used = 0;
  if (buffer && bytes) {
    int wanted = snprintf(buffer, bytes, "%s", text);
    used = (size_t)wanted < bytes ? (size_t)wanted : bytes - 1;
  }
  if (bytes_out)
    *bytes_out = (void *)(uintptr_t)used;
}

void sim_jit_report(const struct sim_jit_log *log, CUresult result) {
  const char *text = "";
  const float no_time = 0;
  if (result != CUDA_SUCCESS)
    cuGetErrorString(result, &text);
  say(log->info, log->info_bytes, log->info_bytes_out, "");
  say(log->error, log->error_bytes, log->error_bytes_out, text);
  if (log->wall_time_out)
    memcpy(log->wall_time_out, &no_time, sizeof no_time);
}
