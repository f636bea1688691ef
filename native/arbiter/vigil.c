/* vigil.c - waits until something is not as it was: at regions, at cards, or at files' names.
 *
 * On a node where nothing happens the agent has to look more often than every second, to find nothing. From Python,
 * whose own code is no longer in the processor's caches then, a look takes ten times as long as from here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include "futex_words.h"
#include "words.h"

#define NS_PER_MS 1000000u

/* NVML's: nvmlProcessInfo_t of r510 and later, nvmlMemory_t, and the functions that fill them. */
struct process_row {
  uint32_t pid;
  uint64_t used_bytes;
  uint32_t gpu_instance, compute_instance;
};
struct memory_row {
  uint64_t total_bytes, free_bytes, used_bytes;
};
typedef int list_function(void *device, uint32_t *count, struct process_row *rows);
typedef int memory_function(void *device, struct memory_row *row);

struct cgpu_arbiter_card {
  void *device;
  list_function *list[2]; /* the driver's lists of processes */
  memory_function *memory;
};

struct cgpu_arbiter_sights {
  const struct cgpu_arbiter_files *files;
  const struct cgpu_arbiter_card *cards;
  const char *const *names; /* of files: whether they are there, and the same */
  uint32_t file_count, card_count, name_count;
};

#define PROCESSES_MAX 512u

static void put_list(struct cgpu_words *words, void *device, list_function *list) {
  static _Thread_local struct process_row rows[PROCESSES_MAX];
  uint32_t count = PROCESSES_MAX;
  int code = list(device, &count, rows);
  cgpu_words_put(words, &code, sizeof code);
  cgpu_words_put(words, &count, sizeof count);
  if (count > PROCESSES_MAX) {
    static uint64_t never_twice;
    cgpu_words_put(words, &(uint64_t){__atomic_add_fetch(&never_twice, 1, __ATOMIC_RELAXED)}, sizeof never_twice);
  }
  for (uint32_t i = 0; code == 0 && i < count && i < PROCESSES_MAX; i++) { /* what is between the fields, nobody sets */
    cgpu_words_put(words, &rows[i].pid, sizeof rows[i].pid);
    cgpu_words_put(words, &rows[i].used_bytes, sizeof rows[i].used_bytes);
  }
}

static void put_card(struct cgpu_words *words, const struct cgpu_arbiter_card *card) {
  struct memory_row memory = {0};
  for (unsigned i = 0; i < 2; i++) put_list(words, card->device, card->list[i]);
  int code = card->memory(card->device, &memory);
  cgpu_words_put(words, &code, sizeof code);
  cgpu_words_put(words, &memory.used_bytes, sizeof memory.used_bytes);
}

static void put_name(struct cgpu_words *words, const char *name) {
  struct stat status = {0};
  uint64_t identity[2] = {0};
  if (lstat(name, &status) == 0) {
    identity[0] = status.st_dev;
    identity[1] = status.st_ino;
  }
  cgpu_words_put(words, identity, sizeof identity);
}

/* Writes what there is to see; a card with more than PROCESSES_MAX processes is never seen twice alike. Returns how many
 * bytes it is; where that is more than `capacity`, what was written is of no use. */
CGPU_ARBITER_API uint64_t cgpu_arbiter_see(const struct cgpu_arbiter_sights *sights, void *out, uint64_t capacity) {
  struct cgpu_words words = {.out = out, .capacity = capacity, .work = true};
  for (uint32_t i = 0; i < sights->file_count; i++) cgpu_words_put_region(&words, &sights->files[i]);
  for (uint32_t i = 0; i < sights->card_count; i++) put_card(&words, &sights->cards[i]);
  for (uint32_t i = 0; i < sights->name_count; i++) put_name(&words, sights->names[i]);
  return words.bytes;
}

enum { VIGIL_OVER, VIGIL_CALLED, VIGIL_SEEN };

/* Waits until one of the files of an epoll is ready, and stays so, or a signal comes (VIGIL_CALLED), until something is
 * not as `known`, which cgpu_arbiter_see has written (VIGIL_SEEN), or for so long (VIGIL_OVER). Looks once in each
 * period. The files of regions may be closed meanwhile, and their numbers be others': they are only read. -ENOMEM: no
 * memory to look. */
CGPU_ARBITER_API int cgpu_arbiter_vigil(const struct cgpu_arbiter_sights *sights, const void *known, uint64_t bytes,
                                        int epoll, uint64_t period_ns, uint64_t length_ns) {
  unsigned char *seen = malloc(bytes ? bytes : 1);
  if (!seen) return -ENOMEM;
  uint64_t end_ns = futex_now_ns() + length_ns;
  int result = VIGIL_OVER;
  for (uint64_t now = futex_now_ns(); now < end_ns && result == VIGIL_OVER; now = futex_now_ns()) {
    uint64_t rest_ns = end_ns - now < period_ns ? end_ns - now : period_ns;
    struct epoll_event event;
    int ready = epoll_wait(epoll, &event, 1, (int)(rest_ns / NS_PER_MS) + 1);
    if (ready) result = VIGIL_CALLED;
    else if (cgpu_arbiter_see(sights, seen, bytes) != bytes || memcmp(seen, known, bytes) != 0) result = VIGIL_SEEN;
  }
  free(seen);
  return result;
}
