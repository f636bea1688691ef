/* cuda_attributes.c - cuDeviceGetAttribute: constants of an architecture, and what the profile says.
 *
 * Per-architecture figures: CUDA C++ Programming Guide, appendix "Compute Capabilities".
 */
#include "cuda_internal.h"

#include "cuda_process.h"

struct architecture {
  unsigned cc; /* from this compute capability on (10 * major + minor) */
  int shared_per_sm, shared_per_block_optin; /* bytes */
  int blocks_per_sm;
};

static const struct architecture architectures[] = {
    {120, 100 << 10, 99 << 10, 24},  {100, 228 << 10, 227 << 10, 32}, {90, 228 << 10, 227 << 10, 32},
    {89, 100 << 10, 99 << 10, 24},   {87, 164 << 10, 163 << 10, 16},  {86, 100 << 10, 99 << 10, 16},
    {80, 164 << 10, 163 << 10, 32},  {75, 64 << 10, 64 << 10, 16},    {70, 96 << 10, 96 << 10, 32},
    {60, 64 << 10, 48 << 10, 32},    {0, 96 << 10, 48 << 10, 32},
};

static const struct architecture *architecture_of(const struct sg_card_info *info) {
  const struct architecture *each = architectures;
  while (info->cc_major * 10 + info->cc_minor < each->cc)
    each++;
  return each;
}

/* The same on every card that is modelled. What is not here and not below answers 0: a feature that
 * is not modelled is not offered. */
#define SIM_CONSTANT_ATTRIBUTES(X) \
  X(MAX_THREADS_PER_BLOCK, 1024) \
  X(MAX_BLOCK_DIM_X, 1024) \
  X(MAX_BLOCK_DIM_Y, 1024) \
  X(MAX_BLOCK_DIM_Z, 64) \
  X(MAX_GRID_DIM_X, 0x7fffffff) \
  X(MAX_GRID_DIM_Y, 65535) \
  X(MAX_GRID_DIM_Z, 65535) \
  X(MAX_SHARED_MEMORY_PER_BLOCK, 48 << 10) \
  X(TOTAL_CONSTANT_MEMORY, 64 << 10) \
  X(WARP_SIZE, 32) \
  X(MAX_PITCH, 0x7fffffff) \
  X(MAX_REGISTERS_PER_BLOCK, 65536) \
  X(MAX_REGISTERS_PER_MULTIPROCESSOR, 65536) \
  X(TEXTURE_ALIGNMENT, 512) \
  X(TEXTURE_PITCH_ALIGNMENT, 32) \
  X(SURFACE_ALIGNMENT, 512) \
  X(GPU_OVERLAP, 1) \
  X(CAN_MAP_HOST_MEMORY, 1) \
  X(COMPUTE_MODE, CU_COMPUTEMODE_DEFAULT) \
  X(MAXIMUM_TEXTURE1D_WIDTH, 131072) \
  X(MAXIMUM_TEXTURE2D_WIDTH, 131072) \
  X(MAXIMUM_TEXTURE2D_HEIGHT, 65536) \
  X(MAXIMUM_TEXTURE3D_WIDTH, 16384) \
  X(MAXIMUM_TEXTURE3D_HEIGHT, 16384) \
  X(MAXIMUM_TEXTURE3D_DEPTH, 16384) \
  X(MAXIMUM_TEXTURE2D_LAYERED_WIDTH, 32768) \
  X(MAXIMUM_TEXTURE2D_LAYERED_HEIGHT, 32768) \
  X(MAXIMUM_TEXTURE2D_LAYERED_LAYERS, 2048) \
  X(MAXIMUM_TEXTURE1D_LAYERED_WIDTH, 32768) \
  X(MAXIMUM_TEXTURE1D_LAYERED_LAYERS, 2048) \
  X(MAXIMUM_TEXTURE2D_GATHER_WIDTH, 32768) \
  X(MAXIMUM_TEXTURE2D_GATHER_HEIGHT, 32768) \
  X(MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE, 8192) \
  X(MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE, 8192) \
  X(MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE, 32768) \
  X(MAXIMUM_TEXTURECUBEMAP_WIDTH, 32768) \
  X(MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH, 32768) \
  X(MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS, 2046) \
  X(MAXIMUM_SURFACE1D_WIDTH, 32768) \
  X(MAXIMUM_SURFACE2D_WIDTH, 131072) \
  X(MAXIMUM_SURFACE2D_HEIGHT, 65536) \
  X(MAXIMUM_SURFACE3D_WIDTH, 16384) \
  X(MAXIMUM_SURFACE3D_HEIGHT, 16384) \
  X(MAXIMUM_SURFACE3D_DEPTH, 16384) \
  X(MAXIMUM_SURFACE1D_LAYERED_WIDTH, 32768) \
  X(MAXIMUM_SURFACE1D_LAYERED_LAYERS, 2048) \
  X(MAXIMUM_SURFACE2D_LAYERED_WIDTH, 32768) \
  X(MAXIMUM_SURFACE2D_LAYERED_HEIGHT, 32768) \
  X(MAXIMUM_SURFACE2D_LAYERED_LAYERS, 2048) \
  X(MAXIMUM_SURFACECUBEMAP_WIDTH, 32768) \
  X(MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH, 32768) \
  X(MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS, 2046) \
  X(MAXIMUM_TEXTURE1D_LINEAR_WIDTH, 268435456) \
  X(MAXIMUM_TEXTURE2D_LINEAR_WIDTH, 131072) \
  X(MAXIMUM_TEXTURE2D_LINEAR_HEIGHT, 65000) \
  X(MAXIMUM_TEXTURE2D_LINEAR_PITCH, 2097120) \
  X(MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH, 32768) \
  X(MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT, 32768) \
  X(MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH, 32768) \
  X(CONCURRENT_KERNELS, 1) \
  X(ECC_ENABLED, 1) \
  X(ASYNC_ENGINE_COUNT, 2) \
  X(UNIFIED_ADDRESSING, 1) \
  X(STREAM_PRIORITIES_SUPPORTED, 1) \
  X(GLOBAL_L1_CACHE_SUPPORTED, 1) \
  X(LOCAL_L1_CACHE_SUPPORTED, 1) \
  X(MANAGED_MEMORY, 1) \
  X(CONCURRENT_MANAGED_ACCESS, 1) \
  X(COMPUTE_PREEMPTION_SUPPORTED, 1) \
  X(CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1) \
  X(CAN_USE_STREAM_MEM_OPS_V1, 1) \
  X(CAN_USE_64_BIT_STREAM_MEM_OPS_V1, 1) \
  X(CAN_USE_STREAM_WAIT_VALUE_NOR_V1, 1) \
  X(CAN_USE_64_BIT_STREAM_MEM_OPS, 1) \
  X(CAN_USE_STREAM_WAIT_VALUE_NOR, 1) \
  X(COOPERATIVE_LAUNCH, 1) \
  X(COOPERATIVE_MULTI_DEVICE_LAUNCH, 1) \
  X(HOST_REGISTER_SUPPORTED, 1) \
  X(READ_ONLY_HOST_REGISTER_SUPPORTED, 1) \
  X(VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1) \
  X(HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1) \
  X(MEMORY_POOLS_SUPPORTED, 1) \
  X(MEMPOOL_SUPPORTED_HANDLE_TYPES, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) \
  X(IPC_EVENT_SUPPORTED, 1) \
  X(GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST) \
  X(GPU_DIRECT_RDMA_WRITES_ORDERING, CU_GPU_DIRECT_RDMA_WRITES_ORDERING_ALL_DEVICES) \
  X(MEM_SYNC_DOMAIN_COUNT, 1) \
  X(NUMA_CONFIG, CU_DEVICE_NUMA_CONFIG_NONE) \
  X(NUMA_ID, -1) \
  X(HOST_NUMA_ID, 0)

static bool constant_attribute(CUdevice_attribute attribute, int *value) {
  switch (attribute) {
#define SIM_CASE(name, constant) \
  case CU_DEVICE_ATTRIBUTE_##name: \
    *value = constant; \
    return true;
    SIM_CONSTANT_ATTRIBUTES(SIM_CASE)
#undef SIM_CASE
  default:
    return false;
  }
}

static int profile_attribute(CUdevice_attribute attribute, const struct sg_card_info *info) {
  const struct architecture *architecture = architecture_of(info);
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
    return (int)info->clock_khz;
  case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
    return (int)info->memory_clock_khz;
  case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
    return (int)info->bus_width_bits;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
    return (int)info->sm_count;
  case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
    return (int)info->l2_bytes;
  case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
    return (int)info->max_threads_per_sm;
  case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
    return (int)info->pci_bus;
  case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
    return (int)info->pci_device;
  case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
    return (int)info->pci_domain;
  case CU_DEVICE_ATTRIBUTE_GPU_PCI_DEVICE_ID:
    return (int)info->pci_device_id;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
    return (int)info->cc_major;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
    return (int)info->cc_minor;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
    return architecture->shared_per_sm;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
    return architecture->shared_per_block_optin;
  case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
    return architecture->blocks_per_sm;
  case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
    return info->cc_major >= 8 ? 1024 : 0;
  case CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO:
    return info->cc_minor == 0 && info->cc_major >= 6 ? 2 : info->cc_major >= 8 ? 64 : 32;
  case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH:
    return info->cc_major >= 9;
  default:
    return 0;
  }
}

CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev) {
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (!pi || (int)attrib < 1 || attrib >= CU_DEVICE_ATTRIBUTE_MAX)
    return CUDA_ERROR_INVALID_VALUE;
  if (!constant_attribute(attrib, pi))
    *pi = profile_attribute(attrib, sg_card(card));
  return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice dev) {
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (!major || !minor)
    return CUDA_ERROR_INVALID_VALUE;
  *major = (int)sg_card(card)->cc_major;
  *minor = (int)sg_card(card)->cc_minor;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetProperties(CUdevprop *prop, CUdevice dev) {
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (!prop)
    return CUDA_ERROR_INVALID_VALUE;
  *prop = (CUdevprop){
      .maxThreadsPerBlock = 1024,
      .maxThreadsDim = {1024, 1024, 64},
      .maxGridSize = {0x7fffffff, 65535, 65535},
      .sharedMemPerBlock = 48 << 10,
      .totalConstantMemory = 64 << 10,
      .SIMDWidth = 32,
      .memPitch = 0x7fffffff,
      .regsPerBlock = 65536,
      .clockRate = (int)sg_card(card)->clock_khz,
      .textureAlign = 512,
  };
  return CUDA_SUCCESS;
}
