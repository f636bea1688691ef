/* The library as a whole: initialisation, errors, versions, names of processes. */
#include "nvml_sim.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint references; /* of nvmlInit; the library works while it is above 0 */

nvmlReturn_t sn_result(int error) {
  switch (error) {
    case SG_OK: return NVML_SUCCESS;
    case SG_E_LOST: return NVML_ERROR_GPU_IS_LOST;
    case SG_E_FULL:
    case SG_E_NOMEM: return NVML_ERROR_INSUFFICIENT_RESOURCES;
    case SG_E_INVALID: return NVML_ERROR_INVALID_ARGUMENT;
    case SG_E_STATE: return NVML_ERROR_DRIVER_NOT_LOADED;
    case SG_E_TIMEOUT: return NVML_ERROR_TIMEOUT;
    default: return NVML_ERROR_UNKNOWN;
  }
}

/* A forked child uses the library that its parent initialised; it joins the machine under its own name. */
nvmlReturn_t sn_enter_library(const void *out) {
  if (atomic_load(&references) == 0) return NVML_ERROR_UNINITIALIZED;
  nvmlReturn_t result = sn_result(sg_join());
  if (result != NVML_SUCCESS) return result;
  return out ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t sn_enter(nvmlDevice_t device, const void *out, int *card) {
  nvmlReturn_t result = sn_enter_library(out);
  if (result != NVML_SUCCESS) return result;
  *card = sn_card_of(device);
  if (*card < 0) return NVML_ERROR_INVALID_ARGUMENT;
  sg_fault_point(*card);
  return sg_card_lost(*card) ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

nvmlReturn_t sn_not_supported(void) {
  nvmlReturn_t result = sn_enter_library(&references);
  return result == NVML_SUCCESS ? NVML_ERROR_NOT_SUPPORTED : result;
}

nvmlReturn_t sn_copy_text(const char *text, char *out, unsigned length) {
  size_t size = strlen(text) + 1;
  if (size > length) return NVML_ERROR_INSUFFICIENT_SIZE;
  memcpy(out, text, size);
  return NVML_SUCCESS;
}

int sn_driver_major(void) { return atoi(sg_machine()->driver_version); }

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
  if (flags & ~(unsigned)(NVML_INIT_FLAG_NO_GPUS | NVML_INIT_FLAG_NO_ATTACH)) return NVML_ERROR_INVALID_ARGUMENT;
  pthread_mutex_lock(&lock);
  nvmlReturn_t result = sn_result(sg_join());
  if (result == NVML_SUCCESS) atomic_fetch_add(&references, 1);
  pthread_mutex_unlock(&lock);
  return result;
}
nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown(void) {
  pthread_mutex_lock(&lock);
  bool initialised = atomic_load(&references) > 0;
  if (initialised) atomic_fetch_sub(&references, 1);
  pthread_mutex_unlock(&lock);
  return initialised ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

/* The texts that NVIDIA's library gives, as nvidia-smi prints them. */
const char *nvmlErrorString(nvmlReturn_t result) {
  static const struct {
    nvmlReturn_t code;
    const char *text;
  } texts[] = {
      {NVML_SUCCESS, "Success"},
      {NVML_ERROR_UNINITIALIZED, "Uninitialized"},
      {NVML_ERROR_INVALID_ARGUMENT, "Invalid Argument"},
      {NVML_ERROR_NOT_SUPPORTED, "Not Supported"},
      {NVML_ERROR_NO_PERMISSION, "Insufficient Permissions"},
      {NVML_ERROR_ALREADY_INITIALIZED, "Already Initialized"},
      {NVML_ERROR_NOT_FOUND, "Not Found"},
      {NVML_ERROR_INSUFFICIENT_SIZE, "Insufficient Size"},
      {NVML_ERROR_INSUFFICIENT_POWER, "Insufficient External Power"},
      {NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"},
      {NVML_ERROR_TIMEOUT, "Timeout"},
      {NVML_ERROR_IRQ_ISSUE, "Interrupt Request Issue"},
      {NVML_ERROR_LIBRARY_NOT_FOUND, "NVML Shared Library Not Found"},
      {NVML_ERROR_FUNCTION_NOT_FOUND, "Function Not Found"},
      {NVML_ERROR_CORRUPTED_INFOROM, "Corrupted infoROM"},
      {NVML_ERROR_GPU_IS_LOST, "GPU is lost"},
      {NVML_ERROR_RESET_REQUIRED, "GPU requires reset"},
      {NVML_ERROR_OPERATING_SYSTEM, "GPU access blocked by the operating system"},
      {NVML_ERROR_LIB_RM_VERSION_MISMATCH, "Driver/library version mismatch"},
      {NVML_ERROR_IN_USE, "In use by another client"},
      {NVML_ERROR_MEMORY, "Insufficient Memory"},
      {NVML_ERROR_NO_DATA, "No data"},
      {NVML_ERROR_VGPU_ECC_NOT_SUPPORTED, "vGPU operation not supported with ECC enabled"},
      {NVML_ERROR_INSUFFICIENT_RESOURCES, "Insufficient Resources"},
      {NVML_ERROR_FREQ_NOT_SUPPORTED, "Frequency not supported"},
      {NVML_ERROR_ARGUMENT_VERSION_MISMATCH, "Argument version mismatch"},
      {NVML_ERROR_DEPRECATED, "Deprecated"},
      {NVML_ERROR_NOT_READY, "Not Ready"},
      {NVML_ERROR_GPU_NOT_FOUND, "GPU not found"},
      {NVML_ERROR_INVALID_STATE, "Invalid State"},
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    if (texts[i].code == result) return texts[i].text;
  return "Unknown Error";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
  nvmlReturn_t result = sn_enter_library(version);
  return result == NVML_SUCCESS ? sn_copy_text(sg_machine()->driver_version, version, length) : result;
}

/* NVML's own version is the CUDA major version and the driver's: "12.550.163.01". */
nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
  nvmlReturn_t result = sn_enter_library(version);
  if (result != NVML_SUCCESS) return result;
  char text[NVML_SYSTEM_NVML_VERSION_BUFFER_SIZE];
  snprintf(text, sizeof text, "%d.%s", sg_machine()->cuda_version / 1000, sg_machine()->driver_version);
  return sn_copy_text(text, version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
  nvmlReturn_t result = sn_enter_library(version);
  if (result == NVML_SUCCESS) *version = sg_machine()->cuda_version;
  return result;
}
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

/* The first word of the command line (a path when it was started by one), cut to `length`. */
nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
  nvmlReturn_t result = sn_enter_library(name);
  if (result != NVML_SUCCESS) return result;
  if (length == 0) return NVML_ERROR_INVALID_ARGUMENT;
  char path[64];
  snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
  FILE *file = fopen(path, "re");
  if (!file) return errno == EACCES ? NVML_ERROR_NO_PERMISSION : NVML_ERROR_NOT_FOUND;
  size_t size = fread(name, 1, length - 1, file);
  fclose(file);
  name[size] = '\0'; /* the words are separated by NUL: the name ends at the first */
  return size ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

/* No S-class units (external chassis) and no host interface cards. */
nvmlReturn_t nvmlUnitGetCount(unsigned int *count) {
  nvmlReturn_t result = sn_enter_library(count);
  if (result == NVML_SUCCESS) *count = 0;
  return result;
}
nvmlReturn_t nvmlSystemGetHicVersion(unsigned int *count, nvmlHwbcEntry_t *entries) {
  (void)entries;
  return nvmlUnitGetCount(count);
}
/* No card is excluded from use by the administrator. */
nvmlReturn_t nvmlGetExcludedDeviceCount(unsigned int *count) { return nvmlUnitGetCount(count); }
