/* The processes that hold memory or contexts on a card, and their shares of its time. A process that
 * the caller's PID namespace does not contain is not listed, as with the real driver. */
#include "nvml_sim.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Twenty tenants of fifty processes; more are counted by nobody. */
#define MAX_PROCESSES 1024

static int by_pid(const void *a, const void *b) {
  unsigned x = ((const struct sn_process *)a)->pid, y = ((const struct sn_process *)b)->pid;
  return x < y ? -1 : x > y;
}

nvmlReturn_t sn_processes(int card, struct sn_process *rows, unsigned capacity, unsigned *count) {
  struct sg_process_usage *all = malloc(MAX_PROCESSES * sizeof *all);
  if (!all) return NVML_ERROR_MEMORY;
  unsigned found = 0;
  int error = sg_processes(card, all, MAX_PROCESSES, &found);
  *count = 0;
  for (unsigned i = 0; error == SG_OK && i < found && i < MAX_PROCESSES; i++) {
    if (all[i].pid == 0 || (all[i].memory_bytes == 0 && all[i].live_contexts == 0)) continue;
    if (*count < capacity)
      rows[*count] = (struct sn_process){.pid = all[i].pid, .memory_bytes = all[i].memory_bytes};
    ++*count;
  }
  free(all);
  if (error != SG_OK) return sn_result(error);
  qsort(rows, *count < capacity ? *count : capacity, sizeof *rows, by_pid);
  return NVML_SUCCESS;
}

/* ---- lists of running processes ---- */

/* NVML's protocol: *count is the room in and the number out; too little room is an error that still
 * tells the number. `write` puts one process into the caller's kind of row. */
typedef void write_row(void *rows, unsigned index, const struct sn_process *process);

static nvmlReturn_t list_processes(nvmlDevice_t device, unsigned *count, void *rows, write_row *write) {
  SN_ENTER(card, device, count);
  struct sn_process *found = malloc(MAX_PROCESSES * sizeof *found);
  if (!found) return NVML_ERROR_MEMORY;
  unsigned room = *count;
  nvmlReturn_t result = sn_processes(card, found, MAX_PROCESSES, count);
  if (result == NVML_SUCCESS && *count > room) result = NVML_ERROR_INSUFFICIENT_SIZE;
  if (result == NVML_SUCCESS && *count > 0 && !rows) result = NVML_ERROR_INVALID_ARGUMENT;
  for (unsigned i = 0; result == NVML_SUCCESS && i < *count; i++) write(rows, i, &found[i]);
  free(found);
  return result;
}

static nvmlReturn_t list_nobody(nvmlDevice_t device, unsigned *count) {
  SN_ENTER(card, device, count);
  (void)card;
  *count = 0;
  return NVML_SUCCESS;
}

static void write_v1(void *rows, unsigned index, const struct sn_process *process) {
  ((nvmlProcessInfo_v1_t *)rows)[index] =
      (nvmlProcessInfo_v1_t){.pid = process->pid, .usedGpuMemory = process->memory_bytes};
}
static void write_v2(void *rows, unsigned index, const struct sn_process *process) {
  ((nvmlProcessInfo_v2_t *)rows)[index] = (nvmlProcessInfo_v2_t){.pid = process->pid,
                                                                 .usedGpuMemory = process->memory_bytes,
                                                                 .gpuInstanceId = SN_NO_INSTANCE,
                                                                 .computeInstanceId = SN_NO_INSTANCE};
}
static void write_detail(void *rows, unsigned index, const struct sn_process *process) {
  ((nvmlProcessDetail_v1_t *)rows)[index] = (nvmlProcessDetail_v1_t){.pid = process->pid,
                                                                     .usedGpuMemory = process->memory_bytes,
                                                                     .gpuInstanceId = SN_NO_INSTANCE,
                                                                     .computeInstanceId = SN_NO_INSTANCE};
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v1_t *rows) {
  return list_processes(device, count, rows, write_v1);
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v2_t *rows) {
  return list_processes(device, count, rows, write_v2);
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *rows) {
  return list_processes(device, count, rows, write_v2);
}

/* The simulated cards run no graphics and no MPS server. */
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v1_t *rows) {
  (void)rows;
  return list_nobody(device, count);
}
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v2_t *rows) {
  (void)rows;
  return list_nobody(device, count);
}
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *rows) {
  (void)rows;
  return list_nobody(device, count);
}
nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v1_t *rows) {
  (void)rows;
  return list_nobody(device, count);
}
nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v2_t *rows) {
  (void)rows;
  return list_nobody(device, count);
}
nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *rows) {
  (void)rows;
  return list_nobody(device, count);
}

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_t *list) {
  SN_ENTER(card, device, list);
  (void)card;
  if (list->version != nvmlProcessDetailList_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  switch (list->mode) {
    case NVML_PROCESS_MODE_ALL:
    case NVML_PROCESS_MODE_COMPUTE:
      return list_processes(device, &list->numProcArrayEntries, list->procArray, write_detail);
    case NVML_PROCESS_MODE_GRAPHICS:
    case NVML_PROCESS_MODE_MPS: return list_nobody(device, &list->numProcArrayEntries);
    default: return NVML_ERROR_INVALID_ARGUMENT;
  }
}

/* ---- utilisation of each process ---- */

static unsigned long long wall_clock_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (unsigned long long)now.tv_sec * 1000000u + (unsigned long long)now.tv_nsec / 1000u;
}

/* One sample for each process that used the card since `seen_us` (wall clock; at most the window of
 * SN_LOAD_WINDOW_NS back). None at all is NVML_ERROR_NOT_FOUND, as on a card that was idle. */
static nvmlReturn_t sample_processes(int card, unsigned long long seen_us, nvmlProcessUtilizationInfo_v1_t *samples,
                                     unsigned room, unsigned *count) {
  struct sn_process *found = calloc(MAX_PROCESSES, sizeof *found);
  if (!found) return NVML_ERROR_MEMORY;
  unsigned processes = 0;
  nvmlReturn_t result = sn_processes(card, found, MAX_PROCESSES, &processes);
  unsigned long long now_us = wall_clock_us(), window_ns = SN_LOAD_WINDOW_NS;
  if (seen_us < now_us && now_us - seen_us < window_ns / 1000) window_ns = (now_us - seen_us) * 1000;
  *count = 0;
  for (unsigned i = 0; result == NVML_SUCCESS && seen_us < now_us && i < processes; i++) {
    unsigned percent = 0;
    result = sn_result(sg_utilisation(card, found[i].pid, window_ns, &percent));
    if (result != NVML_SUCCESS || percent == 0) continue;
    if (*count < room)
      samples[*count] = (nvmlProcessUtilizationInfo_v1_t){.timeStamp = now_us, .pid = found[i].pid, .smUtil = percent};
    ++*count;
  }
  free(found);
  if (result != NVML_SUCCESS) return result;
  return *count == 0 ? NVML_ERROR_NOT_FOUND : *count > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *utilization,
                                             unsigned int *count, unsigned long long seen_us) {
  SN_ENTER(card, device, count);
  nvmlProcessUtilizationInfo_v1_t *samples = calloc(MAX_PROCESSES, sizeof *samples);
  if (!samples) return NVML_ERROR_MEMORY;
  unsigned room = utilization ? *count : 0;
  if (room > MAX_PROCESSES) room = MAX_PROCESSES;
  nvmlReturn_t result = sample_processes(card, seen_us, samples, room, count);
  for (unsigned i = 0; result == NVML_SUCCESS && i < *count; i++)
    utilization[i] = (nvmlProcessUtilizationSample_t){
        .pid = samples[i].pid, .timeStamp = samples[i].timeStamp, .smUtil = samples[i].smUtil};
  free(samples);
  return result;
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_t *info) {
  SN_ENTER(card, device, info);
  if (info->version != nvmlProcessesUtilizationInfo_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  unsigned room = info->procUtilArray ? info->processSamplesCount : 0;
  return sample_processes(card, info->lastSeenTimeStamp, info->procUtilArray, room, &info->processSamplesCount);
}
