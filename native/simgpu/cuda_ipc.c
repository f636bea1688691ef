/* cuda_ipc.c - memory and events between processes, by handles of 64 bytes (CUDA driver API, cuIpc*).
 *
 * An opened allocation is the exporter's physical memory, mapped a second time: opening takes nothing
 * from the card, and what was opened stays until it is closed, even when the exporter has ended. As
 * on a real card a handle names the whole piece that the allocation was cut from.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_process.h"
#include "cuda_share.h"

#define MEMORY_MAGIC 0x5c1bc001u
#define EVENT_MAGIC 0x5c1bc002u

struct memory_handle { /* CUipcMemHandle as this driver fills it */
  uint32_t magic;
  sg_phys object;
  uint64_t offset, bytes; /* of the allocation in the object */
  uint64_t buffer_id;
  uint64_t exporter;      /* to refuse opening one's own */
  int32_t card;
};
_Static_assert(sizeof(struct memory_handle) <= sizeof(CUipcMemHandle), "fits the user's 64 bytes");

struct event_handle { /* CUipcEventHandle */
  uint32_t magic;
  sg_fence fence, recorded;
  uint32_t flags;
  uint64_t exporter;
};
_Static_assert(sizeof(struct event_handle) <= sizeof(CUipcEventHandle), "fits the user's 64 bytes");

/* ---- memory ---- */

struct opening { /* an allocation of another process, mapped into a context of this one */
  struct sim_block block;
  uint64_t address, span; /* of the mapping; whole granules */
  uint64_t buffer_id, exporter;
  unsigned count; /* how often it was opened and not closed */
  struct opening *next;
};

static pthread_mutex_t ipc_lock = PTHREAD_MUTEX_INITIALIZER;
static struct opening *openings;

CUresult CUDAAPI cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (pHandle == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  struct memory_handle handle = {.magic = MEMORY_MAGIC, .exporter = sim_share_process()};
  result = CUDA_ERROR_INVALID_VALUE;
  sim_lock();
  const struct sim_block *block = sim_block_find(dptr);
  if (block && block->kind == SIM_MEMORY_DEVICE) {
    handle.object = block->object;
    handle.offset = block->offset;
    handle.bytes = block->bytes;
    handle.buffer_id = block->buffer_id;
    handle.card = block->card;
    result = CUDA_SUCCESS;
  }
  sim_unlock();
  if (result == CUDA_SUCCESS) {
    memset(pHandle, 0, sizeof *pHandle);
    memcpy(pHandle, &handle, sizeof handle);
  }
  return result;
}

static CUresult map_opening(const struct memory_handle *handle, CUcontext context, struct opening *opening) {
  int card;
  uint64_t bytes;
  const uint64_t before = handle->offset % SG_GRANULE_BYTES;
  if (sg_phys_retain(handle->object) != SG_OK)
    return CUDA_ERROR_INVALID_VALUE; /* freed by the exporter, which may have ended */
  CUresult result = sim_result(sg_phys_info(handle->object, &card, &bytes));
  if (result == CUDA_SUCCESS && (card != handle->card || handle->bytes == 0 || handle->bytes > bytes ||
                                 handle->offset > bytes - handle->bytes))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS && card != context->card)
    result = CUDA_ERROR_INVALID_DEVICE;
  opening->span = (before + handle->bytes + SG_GRANULE_BYTES - 1) / SG_GRANULE_BYTES * SG_GRANULE_BYTES;
  if (result == CUDA_SUCCESS)
    result = sim_va_reserve(opening->span, 0, 0, &opening->address);
  if (result == CUDA_SUCCESS) {
    result = sim_va_back(opening->address, opening->span, handle->object, handle->offset - before, false);
    if (result != CUDA_SUCCESS)
      sim_va_release(opening->address, opening->span);
  }
  if (result != CUDA_SUCCESS) {
    sg_phys_release(handle->object);
    return result;
  }
  opening->block = (struct sim_block){
      .address = opening->address + before,
      .bytes = handle->bytes,
      .kind = SIM_MEMORY_IPC,
      .card = card,
      .context = context,
      .object = handle->object,
      .offset = handle->offset,
      .accessible = true,
  };
  result = sim_block_insert(&opening->block);
  if (result != CUDA_SUCCESS)
    sim_segment_destroy(handle->object, opening->address, opening->span);
  return result;
}

/* Off the list and unmapped; the exporter's allocation is not touched. */
static void end_opening(struct opening *opening) {
  sim_block_remove(&opening->block);
  sim_segment_destroy(opening->block.object, opening->address, opening->span);
  free(opening);
}

static void context_ends(struct sim_owned *owned) {
  struct opening *opening = SIM_CONTAINER_OF(owned, struct opening, block.owned);
  pthread_mutex_lock(&ipc_lock);
  struct opening **link = &openings;
  while (*link && *link != opening)
    link = &(*link)->next;
  if (*link)
    *link = opening->next;
  pthread_mutex_unlock(&ipc_lock);
  end_opening(opening);
}

static struct opening *find_opening(const struct memory_handle *handle, CUcontext context) {
  struct opening *each = openings;
  while (each && !(each->buffer_id == handle->buffer_id && each->exporter == handle->exporter && each->block.context == context &&
                   each->block.object == handle->object))
    each = each->next;
  return each;
}

static CUresult open_memory(CUdeviceptr *dptr, const struct memory_handle *handle, unsigned flags) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (dptr == NULL || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS || handle->magic != MEMORY_MAGIC)
    return CUDA_ERROR_INVALID_VALUE;
  if (handle->exporter == sim_share_process())
    return CUDA_ERROR_INVALID_CONTEXT; /* a process cannot open its own */
  sg_fault_point(context->card);
  pthread_mutex_lock(&ipc_lock);
  struct opening *opening = find_opening(handle, context);
  if (opening) {
    opening->count++;
  } else {
    opening = calloc(1, sizeof *opening);
    result = opening ? map_opening(handle, context, opening) : CUDA_ERROR_OUT_OF_MEMORY;
    if (result == CUDA_SUCCESS) {
      opening->buffer_id = handle->buffer_id;
      opening->exporter = handle->exporter;
      opening->count = 1;
      opening->next = openings;
      openings = opening;
      sim_own(context, &opening->block.owned, context_ends);
    } else {
      free(opening);
    }
  }
  if (result == CUDA_SUCCESS)
    *dptr = opening->block.address;
  pthread_mutex_unlock(&ipc_lock);
  return result;
}

CUresult CUDAAPI cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags) {
  struct memory_handle own;
  memcpy(&own, &handle, sizeof own);
  return open_memory(pdptr, &own, Flags);
}

CUresult CUDAAPI cuIpcOpenMemHandle(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags) {
  return cuIpcOpenMemHandle_v2(pdptr, handle, Flags);
}

CUresult CUDAAPI cuIpcCloseMemHandle(CUdeviceptr dptr) {
  CUcontext context;
  struct opening *ended = NULL;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_context_wait(context); /* queued copies know the mapping by its address */
  if (result != CUDA_SUCCESS)
    return result;
  pthread_mutex_lock(&ipc_lock);
  struct opening **link = &openings;
  while (*link && (*link)->block.address != dptr)
    link = &(*link)->next;
  if (*link == NULL)
    result = CUDA_ERROR_INVALID_VALUE;
  else if (--(*link)->count == 0 && sim_disown(&(*link)->block.owned)) {
    ended = *link;
    *link = ended->next;
  }
  pthread_mutex_unlock(&ipc_lock);
  if (ended)
    end_opening(ended);
  return result;
}

/* ---- events ---- */

CUresult CUDAAPI cuIpcGetEventHandle(CUipcEventHandle *pHandle, CUevent event) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (pHandle == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (event == NULL || event->magic != SIM_MAGIC_EVENT || event->recorded == 0)
    return CUDA_ERROR_INVALID_HANDLE; /* made without CU_EVENT_INTERPROCESS */
  const struct event_handle handle = {.magic = EVENT_MAGIC,
                                      .fence = event->fence,
                                      .recorded = event->recorded,
                                      .exporter = sim_share_process(),
                                      .flags = event->flags};
  memset(pHandle, 0, sizeof *pHandle);
  memcpy(pHandle, &handle, sizeof handle);
  return CUDA_SUCCESS;
}

static void destroy_imported(struct sim_owned *owned) {
  struct CUevent_st *event = SIM_CONTAINER_OF(owned, struct CUevent_st, owned);
  sim_capture_forget_event(event);
  event->magic = 0;
  free(event);
}

/* The fences stay the exporter's, which must keep the event as long as anybody uses it. */
CUresult CUDAAPI cuIpcOpenEventHandle(CUevent *phEvent, CUipcEventHandle handle) {
  CUcontext context;
  struct event_handle own;
  uint64_t value, when;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  memcpy(&own, &handle, sizeof own);
  if (phEvent == NULL || own.magic != EVENT_MAGIC)
    return CUDA_ERROR_INVALID_VALUE;
  if (own.exporter == sim_share_process())
    return CUDA_ERROR_INVALID_CONTEXT;
  if (sg_fence_read(own.fence, &value, &when) != SG_OK)
    return CUDA_ERROR_INVALID_VALUE; /* destroyed by the exporter, which may have ended */
  CUevent event = calloc(1, sizeof *event);
  if (event == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  event->magic = SIM_MAGIC_EVENT;
  event->context = context;
  event->flags = own.flags;
  event->fence = own.fence;
  event->recorded = own.recorded;
  event->imported = true;
  sim_own(context, &event->owned, destroy_imported);
  *phEvent = event;
  return CUDA_SUCCESS;
}
