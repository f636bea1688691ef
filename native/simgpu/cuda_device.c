/* cuda_device.c - the devices that this process sees, and relations between two of them. */
#include "cuda_internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "cuda_process.h"

CUresult cuDeviceGetCount(int *count) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!count)
    return CUDA_ERROR_INVALID_VALUE;
  *count = sim_device_count();
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  int card;
  CUresult result = sim_device_card(ordinal, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (!device)
    return CUDA_ERROR_INVALID_VALUE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int len, CUdevice dev) {
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (!name || len <= 0)
    return CUDA_ERROR_INVALID_VALUE;
  snprintf(name, (size_t)len, "%s", sg_card(card)->name);
  return CUDA_SUCCESS;
}

static CUresult get_uuid(CUuuid *uuid, CUdevice device) {
  int card;
  CUresult result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (!uuid)
    return CUDA_ERROR_INVALID_VALUE;
  memcpy(uuid->bytes, sg_card(card)->uuid, sizeof uuid->bytes);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice dev) { return get_uuid(uuid, dev); }
CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev) { return get_uuid(uuid, dev); }

/* LUIDs exist on Windows only. */
CUresult cuDeviceGetLuid(char *luid, unsigned int *deviceNodeMask, CUdevice dev) {
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result != CUDA_SUCCESS)
    return result;
  return luid && deviceNodeMask ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_INVALID_VALUE;
}

static CUresult total_memory(CUdevice device, uint64_t *bytes) {
  int card;
  CUresult result = sim_device_card(device, &card);
  if (result == CUDA_SUCCESS)
    *bytes = sim_usable_bytes(card);
  return result;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev) {
  uint64_t total;
  CUresult result = total_memory(dev, &total);
  if (result == CUDA_SUCCESS && !bytes)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *bytes = total;
  return result;
}

CUresult cuDeviceTotalMem(unsigned int *bytes, CUdevice dev) {
  uint64_t total;
  CUresult result = total_memory(dev, &total);
  if (result == CUDA_SUCCESS && !bytes)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    *bytes = total > UINT32_MAX ? UINT32_MAX : (unsigned)total;
  return result;
}

/* ---- PCI ---- */

CUresult cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev) {
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (!pciBusId || len <= 0)
    return CUDA_ERROR_INVALID_VALUE;
  const struct sg_card_info *info = sg_card(card);
  snprintf(pciBusId, (size_t)len, "%04x:%02x:%02x.0", info->pci_domain, info->pci_bus, info->pci_device);
  return CUDA_SUCCESS;
}

/* "domain:bus:device.function", "domain:bus:device" or "bus:device.function", hexadecimal. */
CUresult cuDeviceGetByPCIBusId(CUdevice *dev, const char *pciBusId) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!dev || !pciBusId)
    return CUDA_ERROR_INVALID_VALUE;
  unsigned domain = 0, bus, device, function = 0;
  if (sscanf(pciBusId, "%x:%x:%x.%x", &domain, &bus, &device, &function) < 3) {
    domain = 0;
    if (sscanf(pciBusId, "%x:%x.%x", &bus, &device, &function) < 2)
      return CUDA_ERROR_INVALID_VALUE;
  }
  for (int each = 0; each < sim_device_count(); each++) {
    int card;
    sim_device_card(each, &card);
    const struct sg_card_info *info = sg_card(card);
    if (info->pci_domain == domain && info->pci_bus == bus && info->pci_device == device && function == 0) {
      *dev = each;
      return CUDA_SUCCESS;
    }
  }
  return CUDA_ERROR_INVALID_DEVICE;
}

/* ---- pairs of devices: all cards of a simulated machine reach each other ---- */

static CUresult pair(CUdevice first, CUdevice second) {
  int card;
  CUresult result = sim_device_card(first, &card);
  return result == CUDA_SUCCESS ? sim_device_card(second, &card) : result;
}

CUresult cuDeviceCanAccessPeer(int *canAccessPeer, CUdevice dev, CUdevice peerDev) {
  CUresult result = pair(dev, peerDev);
  if (result != CUDA_SUCCESS)
    return result;
  if (!canAccessPeer)
    return CUDA_ERROR_INVALID_VALUE;
  *canAccessPeer = dev != peerDev;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attrib, CUdevice srcDevice, CUdevice dstDevice) {
  CUresult result = pair(srcDevice, dstDevice);
  if (result != CUDA_SUCCESS)
    return result;
  if (!value)
    return CUDA_ERROR_INVALID_VALUE;
  if (srcDevice == dstDevice)
    return CUDA_ERROR_INVALID_DEVICE;
  switch (attrib) {
  case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED:
  case CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED:
    *value = 1;
    return CUDA_SUCCESS;
  case CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK:
  case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED:
    *value = 0;
    return CUDA_SUCCESS;
  default:
    return CUDA_ERROR_INVALID_VALUE;
  }
}

/* ---- other properties ---- */

CUresult cuDeviceGetExecAffinitySupport(int *pi, CUexecAffinityType type, CUdevice dev) {
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (!pi || (unsigned)type >= CU_EXEC_AFFINITY_TYPE_MAX)
    return CUDA_ERROR_INVALID_VALUE;
  *pi = 0;
  return CUDA_SUCCESS;
}

static unsigned format_bytes(CUarray_format format) {
  switch (format) {
  case CU_AD_FORMAT_UNSIGNED_INT8:
  case CU_AD_FORMAT_SIGNED_INT8:
    return 1;
  case CU_AD_FORMAT_UNSIGNED_INT16:
  case CU_AD_FORMAT_SIGNED_INT16:
  case CU_AD_FORMAT_HALF:
    return 2;
  case CU_AD_FORMAT_UNSIGNED_INT32:
  case CU_AD_FORMAT_SIGNED_INT32:
  case CU_AD_FORMAT_FLOAT:
    return 4;
  default:
    return 0;
  }
}

/* The texture unit addresses 2^28 elements, and a linear texture at most 2^32 bytes. */
CUresult cuDeviceGetTexture1DLinearMaxWidth(size_t *maxWidthInElements, CUarray_format format, unsigned numChannels,
                                            CUdevice dev) {
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result != CUDA_SUCCESS)
    return result;
  unsigned bytes = format_bytes(format) * numChannels;
  if (!maxWidthInElements || !bytes || (numChannels != 1 && numChannels != 2 && numChannels != 4))
    return CUDA_ERROR_INVALID_VALUE;
  uint64_t width = (1ull << 32) / bytes;
  *maxWidthInElements = width < (1ull << 28) ? width : 1ull << 28;
  return CUDA_SUCCESS;
}
