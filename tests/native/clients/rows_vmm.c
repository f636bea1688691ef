/* rows_vmm.c - rows of rows.c: physical memory that outlives its handle, because it is mapped or bound. */
#include "rows.h"

static CUmemGenericAllocationHandle handle;
static CUdeviceptr range;
static size_t range_bytes;

static const CUmemAllocationProp on_card = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                            .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};

static CUresult create(size_t bytes) {
  range_bytes = bytes;
  TRY(cuMemCreate(&handle, bytes, &on_card, 0));
  CUresult result = cuMemAddressReserve(&range, bytes, 0, 0, 0);
  if (result != CUDA_SUCCESS) cuMemRelease(handle);
  return result;
}
static CUresult unmap(void) {
  TRY(cuMemUnmap(range, range_bytes));
  return cuMemAddressFree(range, range_bytes);
}

/* Holds by its mapping alone. */
static CUresult cuMemMap_row(void *entry, size_t bytes) {
  TRY(create(bytes));
  TRY(CALL(cuMemMap, entry, range, bytes, 0, handle, 0));
  return cuMemRelease(handle);
}

/* Holds by the handle that the address gives, when the first and the mapping have gone. */
static CUresult cuMemRetainAllocationHandle_row(void *entry, size_t bytes) {
  TRY(create(bytes));
  TRY(cuMemMap(range, bytes, 0, handle, 0));
  TRY(cuMemRelease(handle));
  TRY(CALL(cuMemRetainAllocationHandle, entry, &handle, (void *)(uintptr_t)range));
  return unmap();
}
static CUresult release_retained(void) { return cuMemRelease(handle); }

/* ---- what the simulated driver does not have: binding fails, and the memory goes as it came ---- */

static CUresult unbound(CUresult result) {
  TRY(unmap());
  TRY(cuMemRelease(handle));
  return result;
}
static CUresult create_mapped(size_t bytes) {
  TRY(create(bytes));
  return cuMemMap(range, bytes, 0, handle, 0);
}
#define BIND(name, ...)                                        \
  static CUresult name##_row(void *entry, size_t bytes) {      \
    TRY(create_mapped(bytes));                                 \
    return unbound(CALL(name, entry, __VA_ARGS__));            \
  }
#define SPARSE(handle)                                                                                             \
  &(CUarrayMapInfo) {                                                                                              \
    .memOperationType = CU_MEM_OPERATION_TYPE_MAP, .memHandleType = CU_MEM_HANDLE_TYPE_GENERIC, .memHandle = {handle} \
  }
BIND(cuMemMapArrayAsync, SPARSE(handle), 1, NULL)
BIND(cuMemMapArrayAsync_ptsz, SPARSE(handle), 1, NULL)
BIND(cuMulticastBindMem, 0, 0, handle, 0, bytes, 0)
BIND(cuMulticastBindMem_v2, 0, 0, 0, handle, 0, bytes, 0)
BIND(cuMulticastBindAddr, 0, 0, range, bytes, 0)
BIND(cuMulticastBindAddr_v2, 0, 0, 0, range, bytes, 0)

#define ABSENT(name) {#name, ROW_ABSENT, name##_row, NULL}
const struct row vmm_rows[] = {
    {"cuMemMap", ROW_OWN, cuMemMap_row, unmap},
    {"cuMemRetainAllocationHandle", ROW_OWN, cuMemRetainAllocationHandle_row, release_retained},
    ABSENT(cuMemMapArrayAsync),
    ABSENT(cuMemMapArrayAsync_ptsz),
    ABSENT(cuMulticastBindMem),
    ABSENT(cuMulticastBindMem_v2),
    ABSENT(cuMulticastBindAddr),
    ABSENT(cuMulticastBindAddr_v2),
    {0},
};
