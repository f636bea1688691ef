/* cuda_library.c - libraries: images that no context owns, loaded into each context at first need. */
#include "cuda_image.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"

struct kernel_attribute {
  bool set[CU_FUNC_ATTRIBUTE_MAX];
  int value[CU_FUNC_ATTRIBUTE_MAX];
};

struct CUkern_st {
  uint32_t magic;
  CUlibrary library;
  const char *name;
  struct kernel_attribute *attributes[SG_MAX_CARDS]; /* set by cuKernelSetAttribute, per card */
};

struct CUlib_st {
  uint32_t magic;
  void *data; /* a copy of the code */
  size_t size;
  struct sim_image *image; /* for its names; each module reads the data again for its own card */
  struct CUkern_st *kernels;
  CUmodule modules; /* one per context; under library_lock */
};

/* Held while a library is loaded into a context, so that this happens once. */
static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- life ---- */

static void free_library(CUlibrary library) {
  library->magic = 0;
  for (unsigned i = 0; library->kernels && i < library->image->function_count; i++) {
    library->kernels[i].magic = 0;
    for (int card = 0; card < SG_MAX_CARDS; card++)
      free(library->kernels[i].attributes[card]);
  }
  if (library->image)
    sim_image_release(library->image);
  free(library->kernels);
  free(library->data);
  free(library);
}

static CUresult fill_library(CUlibrary library) {
  CUresult result = sim_image_read(library->data, library->size, -1, &library->image);
  if (result != CUDA_SUCCESS)
    return result;
  unsigned count = library->image->function_count;
  library->kernels = calloc(count + 1, sizeof *library->kernels);
  if (!library->kernels)
    return CUDA_ERROR_OUT_OF_MEMORY;
  for (unsigned i = 0; i < count; i++)
    library->kernels[i] =
        (struct CUkern_st){.magic = SIM_MAGIC_KERNEL, .library = library, .name = library->image->functions[i].name};
  return CUDA_SUCCESS;
}

/* Takes over `data`. */
static CUresult make_library(CUlibrary *out, void *data, size_t size) {
  struct CUlib_st *library = calloc(1, sizeof *library);
  if (!library) {
    free(data);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  library->magic = SIM_MAGIC_LIBRARY;
  library->data = data;
  library->size = size;
  CUresult result = fill_library(library);
  if (result == CUDA_SUCCESS)
    *out = library;
  else
    free_library(library);
  return result;
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions, void **jitOptionsValues,
                           unsigned int numJitOptions, CUlibraryOption *libraryOptions, void **libraryOptionValues,
                           unsigned int numLibraryOptions) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  (void)libraryOptionValues; /* CU_LIBRARY_BINARY_IS_PRESERVED would save the copy */
  if (!library || !code || (numJitOptions && (!jitOptions || !jitOptionsValues)) ||
      (numLibraryOptions && !libraryOptions))
    return CUDA_ERROR_INVALID_VALUE;
  const struct sim_jit_log log = sim_jit_log(numJitOptions, jitOptions, jitOptionsValues);
  void *data = NULL;
  size_t size = 0;
  result = sim_image_copy(code, &data, &size);
  if (result == CUDA_SUCCESS)
    result = make_library(library, data, size);
  sim_jit_report(&log, result);
  return result;
}

CUresult cuLibraryLoadFromFile(CUlibrary *library, const char *fileName, CUjit_option *jitOptions,
                               void **jitOptionsValues, unsigned int numJitOptions, CUlibraryOption *libraryOptions,
                               void **libraryOptionValues, unsigned int numLibraryOptions) {
  void *data;
  size_t size;
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  (void)libraryOptionValues;
  if (!library || !fileName || (numJitOptions && (!jitOptions || !jitOptionsValues)) ||
      (numLibraryOptions && !libraryOptions))
    return CUDA_ERROR_INVALID_VALUE;
  const struct sim_jit_log log = sim_jit_log(numJitOptions, jitOptions, jitOptionsValues);
  result = sim_image_file(fileName, &data, &size);
  if (result == CUDA_SUCCESS)
    result = make_library(library, data, size);
  sim_jit_report(&log, result);
  return result;
}

static CUresult check_library(CUlibrary library) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  return library && library->magic == SIM_MAGIC_LIBRARY ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

void sim_library_forget(CUmodule module) {
  pthread_mutex_lock(&library_lock);
  for (CUmodule *link = &module->library->modules; *link; link = &(*link)->next_of_library)
    if (*link == module) {
      *link = module->next_of_library;
      break;
    }
  pthread_mutex_unlock(&library_lock);
}

static CUmodule take_module(CUlibrary library) {
  pthread_mutex_lock(&library_lock);
  CUmodule module = library->modules;
  if (module)
    library->modules = module->next_of_library;
  pthread_mutex_unlock(&library_lock);
  return module;
}

CUresult cuLibraryUnload(CUlibrary library) {
  CUresult result = check_library(library);
  if (result == CUDA_SUCCESS)
    result = sim_capture_check_unsafe();
  if (result != CUDA_SUCCESS)
    return result;
  for (CUmodule module; (module = take_module(library));) {
    sim_context_wait(module->context);
    sim_module_unload(module);
  }
  free_library(library);
  return CUDA_SUCCESS;
}

/* ---- in a context ---- */

static void apply_attributes(CUlibrary library, CUmodule module) {
  for (unsigned i = 0; i < library->image->function_count; i++) {
    const struct kernel_attribute *attributes = library->kernels[i].attributes[module->context->card];
    CUfunction function = sim_module_function(module, library->kernels[i].name);
    for (int a = 0; attributes && function && a < CU_FUNC_ATTRIBUTE_MAX; a++)
      if (attributes->set[a])
        sim_function_set((CUfunction_attribute)a, attributes->value[a], function);
  }
}

static CUresult library_module(CUlibrary library, CUcontext context, CUmodule *module) {
  CUresult result = CUDA_SUCCESS;
  pthread_mutex_lock(&library_lock);
  for (*module = library->modules; *module; *module = (*module)->next_of_library)
    if ((*module)->context == context)
      break;
  if (!*module) {
    sg_fault_point(context->card);
    result = sim_module_load(context, library->data, library->size, library, module);
    if (result == CUDA_SUCCESS) {
      (*module)->next_of_library = library->modules;
      library->modules = *module;
      apply_attributes(library, *module);
    }
  }
  pthread_mutex_unlock(&library_lock);
  return result;
}

static CUresult current_module(CUlibrary library, CUmodule *module) {
  CUcontext context;
  CUresult result = check_library(library);
  if (result == CUDA_SUCCESS)
    result = sim_current(&context);
  return result == CUDA_SUCCESS ? library_module(library, context, module) : result;
}

CUresult cuLibraryGetModule(CUmodule *pMod, CUlibrary library) {
  CUmodule module;
  CUresult result = current_module(library, &module);
  if (result == CUDA_SUCCESS && !pMod)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *pMod = module;
  return result;
}

CUresult cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name) {
  CUmodule module;
  CUresult result = current_module(library, &module);
  return result == CUDA_SUCCESS ? cuModuleGetGlobal_v2(dptr, bytes, module, name) : result;
}

/* __managed__ variables are not modelled: no image has one. */
CUresult cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name) {
  CUresult result = check_library(library);
  if (result != CUDA_SUCCESS)
    return result;
  return name && (dptr || bytes) ? CUDA_ERROR_NOT_FOUND : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_kernel_function(CUkernel kernel, CUcontext context, CUfunction *function) {
  CUmodule module;
  CUresult result = library_module(kernel->library, context, &module);
  if (result != CUDA_SUCCESS)
    return result;
  *function = sim_module_function(module, kernel->name);
  return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* ---- kernels ---- */

static CUresult check_kernel(CUkernel kernel) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  return kernel && kernel->magic == SIM_MAGIC_KERNEL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name) {
  CUresult result = check_library(library);
  if (result != CUDA_SUCCESS)
    return result;
  if (!pKernel || !name)
    return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < library->image->function_count; i++)
    if (!strcmp(library->kernels[i].name, name)) {
      *pKernel = &library->kernels[i];
      return CUDA_SUCCESS;
    }
  return CUDA_ERROR_NOT_FOUND;
}

CUresult cuLibraryGetKernelCount(unsigned int *count, CUlibrary lib) {
  CUresult result = check_library(lib);
  if (result == CUDA_SUCCESS && !count)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *count = lib->image->function_count;
  return result;
}

CUresult cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int numKernels, CUlibrary lib) {
  CUresult result = check_library(lib);
  if (result == CUDA_SUCCESS && !kernels)
    result = CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; result == CUDA_SUCCESS && i < numKernels && i < lib->image->function_count; i++)
    kernels[i] = &lib->kernels[i];
  return result;
}

CUresult cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel) {
  CUcontext context;
  CUresult result = check_kernel(kernel);
  if (result == CUDA_SUCCESS)
    result = sim_current(&context);
  if (result == CUDA_SUCCESS && !pFunc)
    result = CUDA_ERROR_INVALID_VALUE;
  return result == CUDA_SUCCESS ? sim_kernel_function(kernel, context, pFunc) : result;
}

CUresult cuKernelGetLibrary(CUlibrary *pLib, CUkernel kernel) {
  CUresult result = check_kernel(kernel);
  if (result == CUDA_SUCCESS && !pLib)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *pLib = kernel->library;
  return result;
}

CUresult cuKernelGetName(const char **name, CUkernel hfunc) {
  CUresult result = check_kernel(hfunc);
  if (result == CUDA_SUCCESS && !name)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *name = hfunc->name;
  return result;
}

static const struct sim_image_function *image_function(CUkernel kernel) {
  return &kernel->library->image->functions[kernel - kernel->library->kernels];
}

CUresult cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t *paramOffset, size_t *paramSize) {
  CUresult result = check_kernel(kernel);
  if (result != CUDA_SUCCESS)
    return result;
  const struct sim_image_function *function = image_function(kernel);
  if (!paramOffset || paramIndex >= function->parameter_count)
    return CUDA_ERROR_INVALID_VALUE;
  *paramOffset = function->parameters[paramIndex].offset;
  if (paramSize)
    *paramSize = function->parameters[paramIndex].bytes;
  return CUDA_SUCCESS;
}

CUresult cuKernelGetParamCount(CUkernel kernel, size_t *paramCount) {
  CUresult result = check_kernel(kernel);
  if (result == CUDA_SUCCESS && !paramCount)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *paramCount = image_function(kernel)->parameter_count;
  return result;
}

/* The function of the current context, which must be of the device, stands for the kernel there. */
static CUresult function_on(CUkernel kernel, CUdevice device, CUfunction *function) {
  CUcontext context;
  CUresult result = check_kernel(kernel);
  if (result == CUDA_SUCCESS)
    result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  return context->device == device ? sim_kernel_function(kernel, context, function) : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel kernel, CUdevice dev) {
  CUfunction function;
  CUresult result = function_on(kernel, dev, &function);
  if (result != CUDA_SUCCESS)
    return result;
  return pi ? sim_function_get(pi, attrib, function) : CUDA_ERROR_INVALID_VALUE;
}

static void remember(CUkernel kernel, int card, CUfunction_attribute attribute, int value) {
  pthread_mutex_lock(&library_lock);
  struct kernel_attribute **attributes = &kernel->attributes[card];
  if (!*attributes)
    *attributes = calloc(1, sizeof **attributes);
  if (*attributes) {
    (*attributes)->set[attribute] = true;
    (*attributes)->value[attribute] = value;
  }
  pthread_mutex_unlock(&library_lock);
}

CUresult cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice dev) {
  CUfunction function;
  CUresult result = function_on(kernel, dev, &function);
  if (result == CUDA_SUCCESS)
    result = sim_function_set(attrib, val, function);
  if (result == CUDA_SUCCESS)
    remember(kernel, function->module->context->card, attrib, val);
  return result;
}

CUresult cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice dev) {
  CUfunction function;
  CUresult result = function_on(kernel, dev, &function);
  return result == CUDA_SUCCESS ? cuFuncSetCacheConfig(function, config) : result;
}
