/* rows_pool.c - rows of rows.c: pools, and what is allocated from them in stream order. */
#include "rows.h"

static const CUmemPoolProps on_card = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                       .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
static CUdeviceptr pointer;
static CUmemoryPool pool;
static CUmemoryPool keeper; /* lives on, so that what it gives back is given back by the row's own call */
static void *row_entry;

/* Back to the pool, which releases at a synchronization what is above its threshold: 0 unless set. */
static CUresult free_in_order(void) {
  TRY(cuMemFreeAsync(pointer, CU_STREAM_LEGACY));
  return cuCtxSynchronize();
}
static CUresult free_ptsz(void) {
  TRY(cuMemFreeAsync_ptsz(pointer, CU_STREAM_PER_THREAD));
  return cuCtxSynchronize();
}

ALLOCATE(cuMemAllocAsync, &pointer, bytes, NULL)
ALLOCATE(cuMemAllocAsync_ptsz, &pointer, bytes, NULL)

/* ---- a pool for one allocation ---- */

static CUresult end_pool(CUresult result) {
  if (result != CUDA_SUCCESS) cuMemPoolDestroy(pool);
  return result;
}
static CUresult free_with_pool(void) {
  TRY(free_in_order());
  return cuMemPoolDestroy(pool);
}
static CUresult free_with_pool_ptsz(void) {
  TRY(free_ptsz());
  return cuMemPoolDestroy(pool);
}

static CUresult cuMemAllocFromPoolAsync_row(void *entry, size_t bytes) {
  TRY(cuMemPoolCreate(&pool, &on_card));
  return end_pool(CALL(cuMemAllocFromPoolAsync, entry, &pointer, bytes, pool, NULL));
}
static CUresult cuMemAllocFromPoolAsync_ptsz_row(void *entry, size_t bytes) {
  TRY(cuMemPoolCreate(&pool, &on_card));
  return end_pool(CALL(cuMemAllocFromPoolAsync_ptsz, entry, &pointer, bytes, pool, NULL));
}
static CUresult cuMemPoolCreate_row(void *entry, size_t bytes) {
  TRY(CALL(cuMemPoolCreate, entry, &pool, &on_card));
  return end_pool(cuMemAllocFromPoolAsync(&pointer, bytes, pool, NULL));
}

/* ---- the pool of the device ---- */

static CUresult restore_default(void) {
  CUmemoryPool own;
  TRY(cuDeviceGetDefaultMemPool(&own, 0));
  return cuDeviceSetMemPool(0, own);
}
static CUresult cuDeviceSetMemPool_row(void *entry, size_t bytes) {
  TRY(cuMemPoolCreate(&pool, &on_card));
  TRY(end_pool(CALL(cuDeviceSetMemPool, entry, 0, pool)));
  CUresult result = cuMemAllocAsync(&pointer, bytes, NULL);
  if (result != CUDA_SUCCESS) restore_default();
  return end_pool(result);
}
static CUresult free_device_pool(void) {
  TRY(restore_default());
  return free_with_pool();
}

/* ---- pools that keep what is freed ---- */

static CUresult make_keeper(void) { return keeper ? CUDA_SUCCESS : cuMemPoolCreate(&keeper, &on_card); }

static CUresult fill_keeper(size_t bytes) {
  TRY(cuMemAllocFromPoolAsync(&pointer, bytes, keeper, NULL));
  return free_in_order();
}
static CUresult cuMemPoolSetAttribute_row(void *entry, size_t bytes) {
  cuuint64_t threshold = UINT64_MAX;
  row_entry = entry;
  TRY(make_keeper());
  TRY(CALL(cuMemPoolSetAttribute, entry, keeper, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  return fill_keeper(bytes);
}
static CUresult lower_threshold(void) {
  cuuint64_t threshold = 0;
  TRY(CALL(cuMemPoolSetAttribute, row_entry, keeper, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  return cuCtxSynchronize();
}
static CUresult cuMemPoolTrimTo_row(void *entry, size_t bytes) {
  cuuint64_t threshold = UINT64_MAX;
  row_entry = entry;
  TRY(make_keeper());
  TRY(cuMemPoolSetAttribute(keeper, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  return fill_keeper(bytes);
}
static CUresult trim(void) { return CALL(cuMemPoolTrimTo, row_entry, keeper, 0); }

#define ROW(name, release) {#name, ROW_OWN, name##_row, release}
const struct row pool_rows[] = {
    ROW(cuMemAllocAsync, free_in_order),
    ROW(cuMemAllocAsync_ptsz, free_ptsz),
    ROW(cuMemAllocFromPoolAsync, free_with_pool),
    ROW(cuMemAllocFromPoolAsync_ptsz, free_with_pool_ptsz),
    ROW(cuMemPoolCreate, free_with_pool),
    ROW(cuDeviceSetMemPool, free_device_pool),
    ROW(cuMemPoolSetAttribute, lower_threshold),
    ROW(cuMemPoolTrimTo, trim),
    {0},
};
