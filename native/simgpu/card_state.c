/* card_state.c - the folder of a simulated machine: created once, checked and mapped by everybody. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "card_internal.h"
#include "card_ofd.h"

struct sg_state *sg_state;
char *sg_said;

static struct sg_opened folder_opened = {-1, 0, 0};
static struct sg_opened vram[SG_MAX_CARDS] = {[0 ... SG_MAX_CARDS - 1] = {-1, 0, 0}};

void sg_say(const char *format, ...) {
  char line[SG_SAY_BYTES];
  va_list args;
  va_start(args, format);
  vsnprintf(sg_said ? sg_said : line, SG_SAY_BYTES, format, args);
  va_end(args);
  if (!sg_said) fprintf(stderr, "cgpu simulated GPU: %s\n", line);
}

uint64_t sg_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The text of a small file without its last newline; empty when it cannot be read. */
static void read_line(const char *path, char *text, size_t bytes) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t got = file < 0 ? -1 : read(file, text, bytes - 1);
  if (file >= 0) close(file);
  text[got > 0 ? got : 0] = 0;
  text[strcspn(text, "\n")] = 0;
}

static int make_folders(const char *folder) {
  char path[4096];
  if ((size_t)snprintf(path, sizeof path, "%s", folder) >= sizeof path) return -ENAMETOOLONG;
  for (char *slash = path + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
    *slash = 0;
    if (mkdir(path, 0755) != 0 && errno != EEXIST) return -errno;
  }
  return mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : -errno;
}

static int remember(int file, struct sg_opened *opened) {
  struct stat status;
  if (file < 0) return -1;
  if (fstat(file, &status) != 0) {
    close(file);
    return -1;
  }
  *opened = (struct sg_opened){file, (uint64_t)status.st_dev, (uint64_t)status.st_ino};
  return 0;
}

bool sg_still_open(const struct sg_opened *opened) {
  struct stat status;
  return opened->file >= 0 && fstat(opened->file, &status) == 0 && (uint64_t)status.st_dev == opened->device &&
         (uint64_t)status.st_ino == opened->inode;
}

void sg_close(struct sg_opened *opened) {
  if (sg_still_open(opened)) close(opened->file);
  opened->file = -1;
}

/* Processes of other containers, with other users, use the file too. */
int sg_open_shared(const char *name, struct sg_opened *opened) {
  int file = openat(folder_opened.file, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  struct stat status;
  if (file >= 0 && fstat(file, &status) == 0 && status.st_uid == geteuid()) (void)fchmod(file, 0666);
  return remember(file, opened);
}

static void fill(struct sg_state *state, const struct sg_profile *profile) {
  state->version = SG_VERSION;
  state->size_bytes = sizeof *state;
  read_line("/proc/sys/kernel/random/boot_id", state->boot_id, sizeof state->boot_id);
  int random = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  if (random < 0 || read(random, state->random, sizeof state->random) != (ssize_t)sizeof state->random)
    memset(state->random, 0x5a, sizeof state->random); /* uuids are then the same in every folder */
  if (random >= 0) close(random);
  state->machine = profile->machine;
  state->time_ns = state->created_ns = state->swept_ns = sg_now_ns();
  for (int i = 0; i < profile->machine.cards; i++) {
    struct sg_card_info *info = &state->info[i];
    *info = profile->card;
    memcpy(info->uuid, state->random, sizeof info->uuid);
    info->uuid[6] = (uint8_t)((info->uuid[6] & 0x0f) | 0x40); /* RFC 4122: random, version 4 */
    info->uuid[8] = (uint8_t)((info->uuid[8] & 0x3f) | 0x80);
    info->uuid[15] = (uint8_t)(info->uuid[15] + i);
    info->pci_bus += (uint32_t)i;
    struct sg_card_state *card = &state->card[i];
    card->granules = (uint32_t)((info->total_bytes - info->reserved_bytes) / SG_GRANULE_BYTES);
    card->granules_free = card->granules;
    card->since_ns = state->time_ns;
    card->extents = (uint32_t)i + 1; /* the first records are the cards' whole memories */
    state->extent[i + 1] = (struct sg_extent){0, 0, card->granules, 0};
  }
  state->extent_pool.fresh = (uint32_t)profile->machine.cards + 1;
  state->extent_pool.used = (uint32_t)profile->machine.cards;
  state->magic = SG_MAGIC;
}

/* Builds the state under another name; the rename makes it exist at once or not at all. */
static int create_state(const struct sg_profile *profile) {
  struct sg_opened made;
  if (sg_open_shared("state.new", &made) != 0) return -errno;
  void *map = MAP_FAILED;
  int file = made.file;
  int rc = ftruncate(file, 0) == 0 && ftruncate(file, sizeof(struct sg_state)) == 0 ? 0 : -errno;
  /* Memory of a card that is freed is given back to the file system through holes. */
  if (rc == 0 && fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) != 0) rc = -errno;
  if (rc == 0) map = mmap(NULL, sizeof(struct sg_state), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (rc == 0 && map == MAP_FAILED) rc = -errno;
  close(file);
  if (rc != 0) return rc;
  fill(map, profile);
  munmap(map, sizeof(struct sg_state));
  return renameat(folder_opened.file, "state.new", folder_opened.file, "state") == 0 ? 0 : -errno;
}

/* Creates the state if there is none, one process at a time. */
static int ensure_state(const char *folder, const struct sg_create *create) {
  struct sg_profile profile;
  char cause[512];
  struct sg_opened locks = {-1, 0, 0};
  if (sg_open_shared("locks", &locks) != 0 || sg_ofd_lock_wait(locks.file, SG_LOCK_CREATE) != 0) {
    sg_say("%s/locks: %s", folder, strerror(errno));
    sg_close(&locks);
    return SG_E_STATE;
  }
  int rc = SG_OK;
  if (faccessat(folder_opened.file, "state", F_OK, 0) == 0) goto out;
  rc = SG_E_STATE;
  if (!create || !create->profile) {
    sg_say("%s holds no machine, and no profile says what to make (CGPU_SIM_PROFILE)", folder);
  } else if (!sg_profile_read(create->profile, create->driver, create->cards, &profile, cause, sizeof cause)) {
    sg_say("%s", cause);
  } else {
    int made = create_state(&profile);
    if (made == 0) rc = SG_OK;
    else sg_say("cannot create %s/state: %s", folder, strerror(-made));
  }
out:
  sg_close(&locks); /* and with it the lock */
  return rc;
}

/* Why a state file cannot be used; null when it can. */
static const char *refusal(const struct sg_state *state, off_t size) {
  char boot_id[sizeof state->boot_id];
  if ((size_t)size < offsetof(struct sg_state, machine) || state->magic != SG_MAGIC)
    return "is not the state of a simulated machine";
  if (state->version != SG_VERSION || state->size_bytes != sizeof *state || (uint64_t)size != state->size_bytes)
    return "is truncated or of another version of cgpu: remove the folder and create the machine again";
  read_line("/proc/sys/kernel/random/boot_id", boot_id, sizeof boot_id);
  if (strcmp(boot_id, state->boot_id) != 0)
    return "is from before the last boot: remove the folder and create the machine again";
  return NULL;
}

static int map_state(const char *folder) {
  struct stat status;
  int file = openat(folder_opened.file, "state", O_RDWR | O_CLOEXEC);
  if (file < 0 || fstat(file, &status) != 0) {
    sg_say("%s/state: %s", folder, strerror(errno));
    if (file >= 0) close(file);
    return SG_E_STATE;
  }
  /* The header first: a shorter file must not be touched beyond its end. */
  size_t bytes = (uint64_t)status.st_size < sizeof(struct sg_state) ? (size_t)status.st_size : sizeof(struct sg_state);
  void *map = bytes ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  close(file);
  const char *cause = map == MAP_FAILED ? "cannot be mapped" : refusal(map, status.st_size);
  if (cause) {
    sg_say("%s/state %s", folder, cause);
    if (map != MAP_FAILED) munmap(map, bytes);
    return SG_E_STATE;
  }
  sg_state = map;
  return SG_OK;
}

int sg_open_state(const char *folder, const struct sg_create *create) {
  int made = create ? make_folders(folder) : 0;
  int opened = remember(open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC), &folder_opened);
  if (made != 0 || opened != 0) {
    sg_say("%s: %s", folder, strerror(made ? -made : errno));
    sg_close_state();
    return SG_E_STATE;
  }
  int rc = ensure_state(folder, create);
  if (rc == SG_OK) rc = map_state(folder);
  if (rc != SG_OK) sg_close_state();
  return rc;
}

void sg_close_state(void) {
  for (int card = 0; card < SG_MAX_CARDS; card++) sg_close(&vram[card]);
  if (sg_state) munmap(sg_state, sizeof *sg_state);
  sg_state = NULL;
  sg_close(&folder_opened);
}

int sg_vram(int card) { /* with the lock held */
  struct sg_opened *opened = &vram[card];
  if (opened->file >= 0) return sg_still_open(opened) ? opened->file : SG_E_LOST;
  char name[32];
  snprintf(name, sizeof name, "vram-%d", card);
  if (!sg_still_open(&folder_opened)) return SG_E_LOST;
  if (sg_open_shared(name, opened) != 0) return SG_E_STATE;
  off_t bytes = (off_t)sg_state->card[card].granules * SG_GRANULE_BYTES;
  struct stat status;
  if (fstat(opened->file, &status) == 0 && (status.st_size >= bytes || ftruncate(opened->file, bytes) == 0))
    return opened->file;
  sg_close(opened);
  return SG_E_STATE;
}

const struct sg_machine_info *sg_machine(void) { return sg_state ? &sg_state->machine : NULL; }

const struct sg_card_info *sg_card(int card) {
  return sg_state && card >= 0 && card < sg_state->machine.cards ? &sg_state->info[card] : NULL;
}
