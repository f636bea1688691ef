/* cuda_pool_share.c - memory pools between processes: a pool is exported as a descriptor, each
 * allocation of it by 64 bytes of data. The importer maps the same physical memory; freeing the import
 * does not free the exporter's allocation.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_pool.h"
#include "cuda_share.h"

/* CUmemPoolPtrExportData as this driver fills it. */
struct export_data {
  uint64_t token[2]; /* of the pool */
  sg_phys object;
  uint32_t reserved;
  uint64_t object_bytes, offset, bytes;
};
_Static_assert(sizeof(struct export_data) <= sizeof(CUmemPoolPtrExportData), "fits the user's 64 bytes");

struct pool_import {
  struct pool_hold hold;
  CUmemoryPool pool;
  CUcontext context; /* that was current at the import; its end ends the import */
  uint64_t address, span; /* of the mapping; whole granules */
  bool freeing, ended;
  struct pool_import *next;
};

static struct pool_import *imports; /* guarded by the pool lock */

/* ---- the pool ---- */

static void export_closed(void *argument) {
  CUmemoryPool pool = argument;
  pool_lock();
  pool->exports--;
  pool_end_if_unused(pool);
  pool_unlock();
}

CUresult CUDAAPI cuMemPoolExportToShareableHandle(void *handle_out, CUmemoryPool pool, CUmemAllocationHandleType handleType,
                                                  unsigned long long flags) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (handle_out == NULL || flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  pool_lock();
  result = pool_check(pool);
  if (result == CUDA_SUCCESS && (handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || pool->imported ||
                                 (pool->properties.handleTypes & handleType) == 0))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS) {
    const struct sim_share record = {
        .kind = SIM_SHARE_POOL, .card = pool->card, .token = {pool->token[0], pool->token[1]}};
    pool->exports++;
    int descriptor = sim_share_export(&record, export_closed, pool);
    if (descriptor < 0) {
      pool->exports--;
      result = CUDA_ERROR_OPERATING_SYSTEM;
    } else {
      *(int *)handle_out = descriptor;
    }
  }
  pool_unlock();
  return result;
}

CUresult CUDAAPI cuMemPoolImportFromShareableHandle(CUmemoryPool *pool_out, void *handle,
                                                    CUmemAllocationHandleType handleType, unsigned long long flags) {
  struct sim_share record;
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (pool_out == NULL || flags != 0 || handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
    return CUDA_ERROR_INVALID_VALUE;
  if (!sim_share_import((int)(intptr_t)handle, SIM_SHARE_POOL, &record))
    return CUDA_ERROR_INVALID_VALUE;
  CUdevice device = sim_card_device(record.card);
  if (device < 0)
    return CUDA_ERROR_INVALID_DEVICE;
  const CUmemPoolProps properties = {
      .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
      .handleTypes = handleType,
      .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device},
  };
  CUmemoryPool pool = pool_new(&properties, record.card, device);
  if (pool == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  pool->imported = true;
  memcpy(pool->token, record.token, sizeof pool->token);
  pool_lock();
  pool_publish(pool);
  pool_unlock();
  *pool_out = pool;
  return CUDA_SUCCESS;
}

/* ---- one allocation ---- */

CUresult CUDAAPI cuMemPoolExportPointer(CUmemPoolPtrExportData *shareData_out, CUdeviceptr ptr) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (shareData_out == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  struct export_data data = {0};
  result = CUDA_ERROR_INVALID_VALUE;
  pool_lock();
  sim_lock();
  struct sim_block *block = sim_block_find(ptr);
  if (block && block->kind == SIM_MEMORY_POOL && block->address == ptr &&
      SIM_CONTAINER_OF(block, struct pool_hold, block)->kind == POOL_HOLD_PIECE) {
    CUmemoryPool pool = block->owner;
    data = (struct export_data){.token = {pool->token[0], pool->token[1]},
                                .object = block->object,
                                .offset = block->offset,
                                .bytes = block->bytes};
    result = (pool->properties.handleTypes & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0 ? CUDA_SUCCESS
                                                                                            : CUDA_ERROR_INVALID_VALUE;
  }
  sim_unlock();
  pool_unlock();
  if (result == CUDA_SUCCESS) {
    memset(shareData_out, 0, sizeof *shareData_out);
    memcpy(shareData_out, &data, sizeof data);
  }
  return result;
}

/* Maps the granules around the part of the object that the data name. */
static CUresult map_import(const struct export_data *data, struct pool_import *import) {
  const uint64_t before = data->offset % SG_GRANULE_BYTES;
  import->span = (before + data->bytes + SG_GRANULE_BYTES - 1) / SG_GRANULE_BYTES * SG_GRANULE_BYTES;
  int card;
  uint64_t bytes;
  if (sg_phys_retain(data->object) != SG_OK)
    return CUDA_ERROR_INVALID_VALUE; /* freed by the exporter, which may have ended */
  CUresult result = sim_result(sg_phys_info(data->object, &card, &bytes));
  if (result == CUDA_SUCCESS && (card != import->pool->card || data->offset + data->bytes > bytes))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    result = sim_va_reserve(import->span, 0, 0, &import->address);
  if (result == CUDA_SUCCESS) {
    result = sim_va_back(import->address, import->span, data->object, data->offset - before, false);
    if (result != CUDA_SUCCESS)
      sim_va_release(import->address, import->span);
  }
  if (result != CUDA_SUCCESS) {
    sg_phys_release(data->object);
    return result;
  }
  import->hold.kind = POOL_HOLD_IMPORT;
  import->hold.block = (struct sim_block){
      .address = import->address + before,
      .bytes = data->bytes,
      .kind = SIM_MEMORY_POOL,
      .card = card,
      .object = data->object,
      .offset = data->offset,
      .accessible = true,
      .owner = import->pool,
  };
  result = sim_block_insert(&import->hold.block);
  if (result != CUDA_SUCCESS)
    sim_segment_destroy(data->object, import->address, import->span);
  return result;
}

CUresult CUDAAPI cuMemPoolImportPointer(CUdeviceptr *ptr_out, CUmemoryPool pool, CUmemPoolPtrExportData *shareData) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  if (ptr_out == NULL || shareData == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  struct export_data data;
  memcpy(&data, shareData, sizeof data);
  struct pool_import *import = calloc(1, sizeof *import);
  if (import == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  import->context = context;
  import->pool = pool;
  pool_lock();
  result = pool_check(pool);
  if (result == CUDA_SUCCESS && (!pool->imported || memcmp(pool->token, data.token, sizeof data.token) != 0 ||
                                 data.bytes == 0 || data.offset + data.bytes < data.offset))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    result = map_import(&data, import);
  if (result == CUDA_SUCCESS) {
    pool->live++;
    import->next = imports;
    imports = import;
    *ptr_out = import->hold.block.address;
  } else {
    free(import);
  }
  pool_unlock();
  return result;
}

static void end_import(struct pool_import *import) {
  struct pool_import **link = &imports;
  while (*link != import)
    link = &(*link)->next;
  *link = import->next;
  sim_block_remove(&import->hold.block);
  sim_segment_destroy(import->hold.block.object, import->address, import->span);
  import->pool->live--;
  pool_end_if_unused(import->pool);
  import->ended = true;
}

CUresult pool_import_free_now(struct pool_hold *hold) {
  struct pool_import *import = SIM_CONTAINER_OF(hold, struct pool_import, hold);
  if (import->freeing)
    return CUDA_ERROR_INVALID_VALUE;
  end_import(import);
  free(import);
  return CUDA_SUCCESS;
}

/* The stream has got to the cuMemFreeAsync. */
static void run_import_free(void *argument) {
  pool_lock();
  end_import(argument);
  pool_unlock();
}

/* Afterwards, or instead when the context has ended. */
static void drop_import_free(void *argument) {
  struct pool_import *import = argument;
  if (!import->ended)
    run_import_free(import);
  free(import);
}

CUresult pool_import_free_later(struct pool_hold *hold, CUstream stream) {
  struct pool_import *import = SIM_CONTAINER_OF(hold, struct pool_import, hold);
  bool twice = import->freeing;
  import->freeing = true;
  pool_unlock(); /* the stream may be full, and then waits for work that needs the pool */
  if (twice)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_stream_local(stream, SG_ENGINE_NONE, 0, run_import_free, drop_import_free, import);
  if (result != CUDA_SUCCESS) {
    pool_lock();
    import->freeing = false;
    pool_unlock();
  }
  return result;
}

void pool_imports_forget_context(CUcontext context) {
  for (struct pool_import *each = imports, *next; each; each = next) {
    next = each->next;
    if (each->context != context || each->freeing)
      continue;
    end_import(each);
    free(each);
  }
}
