/* cuda_init.c - cuInit, versions, which cards this process sees, and fork. */
#include "cuda_internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cuda_process.h"

enum process_state { STATE_NEW, STATE_READY, STATE_FORKED };

static pthread_mutex_t process_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int state;
static _Atomic uint64_t last_id;
static int visible[SG_MAX_CARDS], visible_count;

void sim_lock(void) { pthread_mutex_lock(&process_lock); }
void sim_unlock(void) { pthread_mutex_unlock(&process_lock); }
uint64_t sim_next_id(void) { return atomic_fetch_add(&last_id, 1) + 1; }

static double speed(int card) {
  const struct sg_card_info *info = sg_card(card);
  return (double)info->sm_count * info->clock_khz;
}

static uint64_t bus_order(int card) {
  const struct sg_card_info *info = sg_card(card);
  return ((uint64_t)info->pci_domain << 32) | (info->pci_bus << 8) | info->pci_device;
}

/* CUDA_DEVICE_ORDER: FASTEST_FIRST (the default) or PCI_BUS_ID; equal cards stay in bus order. */
static void order_cards(int *cards, int count) {
  const char *order = getenv("CUDA_DEVICE_ORDER");
  bool by_bus = order && !strcmp(order, "PCI_BUS_ID");
  for (int i = 1; i < count; i++) {
    int card = cards[i], at = i;
    for (; at > 0; at--) {
      int before = cards[at - 1];
      bool swap = by_bus || speed(card) == speed(before) ? bus_order(card) < bus_order(before)
                                                        : speed(card) > speed(before);
      if (!swap)
        break;
      cards[at] = before;
    }
    cards[at] = card;
  }
}

void sim_uuid_text(const uint8_t *uuid, char text[41]) {
  static const char digits[] = "0123456789abcdef";
  char *out = text;
  memcpy(out, "GPU-", 4);
  out += 4;
  for (int i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10)
      *out++ = '-';
    *out++ = digits[uuid[i] >> 4];
    *out++ = digits[uuid[i] & 15];
  }
  *out = 0;
}

/* One entry of CUDA_VISIBLE_DEVICES: an index in the device order, or an unambiguous beginning of a
 * UUID. Answers the position in `cards`, or -1. */
static int match_entry(const char *entry, size_t length, const int *cards, int count) {
  if (length > 4 && !strncasecmp(entry, "GPU-", 4)) {
    int found = -1;
    for (int i = 0; i < count; i++) {
      char uuid[41];
      sim_uuid_text(sg_card(cards[i])->uuid, uuid);
      if (length <= 40 && !strncasecmp(uuid, entry, length)) {
        if (found >= 0)
          return -1;
        found = i;
      }
    }
    return found;
  }
  int index = 0;
  for (size_t i = 0; i < length; i++) {
    if (entry[i] < '0' || entry[i] > '9' || index > count)
      return -1;
    index = index * 10 + (entry[i] - '0');
  }
  return length && index < count ? index : -1;
}

/* The list ends at its first invalid entry; a list that names a card twice leaves none (CUDA C++
 * Programming Guide, "CUDA Environment Variables"). */
static void choose_visible(void) {
  int cards[SG_MAX_CARDS], count = sg_machine()->cards;
  for (int i = 0; i < count; i++)
    cards[i] = i;
  order_cards(cards, count);
  const char *list = getenv("CUDA_VISIBLE_DEVICES");
  if (!list) {
    memcpy(visible, cards, sizeof cards);
    visible_count = count;
    return;
  }
  visible_count = 0;
  for (const char *entry = list; entry;) {
    const char *comma = strchr(entry, ',');
    const char *end = comma ? comma : entry + strlen(entry);
    while (entry < end && *entry == ' ')
      entry++;
    while (end > entry && end[-1] == ' ')
      end--;
    int position = match_entry(entry, (size_t)(end - entry), cards, count);
    if (position < 0)
      return;
    for (int i = 0; i < visible_count; i++)
      if (visible[i] == cards[position]) {
        visible_count = 0;
        return;
      }
    visible[visible_count++] = cards[position];
    entry = comma ? comma + 1 : NULL;
  }
}

/* The child has the parent's memory but neither its driver thread nor its place on the machine. */
static void after_fork_in_child(void) {
  if (atomic_load(&state) == STATE_READY)
    atomic_store(&state, STATE_FORKED);
}

static CUresult first_init(void) {
  int joined = sg_join();
  if (joined != SG_OK)
    return sim_result(joined);
  choose_visible();
  if (visible_count == 0)
    return CUDA_ERROR_NO_DEVICE;
  CUresult result = sim_address_space_open();
  if (result != CUDA_SUCCESS)
    return result;
  if (pthread_atfork(NULL, NULL, after_fork_in_child) != 0)
    return CUDA_ERROR_OUT_OF_MEMORY;
  atomic_store(&state, STATE_READY);
  return CUDA_SUCCESS;
}

CUresult cuInit(unsigned int Flags) {
  if (Flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (atomic_load(&state) == STATE_FORKED)
    return CUDA_ERROR_NOT_INITIALIZED;
  pthread_mutex_lock(&init_lock);
  CUresult result = atomic_load(&state) == STATE_READY ? CUDA_SUCCESS : first_init();
  pthread_mutex_unlock(&init_lock);
  return result;
}

CUresult sim_ready(void) {
  if (atomic_load(&state) != STATE_READY)
    return CUDA_ERROR_NOT_INITIALIZED;
  return sim_in_callback() ? CUDA_ERROR_NOT_PERMITTED : CUDA_SUCCESS;
}

bool sim_forked(void) { return atomic_load(&state) == STATE_FORKED; }

int sim_cuda_version(void) { return sg_machine()->cuda_version; }

CUresult cuDriverGetVersion(int *driverVersion) {
  if (!driverVersion)
    return CUDA_ERROR_INVALID_VALUE;
  int joined = sim_forked() ? SG_OK : sg_join();
  if (joined != SG_OK)
    return sim_result(joined);
  *driverVersion = sim_cuda_version();
  return CUDA_SUCCESS;
}

int sim_device_count(void) { return visible_count; }

CUresult sim_device_card(CUdevice device, int *card) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (device < 0 || device >= visible_count)
    return CUDA_ERROR_INVALID_DEVICE;
  *card = visible[device];
  return CUDA_SUCCESS;
}

CUdevice sim_card_device(int card) {
  for (int i = 0; i < visible_count; i++)
    if (visible[i] == card)
      return i;
  return -1;
}
