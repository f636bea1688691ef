/* Bodies of the mem_info and refused rows of nvml_hooks.def. */
#include "nvml_driver.h"

/* What is left of the quota: 0 when the quota was cut below what is in use. */
static unsigned long long left(uint64_t quota, uint64_t used) { return quota > used ? quota - used : 0; }

CG_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
  CG_NVML_BEGIN(nvmlDeviceGetMemoryInfo, device, memory);
  nvmlReturn_t result = nvml->nvmlDeviceGetMemoryInfo(device, memory);
  if (result != NVML_SUCCESS) return result;
  uint64_t used, quota;
  cg_usage_now(gpu, &used, &quota);
  *memory = (nvmlMemory_t){.total = quota, .free = left(quota, used), .used = used};
  return NVML_SUCCESS;
}

/* What the driver keeps of the card for itself is not the tenant's: `reserved` is 0. */
CG_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
  CG_NVML_BEGIN(nvmlDeviceGetMemoryInfo_v2, device, memory);
  nvmlReturn_t result = nvml->nvmlDeviceGetMemoryInfo_v2(device, memory);
  if (result != NVML_SUCCESS) return result;
  uint64_t used, quota;
  cg_usage_now(gpu, &used, &quota);
  memory->total = quota;
  memory->reserved = 0;
  memory->used = used;
  memory->free = left(quota, used);
  return NVML_SUCCESS;
}

/* How much protected memory is in use is known for the whole card alone. */
CG_EXPORT nvmlReturn_t nvmlDeviceGetConfComputeProtectedMemoryUsage(nvmlDevice_t device, nvmlMemory_t *memory) {
  CG_NVML_BEGIN(nvmlDeviceGetConfComputeProtectedMemoryUsage, device, memory);
  return NVML_ERROR_NOT_SUPPORTED;
}

/* GPU performance monitoring measures the whole card. */
CG_EXPORT nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t gpmSample) {
  CG_NVML_BEGIN(nvmlGpmSampleGet, device, gpmSample);
  return NVML_ERROR_NOT_SUPPORTED;
}

/* A tenant that is root in its container must not lift the limit that the agent has set. */
CG_EXPORT nvmlReturn_t nvmlDeviceSetMemoryLimits_v1(nvmlDevice_t device, nvmlSetMemoryLimits_v1_t *limits) {
  CG_NVML_BEGIN(nvmlDeviceSetMemoryLimits_v1, device, limits);
  return NVML_ERROR_NO_PERMISSION;
}
