/* Handles and identity of the devices. The index of a device is the card's number in the profile. */
#include "nvml_sim.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

struct nvmlDevice_st {
  char reserved; /* a handle is an address in this array; nothing needs to be stored behind it */
};
static struct nvmlDevice_st devices[SG_MAX_CARDS];

nvmlDevice_t sn_device(int card) { return &devices[card]; }

int sn_card_of(nvmlDevice_t device) {
  for (int card = 0; card < sg_machine()->cards; card++)
    if (device == &devices[card]) return card;
  return -1;
}

/* ---- texts that name a card ---- */

static void uuid_text(int card, char text[NVML_DEVICE_UUID_BUFFER_SIZE]) {
  const uint8_t *u = sg_card(card)->uuid;
  snprintf(text, NVML_DEVICE_UUID_BUFFER_SIZE,
           "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3], u[4],
           u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

/* Profiles give no serial number; thirteen digits as on real boards are made of the whole UUID. */
static void serial_text(int card, char text[NVML_DEVICE_SERIAL_BUFFER_SIZE]) {
  unsigned long long digits = 0;
  for (int i = 0; i < 16; i++) digits = (digits * 257 + sg_card(card)->uuid[i]) % 1000000000000ull;
  snprintf(text, NVML_DEVICE_SERIAL_BUFFER_SIZE, "1%012llu", digits);
}

static void bus_text(int card, char text[NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE]) {
  const struct sg_card_info *info = sg_card(card);
  snprintf(text, NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE, "%08X:%02X:%02X.0", info->pci_domain, info->pci_bus,
           info->pci_device);
}

/* ---- handles ---- */

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
  nvmlReturn_t result = sn_enter_library(count);
  if (result == NVML_SUCCESS) *count = (unsigned)sg_machine()->cards;
  return result;
}
nvmlReturn_t nvmlDeviceGetCount(unsigned int *count) { return nvmlDeviceGetCount_v2(count); }

/* Gives the handle, unless the card has fallen off the bus. */
static nvmlReturn_t give_handle(int card, nvmlDevice_t *device) {
  if (sg_card_lost(card)) return NVML_ERROR_GPU_IS_LOST;
  *device = sn_device(card);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
  nvmlReturn_t result = sn_enter_library(device);
  if (result != NVML_SUCCESS) return result;
  if (index >= (unsigned)sg_machine()->cards) return NVML_ERROR_INVALID_ARGUMENT;
  return give_handle((int)index, device);
}
nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device) {
  return nvmlDeviceGetHandleByIndex_v2(index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
  nvmlReturn_t result = sn_enter_library(device);
  if (result != NVML_SUCCESS) return result;
  if (!uuid) return NVML_ERROR_INVALID_ARGUMENT;
  for (int card = 0; card < sg_machine()->cards; card++) {
    char text[NVML_DEVICE_UUID_BUFFER_SIZE];
    uuid_text(card, text);
    if (strcasecmp(text, uuid) == 0) return give_handle(card, device);
  }
  return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device) {
  nvmlReturn_t result = sn_enter_library(device);
  if (result != NVML_SUCCESS) return result;
  if (!uuid) return NVML_ERROR_INVALID_ARGUMENT;
  if (uuid->version != nvmlUUID_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  if (uuid->type == NVML_UUID_TYPE_ASCII) {
    char text[sizeof uuid->value.str + 1];
    snprintf(text, sizeof text, "%.*s", (int)sizeof uuid->value.str, uuid->value.str);
    return nvmlDeviceGetHandleByUUID(text, device);
  }
  if (uuid->type != NVML_UUID_TYPE_BINARY) return NVML_ERROR_INVALID_ARGUMENT;
  for (int card = 0; card < sg_machine()->cards; card++)
    if (memcmp(uuid->value.bytes, sg_card(card)->uuid, sizeof uuid->value.bytes) == 0) return give_handle(card, device);
  return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device) {
  nvmlReturn_t result = sn_enter_library(device);
  if (result != NVML_SUCCESS) return result;
  if (!serial) return NVML_ERROR_INVALID_ARGUMENT;
  for (int card = 0; card < sg_machine()->cards; card++) {
    char text[NVML_DEVICE_SERIAL_BUFFER_SIZE];
    serial_text(card, text);
    if (strcmp(text, serial) == 0) return give_handle(card, device);
  }
  return NVML_ERROR_NOT_FOUND;
}

/* The domain may be left out, and the function number too: "0000:3b:00.0", "3b:00.0", "3b:00". */
nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *device) {
  nvmlReturn_t result = sn_enter_library(device);
  if (result != NVML_SUCCESS) return result;
  if (!id) return NVML_ERROR_INVALID_ARGUMENT;
  unsigned domain = 0, bus, slot;
  if (sscanf(id, "%x:%x:%x", &domain, &bus, &slot) != 3) {
    domain = 0;
    if (sscanf(id, "%x:%x", &bus, &slot) != 2) return NVML_ERROR_INVALID_ARGUMENT;
  }
  for (int card = 0; card < sg_machine()->cards; card++) {
    const struct sg_card_info *info = sg_card(card);
    if (info->pci_domain == domain && info->pci_bus == bus && info->pci_device == slot) return give_handle(card, device);
  }
  return NVML_ERROR_NOT_FOUND;
}
nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *id, nvmlDevice_t *device) {
  return nvmlDeviceGetHandleByPciBusId_v2(id, device);
}

/* ---- identity ---- */

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
  SN_ENTER(card, device, name);
  return sn_copy_text(sg_card(card)->name, name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
  SN_ENTER(card, device, uuid);
  char text[NVML_DEVICE_UUID_BUFFER_SIZE];
  uuid_text(card, text);
  return sn_copy_text(text, uuid, length);
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length) {
  SN_ENTER(card, device, serial);
  char text[NVML_DEVICE_SERIAL_BUFFER_SIZE];
  serial_text(card, text);
  return sn_copy_text(text, serial, length);
}

/* The one line of `nvidia-smi -q` that is free to say what the card is. */
nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, unsigned int length) {
  SN_ENTER(card, device, version);
  (void)card;
  return sn_copy_text("simulated", version, length);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
  SN_ENTER(card, device, index);
  *index = (unsigned)card;
  return NVML_SUCCESS;
}

/* N of /dev/nvidiaN. */
nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor) { return nvmlDeviceGetIndex(device, minor); }

/* Boards carry one GPU each; their identifier is the GPU's place on the bus. */
nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t device, unsigned int *board) {
  SN_ENTER(card, device, board);
  const struct sg_card_info *info = sg_card(card);
  *board = info->pci_domain << 16 | info->pci_bus << 8 | info->pci_device << 3;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t device, unsigned int *multi) {
  SN_ENTER(card, device, multi);
  *multi = 0;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t device1, nvmlDevice_t device2, int *same) {
  SN_ENTER(card1, device1, same);
  SN_ENTER(card2, device2, same);
  *same = card1 == card2;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *brand) {
  SN_ENTER(card, device, brand);
  static const struct {
    const char *word;
    nvmlBrandType_t brand;
  } brands[] = {
      {"GeForce RTX", NVML_BRAND_GEFORCE_RTX}, {"GeForce", NVML_BRAND_GEFORCE}, {"TITAN", NVML_BRAND_TITAN},
      {"Quadro RTX", NVML_BRAND_QUADRO_RTX},   {"Quadro", NVML_BRAND_QUADRO},   {"Tesla", NVML_BRAND_TESLA},
  };
  *brand = NVML_BRAND_NVIDIA;
  for (size_t i = 0; i < sizeof brands / sizeof *brands; i++) {
    if (strstr(sg_card(card)->name, brands[i].word)) {
      *brand = brands[i].brand;
      break;
    }
  }
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
  SN_ENTER(card, device, major && minor ? major : NULL);
  *major = (int)sg_card(card)->cc_major;
  *minor = (int)sg_card(card)->cc_minor;
  return NVML_SUCCESS;
}

/* NVIDIA's table of compute capabilities, CUDA C++ Programming Guide, "Compute Capabilities". */
nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *architecture) {
  SN_ENTER(card, device, architecture);
  switch (sg_card(card)->cc_major * 10 + sg_card(card)->cc_minor) {
    case 60: case 61: case 62: *architecture = NVML_DEVICE_ARCH_PASCAL; break;
    case 70: case 72: *architecture = NVML_DEVICE_ARCH_VOLTA; break;
    case 75: *architecture = NVML_DEVICE_ARCH_TURING; break;
    case 80: case 86: case 87: *architecture = NVML_DEVICE_ARCH_AMPERE; break;
    case 89: *architecture = NVML_DEVICE_ARCH_ADA; break;
    case 90: *architecture = NVML_DEVICE_ARCH_HOPPER; break;
    case 100: case 101: case 103: case 110: case 120: case 121: *architecture = NVML_DEVICE_ARCH_BLACKWELL; break;
    default: *architecture = NVML_DEVICE_ARCH_UNKNOWN;
  }
  return NVML_SUCCESS;
}

/* FP32 lanes per SM, from the same guide, "Arithmetic Instructions". */
nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *cores) {
  SN_ENTER(card, device, cores);
  const struct sg_card_info *info = sg_card(card);
  unsigned version = info->cc_major * 10 + info->cc_minor;
  bool narrow = version == 60 || (version >= 70 && version <= 80);
  *cores = info->sm_count * (narrow ? 64 : 128);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned int *bits) {
  SN_ENTER(card, device, bits);
  *bits = sg_card(card)->bus_width_bits;
  return NVML_SUCCESS;
}

/* ---- PCI ---- */

/* Fills the first `size` bytes: the versions of the structure only ever grew at the end, but for the
 * legacy bus id in front, which they share. */
static void fill_pci(int card, nvmlPciInfo_t *pci, size_t size) {
  const struct sg_card_info *info = sg_card(card);
  nvmlPciInfo_t all = {.domain = info->pci_domain, .bus = info->pci_bus, .device = info->pci_device,
                       .pciDeviceId = info->pci_device_id};
  bus_text(card, all.busId);
  memcpy(all.busIdLegacy, all.busId + 4, sizeof all.busIdLegacy - 1); /* a domain of 16 bits */
  memcpy(pci, &all, size);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
  SN_ENTER(card, device, pci);
  fill_pci(card, pci, sizeof *pci);
  return NVML_SUCCESS;
}
/* busId came with v3, pciSubSystemId with v2 (NVML 2.285). */
nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci) {
  SN_ENTER(card, device, pci);
  fill_pci(card, pci, offsetof(nvmlPciInfo_t, busId));
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci) {
  SN_ENTER(card, device, pci);
  fill_pci(card, pci, offsetof(nvmlPciInfo_t, pciSubSystemId));
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t *pci) {
  SN_ENTER(card, device, pci);
  if (pci->version != nvmlPciInfoExt_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  const struct sg_card_info *info = sg_card(card);
  pci->domain = info->pci_domain;
  pci->bus = info->pci_bus;
  pci->device = info->pci_device;
  pci->pciDeviceId = info->pci_device_id;
  pci->pciSubSystemId = 0;
  pci->baseClass = 0x03; /* display controller */
  pci->subClass = 0x02;  /* 3D controller */
  bus_text(card, pci->busId);
  return NVML_SUCCESS;
}
