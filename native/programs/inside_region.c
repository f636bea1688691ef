/* inside_region.c - reading the three files, as region/reader.py does: with pread, never mapped, and a
 * slot lives while the kernel says that its byte of `locks` is locked. */
#include "inside_region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "say.h"

#define MOUNTED "/.cgpu/tenant" /* model/container.py says why there */
#define STABLE_READS 8          /* a tenant that charges all the time changes its words at each reading */

static int open_file(const struct inside *inside, const char *name) {
  char path[4200];
  snprintf(path, sizeof path, "%s/%s", inside->folder, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) say("region %s: %s: %s", inside->folder, name, strerror(errno));
  return fd;
}

static bool read_at(int fd, void *data, size_t size, off_t offset) {
  size_t length = 0;
  while (length < size) {
    ssize_t got = pread(fd, (char *)data + length, size - length, offset + (off_t)length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    length += (size_t)got;
  }
  return true;
}

/* Reads one whole file and checks its header; both files begin alike. */
static bool read_file(const struct inside *inside, const char *name, int fd, void *data, size_t size, uint64_t magic) {
  const struct cgpu_grants_header *header = data;
  if (!read_at(fd, data, size, 0)) return say("region %s/%s: truncated", inside->folder, name), false;
  if (header->magic != magic) return say("region %s/%s: not a region file", inside->folder, name), false;
  if (header->major == CGPU_REGION_MAJOR) return true;
  say("region %s/%s: layout version %u, known is %u", inside->folder, name, header->major, CGPU_REGION_MAJOR);
  return false;
}

/* Reads slots until the accounts before and after agree: then it is a state that the tenant was in. */
static bool read_usage(struct inside *inside, int fd) {
  struct cgpu_usage *usage = &inside->usage;
  struct cgpu_usage_gpu after[CGPU_MAX_GPUS];
  for (int i = 0; i < STABLE_READS; i++) {
    if (!read_file(inside, "usage", fd, usage, sizeof *usage, CGPU_USAGE_MAGIC)) return false;
    if (!read_at(fd, after, sizeof after, offsetof(struct cgpu_usage, gpu))) return false;
    bool same = true;
    for (unsigned row = 0; row < CGPU_MAX_GPUS; row++) same = same && after[row].account == usage->gpu[row].account;
    if (same) break;
  }
  return true;
}

static bool read_locks(struct inside *inside, int fd) {
  for (unsigned slot = 0; slot < CGPU_MAX_SLOTS && slot < inside->usage.header.slots_seen; slot++) {
    if (inside->usage.slot[slot].header.state == CGPU_SLOT_FREE) continue;
    struct flock query = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &query) != 0)
      return say("region %s: locks: %s", inside->folder, strerror(errno)), false;
    inside->alive[slot] = query.l_type != F_UNLCK;
  }
  return true;
}

bool inside_read(struct inside *inside) {
  const char *named = getenv("CGPU_REGION"), *state = getenv("CGPU_SIM_STATE");
  inside->folder = access(MOUNTED, F_OK) == 0 ? MOUNTED : named;
  inside->simulated = state && *state;
  if (!inside->folder || !*inside->folder) {
    say("this is no tenant of cgpu: there is neither %s nor CGPU_REGION", MOUNTED);
    return false;
  }
  int grants = open_file(inside, "grants"), usage = open_file(inside, "usage"), locks = open_file(inside, "locks");
  bool good = grants >= 0 && usage >= 0 && locks >= 0 &&
              read_file(inside, "grants", grants, &inside->grants, sizeof inside->grants, CGPU_GRANTS_MAGIC) &&
              read_usage(inside, usage) && read_locks(inside, locks);
  if (grants >= 0) close(grants);
  if (usage >= 0) close(usage);
  if (locks >= 0) close(locks);
  inside->grants.header.tenant_id[sizeof inside->grants.header.tenant_id - 1] = 0;
  inside->grants.header.tenant_name[sizeof inside->grants.header.tenant_name - 1] = 0;
  return good;
}

uint64_t inside_account(const struct inside *inside, unsigned row) {
  return (inside->usage.gpu[row].account >> (CGPU_ACCOUNT_SEQ_BITS + CGPU_ACCOUNT_SLOT_BITS)) * CGPU_UNIT_BYTES;
}

uint64_t inside_charge(const struct inside *inside, unsigned slot, unsigned row) {
  const uint64_t charge_seq = (1ull << CGPU_CHARGE_SEQ_BITS) - 1, account_seq = (1ull << CGPU_ACCOUNT_SEQ_BITS) - 1;
  uint64_t account = inside->usage.gpu[row].account, charge = inside->usage.slot[slot].gpu[row].charge;
  uint64_t intent = inside->usage.slot[slot].gpu[row].intent, following = (charge + 1) & charge_seq;
  uint64_t named = account >> CGPU_ACCOUNT_SEQ_BITS & ((1u << CGPU_ACCOUNT_SLOT_BITS) - 1);
  int64_t units = (int64_t)(charge >> CGPU_CHARGE_SEQ_BITS);
  /* The operation that account names has happened, although nobody completed it in the charge yet. */
  if (named == slot && (intent & charge_seq) == following && (account & account_seq) == (following & account_seq))
    units += (int64_t)intent >> CGPU_CHARGE_SEQ_BITS;
  return units > 0 ? (uint64_t)units * CGPU_UNIT_BYTES : 0;
}
