/* contexts.c - devices, errors, contexts and their end. */
#include <pthread.h>

#include "check.h"

void check_devices(void) {
  int count, value, major, minor;
  char name[64], bus[32];
  CUdevice device;
  CUuuid uuid;
  size_t total;
  RESULT(cuInit(1), CUDA_ERROR_INVALID_VALUE);
  OK(cuDeviceGetCount(&count));
  REQUIRE(count == 2);
  OK(cuDeviceGet(&device, 1));
  RESULT(cuDeviceGet(&device, 2), CUDA_ERROR_INVALID_DEVICE);
  RESULT(cuDeviceGet(&device, -1), CUDA_ERROR_INVALID_DEVICE);
  OK(cuDeviceGetName(name, 5, 0));
  REQUIRE(strlen(name) == 4 && !strncmp(name, sg_card(0)->name, 4));
  OK(cuDeviceGetUuid_v2(&uuid, 1));
  REQUIRE(!memcmp(uuid.bytes, sg_card(1)->uuid, 16));
  OK(cuDeviceTotalMem_v2(&total, 0));
  REQUIRE(total == sg_card(0)->total_bytes - sg_card(0)->reserved_bytes);
  OK(cuDeviceGetPCIBusId(bus, sizeof bus, 1));
  OK(cuDeviceGetByPCIBusId(&device, bus));
  REQUIRE(device == 1);
  RESULT(cuDeviceGetByPCIBusId(&device, "7777:77:77.0"), CUDA_ERROR_INVALID_DEVICE);
  OK(cuDeviceComputeCapability(&major, &minor, 0));
  OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
  REQUIRE(value == major && value == (int)sg_card(0)->cc_major);
  OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
  REQUIRE(value == (int)sg_card(0)->sm_count);
  RESULT(cuDeviceGetAttribute(&value, 0, 0), CUDA_ERROR_INVALID_VALUE);
  OK(cuDeviceCanAccessPeer(&value, 0, 1));
  REQUIRE(value == 1);
}

void check_errors(void) {
  const char *text;
  OK(cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &text));
  REQUIRE(!strcmp(text, "CUDA_ERROR_OUT_OF_MEMORY"));
  OK(cuGetErrorString(CUDA_ERROR_INVALID_VALUE, &text));
  REQUIRE(!strcmp(text, "invalid argument"));
  RESULT(cuGetErrorName((CUresult)12345, &text), CUDA_ERROR_INVALID_VALUE);
  REQUIRE(text == NULL);
}

void check_context_stack(void) {
  CUcontext first, second, got;
  CUdevice device;
  size_t limit;
  RESULT(cuCtxGetDevice(&device), CUDA_ERROR_INVALID_CONTEXT);
  OK(cuCtxGetCurrent(&got));
  REQUIRE(got == NULL);
  RESULT(cuCtxPopCurrent_v2(&got), CUDA_ERROR_INVALID_CONTEXT);
  first = use_device(0);
  second = use_device(1);
  OK(cuCtxGetDevice(&device));
  REQUIRE(device == 1);
  OK(cuCtxPopCurrent_v2(&got));
  REQUIRE(got == second);
  OK(cuCtxGetDevice(&device));
  REQUIRE(device == 0);
  OK(cuCtxSetCurrent(second)); /* replaces the top */
  OK(cuCtxPopCurrent_v2(&got));
  RESULT(cuCtxPopCurrent_v2(&got), CUDA_ERROR_INVALID_CONTEXT);
  OK(cuCtxPushCurrent_v2(first));
  OK(cuCtxPushCurrent_v2(first));
  OK(cuCtxDestroy_v2(first)); /* pops it once; the other entry is stale */
  RESULT(cuCtxGetLimit(&limit, CU_LIMIT_STACK_SIZE), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  RESULT(cuCtxDestroy_v2(first), CUDA_ERROR_INVALID_CONTEXT);
  RESULT(cuCtxPushCurrent_v2(first), CUDA_ERROR_INVALID_CONTEXT);
}

void check_context_end(void) {
  uint64_t before = used_bytes(0);
  CUdeviceptr small, large, managed;
  CUstream stream;
  CUevent event;
  use_device(0);
  uint64_t with_context = used_bytes(0);
  REQUIRE(with_context >= before + sg_card(0)->context_bytes);
  OK(cuMemAlloc_v2(&small, 100));
  OK(cuMemAlloc_v2(&large, 5 * MIB));
  OK(cuMemAllocManaged(&managed, 3 * MIB, CU_MEM_ATTACH_GLOBAL));
  OK(cuStreamCreate(&stream, 0));
  OK(cuEventCreate(&event, 0));
  OK(cuMemsetD8Async(large, 1, 5 * MIB, stream));
  OK(cuEventRecord(event, stream));
  OK(launch(kernel("spin"), stream, MILLISECOND, 0));
  /* slabs of the small block and of the module's code and global, 3 and 2 granules of their own */
  REQUIRE(used_bytes(0) == with_context + 6 * SG_GRANULE_BYTES);
  CUcontext context;
  OK(cuCtxGetCurrent(&context));
  OK(cuCtxDestroy_v2(context));
  REQUIRE(used_bytes(0) == before);
}

void check_primary_context(void) {
  CUcontext first, second;
  unsigned flags;
  int active;
  uint64_t before = used_bytes(1);
  OK(cuDevicePrimaryCtxGetState(1, &flags, &active));
  REQUIRE(!active);
  OK(cuDevicePrimaryCtxSetFlags_v2(1, CU_CTX_SCHED_YIELD));
  OK(cuDevicePrimaryCtxRetain(&first, 1));
  OK(cuDevicePrimaryCtxRetain(&second, 1));
  REQUIRE(first == second);
  OK(cuDevicePrimaryCtxGetState(1, &flags, &active));
  REQUIRE(active && flags == CU_CTX_SCHED_YIELD);
  RESULT(cuDevicePrimaryCtxSetFlags(1, CU_CTX_SCHED_SPIN), CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE);
  RESULT(cuCtxDestroy_v2(first), CUDA_ERROR_INVALID_CONTEXT);
  OK(cuDevicePrimaryCtxRelease_v2(1));
  REQUIRE(used_bytes(1) > before);
  OK(cuCtxSetCurrent(first));
  OK(cuDevicePrimaryCtxRelease_v2(1));
  REQUIRE(used_bytes(1) == before);
  RESULT(cuDevicePrimaryCtxRelease_v2(1), CUDA_ERROR_INVALID_CONTEXT);
  RESULT(cuCtxSynchronize(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  OK(cuDevicePrimaryCtxRetain(&first, 1));
  OK(cuDevicePrimaryCtxReset_v2(1));
  REQUIRE(used_bytes(1) == before);
}

void check_limits(void) {
  size_t value;
  use_device(0);
  uint64_t before = used_bytes(0);
  OK(cuCtxGetLimit(&value, CU_LIMIT_MALLOC_HEAP_SIZE));
  REQUIRE(value == 8 * MIB);
  OK(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 40 * MIB)); /* the heap beyond the default is taken at once */
  REQUIRE(used_bytes(0) == before + 32 * MIB);
  RESULT(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, (size_t)1 << 50), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuCtxGetLimit(&value, CU_LIMIT_MALLOC_HEAP_SIZE));
  REQUIRE(value == 40 * MIB && used_bytes(0) == before + 32 * MIB);
  OK(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, MIB));
  REQUIRE(used_bytes(0) == before);
  RESULT(cuCtxSetLimit((CUlimit)100, 1), CUDA_ERROR_UNSUPPORTED_LIMIT);
}

/* ---- faults ---- */

void check_lost_card(void) {
  CUdeviceptr address;
  use_device(0);
  REQUIRE(sg_fault_set(0, SG_FAULT_LOST, 1) == SG_OK);
  RESULT(cuMemAlloc_v2(&address, 4 * MIB), CUDA_ERROR_DEVICE_UNAVAILABLE);
  RESULT(cuCtxSynchronize(), CUDA_ERROR_DEVICE_UNAVAILABLE);
  use_device(1); /* the other card goes on */
  OK(cuMemAlloc_v2(&address, 4 * MIB));
}

void check_xid(void) {
  CUcontext well, sick = use_device(0);
  CUstream stream = free_stream();
  CUevent event;
  CUdeviceptr word = zeroed_word();
  OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  OK(launch(kernel("hold"), stream, word, 1));
  OK(cuEventRecord(event, stream));
  while (sg_fault_set(0, SG_FAULT_XID, 13) == SG_OK && cuStreamQuery(stream) == CUDA_ERROR_NOT_READY)
    ; /* the kernel may not be on the engine yet */
  RESULT(cuStreamSynchronize(stream), CUDA_ERROR_LAUNCH_FAILED);
  RESULT(cuEventSynchronize(event), CUDA_ERROR_LAUNCH_FAILED);
  RESULT(cuCtxSynchronize(), CUDA_ERROR_LAUNCH_FAILED);
  CUdeviceptr more;
  RESULT(cuMemAlloc_v2(&more, 4), CUDA_ERROR_LAUNCH_FAILED);
  OK(cuCtxDestroy_v2(sick));
  well = use_device(0);
  OK(cuMemAlloc_v2(&more, 4));
  OK(cuCtxDestroy_v2(well));
}

void check_card_out_of_memory(void) {
  CUdeviceptr address;
  use_device(0);
  REQUIRE(sg_fault_set(0, SG_FAULT_OOM, 1) == SG_OK);
  RESULT(cuMemAlloc_v2(&address, 4 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
  OK(cuMemAlloc_v2(&address, 4 * MIB));
}
