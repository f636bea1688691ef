/* words.c - what regions say of memory and of who holds it, to be compared with what they said before.
 *
 * The agent looks at all tenants twice a second, and most of them hold what they held. To see that takes three
 * readings of each; from Python, whose own code is no longer in the processor's caches then, four times as long.
 */
#include "words.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "region.h"

#define SLOTS_PER_READ 8u

/* Writes the words of so many regions, one after the other: of the grants what the agent has decided; of the usage
 * file accounts, slots, whether their owners live, and what each has charged; not what only tells how work goes.
 * Equal bytes mean that all of that is equal. Of a file that is too short, or cannot be read, that is said instead.
 * Returns how many bytes there are; where that is more than `capacity`, what was written is of no use. */
CGPU_ARBITER_API uint64_t cgpu_arbiter_words(const struct cgpu_arbiter_files *files, unsigned count, void *out,
                                             uint64_t capacity);

void cgpu_words_put(struct cgpu_words *words, const void *data, size_t bytes) {
  if (words->bytes + bytes <= words->capacity) memcpy(words->out + words->bytes, data, bytes);
  words->bytes += bytes;
}

/* The fields of a structure from `first` up to, but without, `end`. */
#define PUT_FIELDS(words, structure, first, end)                                                 \
  cgpu_words_put((words), (const char *)(structure) + offsetof(__typeof__(*(structure)), first), \
                 offsetof(__typeof__(*(structure)), end) - offsetof(__typeof__(*(structure)), first))

static bool read_at(int fd, void *buffer, size_t bytes, size_t offset) {
  ssize_t got = pread(fd, buffer, bytes, (off_t)offset);
  if (got >= 0 && got < (ssize_t)bytes) errno = ENODATA;
  return got == (ssize_t)bytes;
}

static bool put_size(struct cgpu_words *words, int fd) {
  struct stat status;
  if (fstat(fd, &status)) return false;
  cgpu_words_put(words, &status.st_size, sizeof status.st_size);
  return true;
}

static bool put_grants(struct cgpu_words *words, const struct cgpu_arbiter_files *files) {
  struct {
    struct cgpu_grants_header header;
    struct cgpu_grants_gpu gpu[CGPU_MAX_GPUS];
  } head;
  size_t bytes = offsetof(__typeof__(head), gpu) + files->rows * sizeof head.gpu[0];
  if (!put_size(words, files->grants) || !read_at(files->grants, &head, bytes, 0)) return false;
  PUT_FIELDS(words, &head.header, magic, heartbeat_ns);
  PUT_FIELDS(words, &head.header, flags, reserved);
  for (uint32_t row = 0; row < files->rows; row++) {
    PUT_FIELDS(words, &head.gpu[row], uuid, overhead_bytes);
    PUT_FIELDS(words, &head.gpu[row], policy, grant);
    if (words->work) PUT_FIELDS(words, &head.gpu[row], busy_ns, total_bytes);
  }
  return true;
}

static bool lives(int locks, uint32_t slot) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
  return fcntl(locks, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static void put_slot(struct cgpu_words *words, const struct cgpu_arbiter_files *files, const struct cgpu_usage_slot *slot,
                     uint32_t index) {
  cgpu_words_put(words, &slot->header, sizeof slot->header);
  for (uint32_t row = 0; row < files->rows; row++) {
    PUT_FIELDS(words, &slot->gpu[row], charge, gate);
    PUT_FIELDS(words, &slot->gpu[row], contexts, launches);
  }
  uint8_t alive = slot->header.state == CGPU_SLOT_LIVE && lives(files->locks, index);
  cgpu_words_put(words, &alive, sizeof alive);
}

static bool put_slots(struct cgpu_words *words, const struct cgpu_arbiter_files *files, uint32_t seen) {
  struct cgpu_usage_slot slot[SLOTS_PER_READ];
  for (uint32_t first = 0; first < seen; first += SLOTS_PER_READ) {
    uint32_t some = seen - first < SLOTS_PER_READ ? seen - first : SLOTS_PER_READ;
    size_t offset = offsetof(struct cgpu_usage, slot) + first * sizeof slot[0];
    if (!read_at(files->usage, slot, some * sizeof slot[0], offset)) return false;
    for (uint32_t i = 0; i < some; i++) put_slot(words, files, &slot[i], first + i);
  }
  return true;
}

static bool put_usage(struct cgpu_words *words, const struct cgpu_arbiter_files *files) {
  struct {
    struct cgpu_usage_header header;
    struct cgpu_usage_gpu gpu[CGPU_MAX_GPUS];
  } head;
  size_t bytes = offsetof(__typeof__(head), gpu) + files->rows * sizeof head.gpu[0];
  if (!put_size(words, files->usage) || !read_at(files->usage, &head, bytes, 0)) return false;
  PUT_FIELDS(words, &head.header, magic, reserved);
  for (uint32_t row = 0; row < files->rows; row++) PUT_FIELDS(words, &head.gpu[row], account, reserved1);
  uint32_t seen = head.header.slots_seen;
  return put_slots(words, files, seen < CGPU_MAX_SLOTS ? seen : CGPU_MAX_SLOTS);
}

void cgpu_words_put_region(struct cgpu_words *words, const struct cgpu_arbiter_files *files) {
  uint64_t begin = words->bytes;
  int error = put_grants(words, files) && put_usage(words, files) ? 0 : errno;
  cgpu_words_put(words, &error, sizeof error);
  uint64_t bytes = words->bytes - begin; /* so that no region's words can pass for the next one's */
  cgpu_words_put(words, &bytes, sizeof bytes);
}

uint64_t cgpu_arbiter_words(const struct cgpu_arbiter_files *files, unsigned count, void *out, uint64_t capacity) {
  struct cgpu_words words = {.out = out, .capacity = capacity};
  for (unsigned i = 0; i < count; i++) cgpu_words_put_region(&words, &files[i]);
  return words.bytes;
}
