/* Bodies of the utilisation rows of nvml_hooks.def. The tenant's share of the card's time is measured
 * by the agent and comes with the grants; NVIDIA's own figures are the card's. Who used the card's
 * memory bus is not known: that figure is 0 for a tenant. */
#include <stdlib.h>

#include "nvml_driver.h"
#include "region_slot.h"

static unsigned own_percent(int gpu) {
  return __atomic_load_n(&cg_files()->grants->gpu[gpu].utilisation_percent, __ATOMIC_RELAXED);
}

CG_EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
  CG_NVML_BEGIN(nvmlDeviceGetUtilizationRates, device, utilization);
  nvmlReturn_t result = nvml->nvmlDeviceGetUtilizationRates(device, utilization);
  if (result == NVML_SUCCESS) *utilization = (nvmlUtilization_t){.gpu = own_percent(gpu), .memory = 0};
  return result;
}

CG_EXPORT nvmlReturn_t nvmlDeviceGetDynamicPstatesInfo(nvmlDevice_t device,
                                                       nvmlGpuDynamicPstatesInfo_t *pDynamicPstatesInfo) {
  CG_NVML_BEGIN(nvmlDeviceGetDynamicPstatesInfo, device, pDynamicPstatesInfo);
  nvmlReturn_t result = nvml->nvmlDeviceGetDynamicPstatesInfo(device, pDynamicPstatesInfo);
  if (result != NVML_SUCCESS) return result;
  for (unsigned i = 0; i < NVML_MAX_GPU_UTILIZATIONS; i++)
    pDynamicPstatesInfo->utilization[i].percentage = i == NVML_GPU_UTILIZATION_DOMAIN_GPU ? own_percent(gpu) : 0;
  return NVML_SUCCESS;
}

/* The times of the samples stay; each of the card's loads becomes the tenant's present one. */
CG_EXPORT nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type,
                                            unsigned long long lastSeenTimeStamp, nvmlValueType_t *sampleValType,
                                            unsigned int *sampleCount, nvmlSample_t *samples) {
  CG_NVML_BEGIN(nvmlDeviceGetSamples, device, type, lastSeenTimeStamp, sampleValType, sampleCount, samples);
  nvmlReturn_t result =
      nvml->nvmlDeviceGetSamples(device, type, lastSeenTimeStamp, sampleValType, sampleCount, samples);
  if (result != NVML_SUCCESS || !samples) return result;
  if (type != NVML_GPU_UTILIZATION_SAMPLES && type != NVML_MEMORY_UTILIZATION_SAMPLES) return result;
  unsigned percent = type == NVML_GPU_UTILIZATION_SAMPLES ? own_percent(gpu) : 0;
  for (unsigned i = 0; i < *sampleCount; i++) samples[i].sampleValue = (nvmlValue_t){.uiVal = percent};
  *sampleValType = NVML_VALUE_TYPE_UNSIGNED_INT;
  return NVML_SUCCESS;
}

/* ---- by process: the driver's samples of the tenant's own processes ---- */

#define FIRST_ROOM 64 /* samples; doubled until the library is content */
#define MOST_ROOM 65536

struct samples {
  nvmlProcessUtilizationInfo_v1_t *rows; /* malloc'ed */
  unsigned count;                        /* room in, number out */
  unsigned version;                      /* of the caller's structure */
  unsigned long long seen_us;
};
typedef nvmlReturn_t read_samples(const struct cg_nvml *nvml, nvmlDevice_t device, struct samples *samples);

static nvmlReturn_t read_old(const struct cg_nvml *nvml, nvmlDevice_t device, struct samples *samples) {
  nvmlProcessUtilizationSample_t *old = calloc(samples->count, sizeof *old);
  if (!old) return NVML_ERROR_MEMORY;
  nvmlReturn_t result = nvml->nvmlDeviceGetProcessUtilization(device, old, &samples->count, samples->seen_us);
  for (unsigned i = 0; result == NVML_SUCCESS && i < samples->count; i++)
    samples->rows[i] = (nvmlProcessUtilizationInfo_v1_t){.timeStamp = old[i].timeStamp,
                                                         .pid = old[i].pid,
                                                         .smUtil = old[i].smUtil,
                                                         .memUtil = old[i].memUtil,
                                                         .encUtil = old[i].encUtil,
                                                         .decUtil = old[i].decUtil};
  free(old);
  return result;
}

static nvmlReturn_t read_new(const struct cg_nvml *nvml, nvmlDevice_t device, struct samples *samples) {
  nvmlProcessesUtilizationInfo_t info = {.version = samples->version,
                                         .processSamplesCount = samples->count,
                                         .lastSeenTimeStamp = samples->seen_us,
                                         .procUtilArray = samples->rows};
  nvmlReturn_t result = nvml->nvmlDeviceGetProcessesUtilizationInfo(device, &info);
  samples->count = info.processSamplesCount;
  samples->seen_us = info.lastSeenTimeStamp;
  return result;
}

/* Packs the tenant's samples to the front. */
static nvmlReturn_t keep_own(int gpu, struct samples *samples) {
  struct cg_nvml_own *own = calloc(CGPU_MAX_SLOTS, sizeof *own);
  unsigned *pids = calloc(samples->count + 1, sizeof *pids);
  unsigned kept = 0;
  if (own && pids) {
    for (unsigned i = 0; i < samples->count; i++) pids[i] = samples->rows[i].pid;
    unsigned owned = cg_nvml_own_processes(gpu, pids, samples->count, own);
    for (unsigned i = 0; i < samples->count; i++) {
      bool is_own = false;
      for (unsigned k = 0; k < owned && !is_own; k++) is_own = own[k].pid == pids[i];
      if (is_own) samples->rows[kept++] = samples->rows[i];
    }
  }
  samples->count = kept;
  bool known = own && pids;
  free(own);
  free(pids);
  return known ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

/* The tenant's samples; on success samples->rows is the caller's to free. */
static nvmlReturn_t own_samples(int gpu, read_samples *read, const struct cg_nvml *nvml, nvmlDevice_t device,
                                struct samples *samples) {
  const unsigned long long seen_us = samples->seen_us;
  nvmlReturn_t result = NVML_ERROR_INSUFFICIENT_SIZE;
  for (unsigned room = FIRST_ROOM; result == NVML_ERROR_INSUFFICIENT_SIZE && room <= MOST_ROOM; room *= 2) {
    samples->rows = calloc(room, sizeof *samples->rows);
    if (!samples->rows) return NVML_ERROR_MEMORY;
    samples->count = room;
    samples->seen_us = seen_us;
    result = read(nvml, device, samples);
    if (result == NVML_SUCCESS) result = keep_own(gpu, samples);
    if (result == NVML_SUCCESS && samples->count == 0) result = NVML_ERROR_NOT_FOUND;
    if (result != NVML_SUCCESS) free(samples->rows);
  }
  return result;
}

CG_EXPORT nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *utilization,
                                                       unsigned int *processSamplesCount,
                                                       unsigned long long lastSeenTimeStamp) {
  CG_NVML_BEGIN(nvmlDeviceGetProcessUtilization, device, utilization, processSamplesCount, lastSeenTimeStamp);
  if (!processSamplesCount) return NVML_ERROR_INVALID_ARGUMENT;
  struct samples samples = {.seen_us = lastSeenTimeStamp};
  nvmlReturn_t result = own_samples(gpu, read_old, nvml, device, &samples);
  if (result != NVML_SUCCESS) return result;
  unsigned room = utilization ? *processSamplesCount : 0;
  *processSamplesCount = samples.count;
  for (unsigned i = 0; i < samples.count && samples.count <= room; i++)
    utilization[i] = (nvmlProcessUtilizationSample_t){.pid = samples.rows[i].pid,
                                                      .timeStamp = samples.rows[i].timeStamp,
                                                      .smUtil = samples.rows[i].smUtil,
                                                      .memUtil = samples.rows[i].memUtil,
                                                      .encUtil = samples.rows[i].encUtil,
                                                      .decUtil = samples.rows[i].decUtil};
  free(samples.rows);
  return samples.count > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

CG_EXPORT nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device,
                                                             nvmlProcessesUtilizationInfo_t *procesesUtilInfo) {
  CG_NVML_BEGIN(nvmlDeviceGetProcessesUtilizationInfo, device, procesesUtilInfo);
  if (!procesesUtilInfo) return NVML_ERROR_INVALID_ARGUMENT;
  struct samples samples = {.seen_us = procesesUtilInfo->lastSeenTimeStamp, .version = procesesUtilInfo->version};
  nvmlReturn_t result = own_samples(gpu, read_new, nvml, device, &samples);
  if (result != NVML_SUCCESS) return result;
  unsigned room = procesesUtilInfo->procUtilArray ? procesesUtilInfo->processSamplesCount : 0;
  procesesUtilInfo->processSamplesCount = samples.count;
  procesesUtilInfo->lastSeenTimeStamp = samples.seen_us;
  for (unsigned i = 0; i < samples.count && samples.count <= room; i++)
    procesesUtilInfo->procUtilArray[i] = samples.rows[i];
  free(samples.rows);
  return samples.count > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}
