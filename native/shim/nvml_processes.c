/* Bodies of the processes rows of nvml_hooks.def: of the processes that NVIDIA's library lists the
 * tenant's own stay, with the memory that each is charged. A process of the tenant's that the library
 * does not list, as in a container without the host's PIDs, is added to the compute list. */
#include <stdlib.h>

#include "nvml_driver.h"

#define NO_INSTANCE 0xffffffffu /* gpuInstanceId and computeInstanceId without MIG */
#define FIRST_ROOM 64           /* processes; doubled until the library is content */
#define MOST_ROOM 65536

typedef nvmlReturn_t list_v1(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_v1_t *rows);
typedef nvmlReturn_t list_v2(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_v2_t *rows);

struct list {
  nvmlProcessInfo_v2_t *rows; /* malloc'ed */
  unsigned count;
};

/* Exactly one of the two is given; rows of the first version have no instances. */
static nvmlReturn_t read_once(list_v1 *v1, list_v2 *v2, nvmlDevice_t device, unsigned room, struct list *list) {
  list->count = room;
  if (v2) return v2(device, &list->count, list->rows);
  nvmlProcessInfo_v1_t *narrow = calloc(room, sizeof *narrow);
  if (!narrow) return NVML_ERROR_MEMORY;
  nvmlReturn_t result = v1(device, &list->count, narrow);
  for (unsigned i = 0; result == NVML_SUCCESS && i < list->count; i++)
    list->rows[i] = (nvmlProcessInfo_v2_t){.pid = narrow[i].pid,
                                           .usedGpuMemory = narrow[i].usedGpuMemory,
                                           .gpuInstanceId = NO_INSTANCE,
                                           .computeInstanceId = NO_INSTANCE};
  free(narrow);
  return result;
}

/* The whole list of NVIDIA's library. Frees nothing on success: list->rows is the caller's. */
static nvmlReturn_t read_all(list_v1 *v1, list_v2 *v2, nvmlDevice_t device, struct list *list) {
  nvmlReturn_t result = NVML_ERROR_INSUFFICIENT_SIZE;
  for (unsigned room = FIRST_ROOM; result == NVML_ERROR_INSUFFICIENT_SIZE && room <= MOST_ROOM; room *= 2) {
    list->rows = calloc(room, sizeof *list->rows);
    if (!list->rows) return NVML_ERROR_MEMORY;
    result = read_once(v1, v2, device, room, list);
    if (result != NVML_SUCCESS) free(list->rows);
  }
  return result;
}

static const nvmlProcessInfo_v2_t *find(const struct list *list, unsigned pid) {
  for (unsigned i = 0; i < list->count; i++)
    if (list->rows[i].pid == pid) return &list->rows[i];
  return NULL;
}

/* Replaces the card's list by the tenant's. `add`: also those that only the region knows. */
static nvmlReturn_t keep_own(int gpu, struct list *list, bool add) {
  struct cg_nvml_own *own = calloc(CGPU_MAX_SLOTS, sizeof *own);
  unsigned *pids = calloc(list->count + 1, sizeof *pids);
  nvmlProcessInfo_v2_t *kept = calloc(CGPU_MAX_SLOTS, sizeof *kept);
  unsigned count = 0;
  if (own && pids && kept) {
    for (unsigned i = 0; i < list->count; i++) pids[i] = list->rows[i].pid;
    unsigned owned = cg_nvml_own_processes(gpu, pids, list->count, own);
    for (unsigned i = 0; i < owned; i++) {
      const nvmlProcessInfo_v2_t *listed = find(list, own[i].pid);
      if (!listed && !(add && own[i].on_gpu)) continue;
      kept[count++] = (nvmlProcessInfo_v2_t){.pid = own[i].pid,
                                             .usedGpuMemory = own[i].bytes,
                                             .gpuInstanceId = listed ? listed->gpuInstanceId : NO_INSTANCE,
                                             .computeInstanceId = listed ? listed->computeInstanceId : NO_INSTANCE};
    }
  }
  bool complete = own && pids && kept;
  free(own);
  free(pids);
  free(list->rows);
  list->rows = kept;
  list->count = count;
  if (!complete) free(kept);
  return complete ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

/* The tenant's list; on success list->rows is the caller's to free. */
static nvmlReturn_t own_list(int gpu, list_v1 *v1, list_v2 *v2, nvmlDevice_t device, bool add, struct list *list) {
  nvmlReturn_t result = read_all(v1, v2, device, list);
  return result == NVML_SUCCESS ? keep_own(gpu, list, add) : result;
}

/* NVML's protocol: *count is the room in and the number out; too little room is an error that still
 * tells the number. */
static nvmlReturn_t fits(unsigned *count, unsigned found, const void *rows) {
  unsigned room = *count;
  *count = found;
  if (found > room) return NVML_ERROR_INSUFFICIENT_SIZE;
  return found > 0 && !rows ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

static nvmlReturn_t answer_v1(int gpu, list_v1 *real, nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v1_t *rows,
                              bool add) {
  if (!count) return NVML_ERROR_INVALID_ARGUMENT;
  struct list list;
  nvmlReturn_t result = own_list(gpu, real, NULL, device, add, &list);
  if (result != NVML_SUCCESS) return result;
  result = fits(count, list.count, rows);
  for (unsigned i = 0; result == NVML_SUCCESS && i < list.count; i++)
    rows[i] = (nvmlProcessInfo_v1_t){.pid = list.rows[i].pid, .usedGpuMemory = list.rows[i].usedGpuMemory};
  free(list.rows);
  return result;
}

static nvmlReturn_t answer_v2(int gpu, list_v2 *real, nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v2_t *rows,
                              bool add) {
  if (!count) return NVML_ERROR_INVALID_ARGUMENT;
  struct list list;
  nvmlReturn_t result = own_list(gpu, NULL, real, device, add, &list);
  if (result != NVML_SUCCESS) return result;
  result = fits(count, list.count, rows);
  for (unsigned i = 0; result == NVML_SUCCESS && i < list.count; i++) rows[i] = list.rows[i];
  free(list.rows);
  return result;
}

/* The nine list functions differ in their name, the kind of row and whether the region may add. */
#define LIST_BODY(name, version, row, add)                                                        \
  CG_EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned int *infoCount, row *infos) {         \
    CG_NVML_BEGIN(name, device, infoCount, infos);                                                \
    return answer_##version(gpu, nvml->name, device, infoCount, infos, add);                      \
  }
LIST_BODY(nvmlDeviceGetComputeRunningProcesses, v1, nvmlProcessInfo_v1_t, true)
LIST_BODY(nvmlDeviceGetComputeRunningProcesses_v2, v2, nvmlProcessInfo_v2_t, true)
LIST_BODY(nvmlDeviceGetComputeRunningProcesses_v3, v2, nvmlProcessInfo_t, true)
LIST_BODY(nvmlDeviceGetGraphicsRunningProcesses, v1, nvmlProcessInfo_v1_t, false)
LIST_BODY(nvmlDeviceGetGraphicsRunningProcesses_v2, v2, nvmlProcessInfo_v2_t, false)
LIST_BODY(nvmlDeviceGetGraphicsRunningProcesses_v3, v2, nvmlProcessInfo_t, false)
LIST_BODY(nvmlDeviceGetMPSComputeRunningProcesses, v1, nvmlProcessInfo_v1_t, false)
LIST_BODY(nvmlDeviceGetMPSComputeRunningProcesses_v2, v2, nvmlProcessInfo_v2_t, false)
LIST_BODY(nvmlDeviceGetMPSComputeRunningProcesses_v3, v2, nvmlProcessInfo_t, false)

/* NVIDIA's library is asked with room of our own, in the caller's version and mode. */
static nvmlReturn_t read_details(const struct cg_nvml *nvml, nvmlDevice_t device, const nvmlProcessDetailList_t *asked,
                                 struct list *list) {
  nvmlReturn_t result = NVML_ERROR_INSUFFICIENT_SIZE;
  for (unsigned room = FIRST_ROOM; result == NVML_ERROR_INSUFFICIENT_SIZE && room <= MOST_ROOM; room *= 2) {
    nvmlProcessDetailList_t details = {.version = asked->version, .mode = asked->mode, .numProcArrayEntries = room};
    details.procArray = calloc(room, sizeof *details.procArray);
    list->rows = calloc(room, sizeof *list->rows);
    result = details.procArray && list->rows ? nvml->nvmlDeviceGetRunningProcessDetailList(device, &details)
                                             : NVML_ERROR_MEMORY;
    list->count = details.numProcArrayEntries;
    for (unsigned i = 0; result == NVML_SUCCESS && i < list->count; i++)
      list->rows[i] = (nvmlProcessInfo_v2_t){.pid = details.procArray[i].pid,
                                             .gpuInstanceId = details.procArray[i].gpuInstanceId,
                                             .computeInstanceId = details.procArray[i].computeInstanceId};
    free(details.procArray);
    if (result != NVML_SUCCESS) free(list->rows);
  }
  return result;
}

CG_EXPORT nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_t *plist) {
  CG_NVML_BEGIN(nvmlDeviceGetRunningProcessDetailList, device, plist);
  if (!plist) return NVML_ERROR_INVALID_ARGUMENT;
  struct list list;
  bool add = plist->mode == NVML_PROCESS_MODE_COMPUTE || plist->mode == NVML_PROCESS_MODE_ALL;
  nvmlReturn_t result = read_details(nvml, device, plist, &list);
  if (result == NVML_SUCCESS) result = keep_own(gpu, &list, add);
  if (result != NVML_SUCCESS) return result;
  result = fits(&plist->numProcArrayEntries, list.count, plist->procArray);
  for (unsigned i = 0; result == NVML_SUCCESS && i < list.count; i++)
    plist->procArray[i] = (nvmlProcessDetail_v1_t){.pid = list.rows[i].pid,
                                                   .usedGpuMemory = list.rows[i].usedGpuMemory,
                                                   .gpuInstanceId = list.rows[i].gpuInstanceId,
                                                   .computeInstanceId = list.rows[i].computeInstanceId};
  free(list.rows);
  return result;
}

/* ---- accounting: what the driver keeps about each process, the finished ones too. Those of the
 * tenant's that have ended are in no slot any more and are not shown. ---- */

static bool is_own(int gpu, unsigned pid) {
  struct cg_nvml_own *own = calloc(CGPU_MAX_SLOTS, sizeof *own);
  if (!own) return false;
  unsigned count = cg_nvml_own_processes(gpu, &pid, 1, own);
  bool found = false;
  for (unsigned i = 0; i < count; i++) found |= own[i].pid == pid;
  free(own);
  return found;
}

CG_EXPORT nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count, unsigned int *pids) {
  CG_NVML_BEGIN(nvmlDeviceGetAccountingPids, device, count, pids);
  if (!count) return NVML_ERROR_INVALID_ARGUMENT;
  unsigned room = MOST_ROOM, kept = 0;
  unsigned *all = calloc(room, sizeof *all);
  if (!all) return NVML_ERROR_MEMORY;
  nvmlReturn_t result = nvml->nvmlDeviceGetAccountingPids(device, &room, all);
  for (unsigned i = 0; result == NVML_SUCCESS && i < room; i++)
    if (is_own(gpu, all[i])) all[kept++] = all[i];
  if (result == NVML_SUCCESS) result = fits(count, kept, pids);
  for (unsigned i = 0; result == NVML_SUCCESS && i < kept; i++) pids[i] = all[i];
  free(all);
  return result;
}

CG_EXPORT nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid, nvmlAccountingStats_t *stats) {
  CG_NVML_BEGIN(nvmlDeviceGetAccountingStats, device, pid, stats);
  return is_own(gpu, pid) ? nvml->nvmlDeviceGetAccountingStats(device, pid, stats) : NVML_ERROR_NOT_FOUND;
}

CG_EXPORT nvmlReturn_t nvmlDeviceGetAccountingStats_v2(nvmlDevice_t device, nvmlAccountingStats_v2_t *stats) {
  CG_NVML_BEGIN(nvmlDeviceGetAccountingStats_v2, device, stats);
  if (!stats) return NVML_ERROR_INVALID_ARGUMENT;
  return is_own(gpu, stats->pid) ? nvml->nvmlDeviceGetAccountingStats_v2(device, stats) : NVML_ERROR_NOT_FOUND;
}
